"""The contract of every backend, the checks they share, and the choice between them."""

import importlib
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.card import ModelCard, read_card
from stdeploy.errors import ArtifactError
from stdeploy.golden import check_golden, golden_clip
from stdeploy.parity import RUNTIME_TOLERANCE

# Suffix of an artifact -> module and class of its backend. Imported when needed: a host that
# serves .onnx files has no torch.
_BACKENDS = {
    ".onnx": ("stdeploy.runtime.onnxruntime", "OnnxRuntime"),
    ".safetensors": ("stdeploy.runtime.torch", "TorchRuntime"),
    ".pt": ("stdeploy.runtime.torch", "TorchRuntime"),
}


class Runtime(Protocol):
    """An opened artifact that classifies clips; a context manager.

    Attributes:
        name: of the backend.
        device: where it really runs, in words.
    """

    name: str
    device: str

    @classmethod
    def open(cls, artifact: Path, card: ModelCard) -> Self:
        """Load an artifact.

        Args:
            artifact: the file.
            card: its card.

        Raises:
            ArtifactError: the file does not fit its card or cannot be loaded.
            BackendError: the backend is not installed here.
        """
        ...

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map uint8 frames (N, T, H, W, 3), RGB, to logits (N, K).

        Raises:
            ArtifactError: shape or type of the frames are not those of the artifact.
        """
        ...

    def close(self) -> None:
        """Release what is held; harmless when called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ClosesOnExit:
    """The context-manager half of a runtime."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what is held."""


def open_runtime(artifact: Path, card: ModelCard | None = None) -> Runtime:
    """Open an artifact with the backend for its kind, and make it answer the golden clip.

    Args:
        artifact: a .onnx, .fused.safetensors or .pt file.
        card: its card, if it has been read already.

    Raises:
        ArtifactError: it cannot be used; ParityError where its answer is wrong.
        BackendError: the backend is not installed here.
    """
    if artifact.suffix not in _BACKENDS:
        raise ArtifactError(
            f"{str(artifact)!r}: no backend runs {artifact.suffix or 'such'} files; "
            f"give one of {', '.join(_BACKENDS)}"
        )
    card = read_card(artifact) if card is None else card
    module, name = _BACKENDS[artifact.suffix]
    backend: type[Runtime] = getattr(importlib.import_module(module), name)
    runtime = backend.open(artifact, card)
    try:
        replay_golden(runtime, card, source=artifact.name)
    except BaseException:
        runtime.close()
        raise
    return runtime


def replay_golden(runtime: Runtime, card: ModelCard, *, source: str) -> float:
    """Let a runtime classify the golden clip of a card.

    Args:
        runtime: an opened one.
        card: holds the seed and the right answer.
        source: the artifact, for the error.

    Returns:
        Relative error.

    Raises:
        ParityError: the answer is wrong.
    """
    frames = golden_clip(card.golden.seed, card.clip.frames_shape)[None]
    return check_golden(
        card.golden.logits,
        runtime.run(frames)[0],
        tolerance=RUNTIME_TOLERANCE,
        source=f"{source!r} on {runtime.name} ({runtime.device})",
    )


def check_frames(frames: NDArray[np.uint8], card: ModelCard) -> None:
    """Check that frames are what an artifact takes, before a backend sees them.

    Raises:
        ArtifactError: they are not.
    """
    expected = card.clip.frames_shape
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[1:] != expected:
        needed = ", ".join(str(size) for size in expected)
        raise ArtifactError(
            f"frames are {frames.dtype} {frames.shape}; this artifact takes uint8 (N, {needed})"
        )
