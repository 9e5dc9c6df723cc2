"""The interpreter of the onnx package, in NumPy: slow, and right by definition.

The example of a backend in CONTRIBUTING.md.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx.helper import tensor_dtype_to_np_dtype

from stdeploy.artifacts.card import ModelCard
from stdeploy.backends.base import BaseRuntime, RuntimeOptions
from stdeploy.backends.signature import Described, check_frames, check_signature
from stdeploy.errors import ArtifactError
from stdeploy.optional_packages import require


class ReferenceRuntime(BaseRuntime):
    """An .onnx artifact, evaluated node by node."""

    name = "reference"
    library = "onnx"

    def __init__(self, evaluator: Any, card: ModelCard) -> None:
        self._evaluator = evaluator
        self._card = card
        self.precision = card.precision
        self.device = "CPU"

    @classmethod
    def open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Self:
        """Load an artifact; see `BaseRuntime.open`."""
        cls.as_written(artifact, card, options)
        onnx = require("onnx.reference", extra="cpu", purpose="the reference backend")
        try:
            evaluator = onnx.ReferenceEvaluator(str(artifact))
        except Exception as error:  # a damaged file raises anything
            raise ArtifactError(f"{str(artifact)!r} cannot be loaded by onnx: {error}") from error
        graph = evaluator.proto_.graph
        check_signature(
            artifact,
            card,
            [_described(t) for t in graph.input],
            [_described(t) for t in graph.output],
        )
        return cls(evaluator, card)

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify clips; see `RunsClips.run`."""
        check_frames(frames, self._card)
        (logits,) = self._evaluator.run(["logits"], {"frames": frames})
        return np.asarray(logits, dtype=np.float32)

    def close(self) -> None:
        """Release the graph."""
        self._evaluator = None


def _described(tensor: Any) -> Described:
    kind = tensor.type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    return tensor.name, tensor_dtype_to_np_dtype(kind.elem_type).name, tuple(sizes)
