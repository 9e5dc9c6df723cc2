"""The streaming form against the network that sees a whole video at once."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from stdeploy.artifacts.card import ModelCard, ParityRow
from stdeploy.artifacts.parity import RUNTIME_TOLERANCE, STREAM_TOLERANCE, relative_error, scale_of
from stdeploy.artifacts.spec import Arithmetic, ClipSpec, Precision, StreamSpec
from stdeploy.backends.streams import StreamRuntime, place_weights, places_of
from stdeploy.backends.torch_streams import TorchStreams
from stdeploy.errors import ParityError
from stdeploy.models.base import ActionModel
from stdeploy.models.frames_to_logits import FramesToLogits
from stdeploy.models.planar_modules import pooled_over_space
from stdeploy.models.streaming import StreamingNetwork, streaming_form

# Sides change nothing of what is compared, and float64 convolutions unfold their input.
_MAX_SIDE_PX = 32
_STREAMS = (1, 4)
_DTYPES: dict[Arithmetic, torch.dtype] = {"fp64": torch.float64, "fp32": torch.float32}


class WholeVideo(NamedTuple):
    """What a network says that sees all frames of a video at once.

    Attributes:
        places: logits (places, classes) of each place in time.
        magnitude: the largest sum of magnitudes of what the classifier adds up.
    """

    places: NDArray[np.float64]
    magnitude: float


def whole_video(model: ActionModel, clip: ClipSpec, frames: NDArray[np.uint8]) -> WholeVideo:
    """Run a network over a whole video, as if it were one clip.

    Args:
        model: fused, with 3D convolutions.
        clip: how its pixels are normalised.
        frames: uint8 (T, H, W, 3).
    """
    normalise = FramesToLogits(model, clip).normalise
    classifier = model.head.classifier
    with torch.inference_mode():
        x = normalise(torch.from_numpy(frames[None])).to(next(model.parameters()).dtype)
        features = model.forward_features(x)[0].transpose(0, 1)
        pooled = pooled_over_space(features, model.head.window_side).to(classifier.weight.dtype)
        places: Tensor = classifier(pooled)
        terms = nn.functional.linear(pooled.abs(), classifier.weight.abs(), classifier.bias.abs())
    return WholeVideo(places.double().numpy(), float(terms.max()))


def frames_to_compare(spec: StreamSpec) -> int:
    """How many frames of a video show its start, its middle, its end, and more than a window."""
    behind = spec.delay_places * spec.stride_frames
    wanted = max(spec.window_frames, 2 * behind) + behind + 2 * spec.frames_per_call
    return -(-wanted // spec.frames_per_call) * spec.frames_per_call


def windows_of(places: NDArray[np.float64], spec: StreamSpec) -> NDArray[np.float64]:
    """What each call has to answer about a video, from the first one that has an answer.

    The window ends at the newest place that is known; of those behind the end of the video, which
    come with the last calls, none counts.

    Args:
        places: logits (places, classes) of the whole video.
        spec: of the streaming form.

    Returns:
        (calls, classes).
    """
    window = spec.window_frames // spec.stride_frames
    calls = len(places) // spec.places_per_call + spec.calls_behind
    averages = []
    for call in range(1, calls + 1):
        end = call * spec.places_per_call - spec.delay_places
        part = places[max(0, end - window) : max(0, end)]
        if len(part):
            averages.append(place_weights(len(part), spec.sliding_places) @ part)
    return np.array(averages)


def verify_streaming(
    model: ActionModel, clip: ClipSpec, spec: StreamSpec, *, seed: int
) -> Iterator[ParityRow]:
    """Compare the streaming form with the network, in float64 and in float32, on noise.

    Streams begin one call after the other, so that each is at another frame; each is compared from
    its first frame to its last, place by place and window by window.

    Args:
        model: fused, in evaluation mode.
        clip: what the network sees; frames here have at most 32 x 32 pixels.
        spec: of the streaming form.
        seed: of the noise.

    Yields:
        One row a type and a number of streams; errors are relative to what the classifier adds up.
    """
    side = min(clip.crop_px, _MAX_SIDE_PX)
    small = clip.model_copy(update={"crop_px": side, "short_side_px": max(side, 8)})
    length = frames_to_compare(spec)
    noise = np.random.default_rng(seed)
    videos = noise.integers(0, 256, (max(_STREAMS), length, side, side, 3), dtype=np.uint8)
    for precision, dtype in _DTYPES.items():
        network = copy.deepcopy(model).to(dtype)
        expected = [whole_video(network, small, video) for video in videos]
        streaming = streaming_form(
            network,
            small,
            frames_per_call=spec.frames_per_call,
            window=spec.window_frames,
        )
        session = TorchStreams(streaming, "fp32", device="CPU")
        for count in _STREAMS:
            found = staggered(session, videos[:count])
            error = max(
                relative_error(right, answer, scale=whole.magnitude)
                for whole, (places, windows) in zip(expected[:count], found, strict=True)
                for right, answer in (
                    (whole.places, places),
                    (windows_of(whole.places, spec), windows),
                )
            )
            yield ParityRow(
                check=f"streaming form in {precision}, {count} stream{'s' if count > 1 else ''}",
                precision=precision,
                error=error,
                tolerance=STREAM_TOLERANCE[precision],
                detail=f"{length}x{side}x{side}",
            )


def staggered(
    session: TorchStreams, videos: NDArray[np.uint8]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Feed videos as streams of which each begins a call after the one before.

    Args:
        session: of the streaming form.
        videos: uint8 (N, T, H, W, 3), T a multiple of K.

    Returns:
        For each the logits (places, classes) of its places, and of the window after each call that
        has one.
    """
    spec = session.spec
    count, length = videos.shape[:2]
    states = session.join([session.start() for _ in range(count)])
    calls = length // spec.frames_per_call + spec.calls_behind
    places: list[list[NDArray[np.float32]]] = [[] for _ in range(count)]
    windows: list[list[NDArray[np.float32]]] = [[] for _ in range(count)]
    for call in range(calls + count - 1):
        if 0 < call < count:  # a stream begins: what its place in the batch held is gone
            rows = session.split(states)
            rows[call] = session.start()
            states = session.join(rows)
        begun = np.maximum(call - np.arange(count), 0) * spec.frames_per_call
        answer, states = session.run(
            np.concatenate(
                [_next(video, at, spec) for video, at in zip(videos, begun, strict=True)]
            ),
            begun.astype(np.int32),
            np.full(count, length, dtype=np.int32),
            states,
        )
        for row in range(count):
            if 0 <= call - row < calls:
                places[row].append(answer.places[row])
                if (call - row + 1) * spec.places_per_call > spec.delay_places:
                    windows[row].append(answer.logits[row])
    whole = length // spec.stride_frames
    return [
        (np.concatenate(each)[spec.delay_places :][:whole].astype(np.float64), np.array(shown))
        for each, shown in zip(places, windows, strict=True)
    ]


def _next(video: NDArray[np.uint8], at: int, spec: StreamSpec) -> NDArray[np.uint8]:
    """The next K frames; behind the end the first ones again, which nothing may notice."""
    frames = video[at : at + spec.frames_per_call]
    return frames if len(frames) else video[: spec.frames_per_call]


def proven_streaming(
    model: ActionModel, card: ModelCard, spec: StreamSpec, fused: Path
) -> tuple[ParityRow, ...]:
    """Compare the streaming form of fused weights with them.

    Args:
        model: the network.
        card: its card.
        spec: of the streaming form.
        fused: the file, for the error.

    Raises:
        ParityError: it computes something else.
    """
    rows = tuple(verify_streaming(model, card.clip, spec, seed=card.golden.seed))
    for row in rows:
        if not row.passed:
            raise ParityError(
                f"the streaming form of {fused.name!r} differs from it: {row.check} in "
                f"{row.precision} {row.error:.1e}, allowed {row.tolerance:.0e}; nothing was "
                "written, please report it"
            )
    return rows


def video_row(
    runtime: StreamRuntime, video: NDArray[np.uint8], expected: WholeVideo, precision: Precision
) -> ParityRow:
    """Compare a file with the network on a whole video, in full size.

    Args:
        runtime: the file, opened.
        video: uint8 (T, H, W, 3).
        expected: what the network says in float32.
        precision: of the file.
    """
    (places,) = places_of(video[None], [runtime.begin(len(video))], runtime)
    whole = expected.places
    scale = scale_of(whole, expected.magnitude)
    tolerance = STREAM_TOLERANCE["fp32"] if precision == "fp32" else RUNTIME_TOLERANCE[precision]
    return ParityRow(
        check=f"{runtime.session.name}, whole video",
        precision=precision,
        error=relative_error(whole, places[: len(whole)], scale),
        tolerance=tolerance,
        detail="x".join(map(str, video.shape[:3])),
    )


def check_numbers(
    graph: onnx.ModelProto, network: StreamingNetwork, precision: Precision, *, source: str
) -> ParityRow:
    """Compare the kernels and biases that a graph holds with those of the network, bit by bit.

    Args:
        graph: as it is written.
        network: that it was made from.
        precision: of both.
        source: what is compared, as the subject of a sentence.

    Raises:
        ParityError: one is not there, or is another.
    """
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    parameters: Sequence[tuple[str, nn.Parameter]] = list(network.named_parameters())
    for name, parameter in parameters:
        held = stored.get(name)
        if held is None or not np.array_equal(
            numpy_helper.to_array(held), parameter.detach().numpy()
        ):
            raise ParityError(
                f"{source} holds other numbers than its parent, in {name!r}; nothing was written, "
                "please report it"
            )
    return ParityRow(
        check="kernels, numbers that differ",
        precision=precision,
        error=0.0,
        tolerance=0.0,
        detail=f"{len(parameters)} tensors",
    )
