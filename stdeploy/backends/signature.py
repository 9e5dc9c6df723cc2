"""What an artifact takes and gives: frames, and tensors by name, type and shape."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.frames import Frames, on_host
from stdeploy.errors import ArtifactError

# Of a tensor: name, type as NumPy writes it, shape with None for what is dynamic.
Described = tuple[str, str, tuple[int | None, ...]]


def check_frames(frames: Frames, card: ModelCard) -> None:
    """Check that frames are what an artifact takes, before a backend sees them.

    Raises:
        ArtifactError: they are not.
    """
    expected = card.clip.frames_shape
    if (
        str(frames.dtype) not in ("uint8", "torch.uint8")
        or frames.ndim != 5
        or tuple(frames.shape[1:]) != expected
        or not len(frames)
    ):
        needed = ", ".join(str(size) for size in expected)
        raise ArtifactError(
            f"frames are {frames.dtype} {tuple(frames.shape)}; this artifact takes uint8 "
            f"(N, {needed}), N at least 1"
        )


def as_input(frames: Frames, card: ModelCard) -> NDArray[np.generic]:
    """Frames as an artifact takes them.

    Args:
        frames: uint8 (N, T, H, W, 3).
        card: of the artifact.

    Returns:
        Contiguous; the same pixels, float32 (N, 3, T, H, W) of 0 to 255 for "float-ncthw".

    Raises:
        ArtifactError: shape or type of the frames are not those of the artifact.
    """
    check_frames(frames, card)
    frames = on_host(frames)
    if card.input == "float-ncthw":
        return np.ascontiguousarray(frames.transpose(0, 4, 1, 2, 3), dtype=np.float32)
    return np.ascontiguousarray(frames)


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
    if card.stream is not None:
        _check_stream(artifact, card, inputs, outputs)
        return
    frames, classes = card.input_shape, card.model.num_classes
    if (
        [tensor[:2] for tensor in inputs] != [("frames", card.input_type)]
        or inputs[0][2][1:] != frames
        or [tensor[:2] for tensor in outputs] != [("logits", "float32")]
        or outputs[0][2][1:] not in ((classes,), (None,))
    ):
        raise ArtifactError(
            f"{str(artifact)!r} takes {inputs} and gives {outputs}; its card announces "
            f"{card.input_type} 'frames' (N, {', '.join(map(str, frames))}) and float32 'logits' "
            f"(N, {classes})"
        )
    if inputs[0][2][0] is not None:
        raise ArtifactError(
            f"{str(artifact)!r} is frozen at batch {inputs[0][2][0]}; export it again"
        )


def stream_tensors(card: ModelCard) -> tuple[list[Described], list[Described]]:
    """What an .onnx file of a stream takes and gives; its first axis is that of the streams.

    Args:
        card: of the file.
    """
    spec, classes = card.stream, card.model.num_classes
    assert spec is not None
    frames = (None, card.clip.crop_px, card.clip.crop_px, 3)
    states = [(state.name, state.type, (None, *state.shape)) for state in spec.states]
    inputs = [
        ("frames", "uint8", frames),
        ("position", "int32", (None,)),
        ("length", "int32", (None,)),
        *((f"state.{name}", kind, shape) for name, kind, shape in states),
    ]
    outputs = [
        ("logits", "float32", (None, classes)),
        ("places", "float32", (None, spec.places_per_call, classes)),
        *((f"next.{name}", kind, shape) for name, kind, shape in states),
    ]
    return inputs, outputs


def _check_stream(
    artifact: Path, card: ModelCard, inputs: list[Described], outputs: list[Described]
) -> None:
    for what, found, expected in zip(
        ("takes", "gives"), (inputs, outputs), stream_tensors(card), strict=True
    ):
        if found != expected:
            pairs = zip(found, expected, strict=False)
            wrong = next((pair for pair in pairs if pair[0] != pair[1]), None)
            counts = f"{len(found)} tensors, not the {len(expected)}"
            said = f"{wrong[0]}, not the {wrong[1]}" if wrong else counts
            raise ArtifactError(
                f"{str(artifact)!r} {what} {said} that its card announces; export it again"
            )
