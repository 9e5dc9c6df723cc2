"""The contract of every backend, what can be asked of one, and the checks they share."""

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.card import ModelCard
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.spec import Precision

Backend = Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"]
Device = Literal["auto", "cpu", "cuda"]
# Of a tensor: name, type as NumPy writes it, shape with None for what is dynamic.
Described = tuple[str, str, tuple[int | None, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """What a user asks of a runtime. What is asked for is given or refused, never replaced.

    Attributes:
        backend: "auto" chooses by the rule of choice.py.
        device: "auto" takes an NVIDIA GPU where the backend and the host have one.
        precision: arithmetic of the convolutions; None takes the artifact's.
        allow_cpu: run on the CPU where the GPU that was asked for cannot be used.
        compile: torch only: generate code with torch.compile.
        cuda_graphs: torch and TensorRT on a GPU: replay one CUDA graph per batch size.
        threads: of the CPU; None leaves it to the backend.
        rebuild: TensorRT only: build an engine that does not fit this host again.
        emulate: run a precision that this processor only emulates, slowly; for verifying.
    """

    backend: Backend = "auto"
    device: Device = "auto"
    precision: Precision | None = None
    allow_cpu: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    threads: int | None = None
    rebuild: bool = False
    emulate: bool = False


DEFAULT_OPTIONS = RuntimeOptions()


class RunsClips(Protocol):
    """What classifies clips.

    Attributes:
        name: of the backend.
        device: where it really runs, in words.
        precision: arithmetic of its convolutions.
    """

    name: str
    device: str
    precision: Precision

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map uint8 frames (N, T, H, W, 3), RGB, to logits (N, K).

        Raises:
            ArtifactError: shape or type of the frames are not those of the artifact.
        """
        ...

    def close(self) -> None:
        """Release what is held; harmless when called twice."""
        ...


class Runtime(RunsClips, Protocol):
    """An opened artifact that classifies clips; a context manager."""

    @classmethod
    def open(cls, artifact: Path, card: ModelCard, options: RuntimeOptions) -> Self:
        """Load an artifact.

        Args:
            artifact: the file.
            card: its card.
            options: what is asked for.

        Raises:
            ArtifactError: the file does not fit its card or cannot be loaded.
            BackendError: the backend, its device or its precision is not there.
        """
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


def check_frames(frames: NDArray[np.uint8], card: ModelCard) -> None:
    """Check that frames are what an artifact takes, before a backend sees them.

    Raises:
        ArtifactError: they are not.
    """
    expected = card.clip.frames_shape
    if (
        frames.dtype != np.uint8
        or frames.ndim != 5
        or frames.shape[1:] != expected
        or not len(frames)
    ):
        needed = ", ".join(str(size) for size in expected)
        raise ArtifactError(
            f"frames are {frames.dtype} {frames.shape}; this artifact takes uint8 (N, {needed}), "
            "N at least 1"
        )


def check_signature(
    artifact: Path,
    card: ModelCard,
    inputs: list[Described],
    outputs: list[Described],
) -> None:
    """Check names, types and shapes of what an artifact takes and gives.

    Args:
        artifact: the file, for the error.
        card: what is expected.
        inputs: all of them.
        outputs: all of them.

    Raises:
        ArtifactError: they are not what the card announces.
    """
    frames, classes = card.clip.frames_shape, card.model.num_classes
    if (
        [tensor[:2] for tensor in inputs] != [("frames", "uint8")]
        or inputs[0][2][1:] != frames
        or [tensor[:2] for tensor in outputs] != [("logits", "float32")]
        or outputs[0][2][1:] not in ((classes,), (None,))
    ):
        raise ArtifactError(
            f"{str(artifact)!r} takes {inputs} and gives {outputs}; its card announces "
            f"uint8 'frames' (N, {', '.join(map(str, frames))}) and float32 'logits' "
            f"(N, {classes})"
        )
    if inputs[0][2][0] is not None:
        raise ArtifactError(
            f"{str(artifact)!r} is frozen at batch {inputs[0][2][0]}; export it again"
        )


def only(backend: str, options: RuntimeOptions, *allowed: str) -> None:
    """Refuse options that mean nothing to a backend.

    Args:
        backend: its name, for the error.
        options: what is asked for.
        allowed: names of those options among compile, cuda_graphs and rebuild that it has.

    Raises:
        SpecError: one is set that it does not have.
    """
    for name in ("compile", "cuda_graphs", "rebuild"):
        if getattr(options, name) and name not in allowed:
            flag = name.replace("_", "-")
            raise SpecError(f"{backend} has no --{flag}; leave it out or choose another backend")
