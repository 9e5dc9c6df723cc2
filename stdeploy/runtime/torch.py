"""PyTorch in float32 on the CPU: runs checkpoints and fused weights as they are."""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.card import ModelCard
from stdeploy.errors import require
from stdeploy.runtime.base import ClosesOnExit, check_frames

require("torch", extra="train", purpose="running a .pt or .safetensors file")

from stdeploy.models.base import ActionModel  # noqa: E402 - after the check for torch
from stdeploy.models.checkpoint import load_model  # noqa: E402
from stdeploy.models.inference import logits_of  # noqa: E402


class TorchRuntime(ClosesOnExit):
    """A network of torch in evaluation mode."""

    name = "torch"

    def __init__(self, model: ActionModel, card: ModelCard) -> None:
        self._model = model
        self._card = card
        self.device = "CPU"

    @classmethod
    def open(cls, artifact: Path, card: ModelCard) -> Self:
        """Load an artifact; see `Runtime.open`."""
        model, _ = load_model(artifact)
        return cls(model, card)

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify clips; see `Runtime.run`."""
        check_frames(frames, self._card)
        return logits_of(self._model, self._card.clip, frames).astype(np.float32)
