"""Fused weights to an .onnx file that takes streams, proven before it has its name."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import (
    FUSED_SUFFIX,
    StrPath,
    as_path,
    checked_output,
    existing,
    onnx_path,
    whole_file,
)
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import Difference
from stdeploy.artifacts.spec import DEFAULT_WINDOW_FRAMES, Precision, StreamSpec
from stdeploy.backends.loader import open_backend, open_runtime
from stdeploy.backends.signature import stream_tensors
from stdeploy.backends.streams import ClipsOfStreams
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.datasets.loader import NamedVideos
from stdeploy.errors import ArtifactError, ParityError, SpecError, check_choice
from stdeploy.export.onnx import (
    HALF,
    ExportResult,
    calibration_clips,
    save_graph,
    unproven_card,
)
from stdeploy.export.onnx_verification import Parent
from stdeploy.export.stream_verification import (
    WholeVideo,
    check_numbers,
    frames_to_compare,
    proven_streaming,
    video_row,
    whole_video,
)
from stdeploy.export.torch_to_onnx import torch_to_onnx
from stdeploy.export.verification import check, check_verifiable, prove, prover, thresholds
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import halve_trunk
from stdeploy.models.streaming import StreamingNetwork, streaming_form
from stdeploy.optional_packages import require

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


def export_stream(
    fused: StrPath,
    output: StrPath | None = None,
    *,
    frames_per_call: int | None = None,
    window: int = DEFAULT_WINDOW_FRAMES,
    precision: Precision = "fp32",
    calibrate: StrPath | NamedVideos | None = None,
    max_clips: int = 32,
    allow: Mapping[str, float] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> ExportResult:
    """Export the streaming form of a fused network, see `stdeploy.models.streaming`.

    It is compared with the network that sees a whole video at once, from the first frame to the
    last; and on clips, each of them a stream with two ends, with the network that sees them alone.

    Args:
        fused: a .fused.safetensors file.
        output: where to write; None puts ckpt.stream.onnx beside ckpt.fused.safetensors.
        frames_per_call: K, frames of each stream that a call takes; a multiple of the network's
            stride in time; None for that stride.
        window: frames, at the clip's interval, that an answer is about; a multiple of that stride.
        precision: of the convolutions and of the states, "fp32" or "fp16".
        calibrate: real videos, for a sharper gate.
        max_clips: most clips of them, at least 1.
        allow: thresholds of the gate to use instead of those in parity.py, by name.
        progress: is told what is done, how much of it and of how much.
        tell: is told which videos are of no use.

    Raises:
        ArtifactError: the file cannot be used or is not fused.
        SpecError: a network that cannot be streamed, or a number that does not fit it.
        ParityError: the streaming form, or its graph, answers differently; nothing is written.
        MissingExtraError: onnxscript or ONNX Runtime is not installed.
    """
    check_choice("precision of a stream", precision, _PRECISIONS)
    require("onnxscript", extra="export", purpose="exporting to ONNX")
    check_verifiable(precision)
    fused = existing(as_path(fused, "a fused network"))
    default = (
        onnx_path(fused, precision, "stream") if output is None else as_path(output, "an output")
    )
    path = checked_output(default, ".onnx", source=fused)
    allowed = thresholds(precision, allow or {})
    if not fused.name.endswith(FUSED_SUFFIX):
        raise SpecError(f"a stream is made of a *{FUSED_SUFFIX} file, which {str(fused)!r} is not")
    model, card = load_model(fused)
    if not card.model.fused:
        command = f"stdeploy fuse {shlex.quote(str(fused))}"
        raise ArtifactError(f"{str(fused)!r} is not fused yet; run: {command}")
    spec = streaming_form(model, card.clip, frames_per_call=frames_per_call, window=window).spec
    _check_clip(card, spec)
    progress("comparing the streaming form", 0, 1)
    rows = proven_streaming(model, card, spec, fused)
    clips = calibration_clips(card, precision, calibrate, max_clips, progress)
    for text in clips.notes if clips else ():
        tell(text)
    parent = Parent.of(model, card, fused, clips, progress)
    card = unproven_card(card, fused, precision, clips).model_copy(update={"parity": rows})
    video = golden_clip(card.golden.seed, (frames_to_compare(spec), *card.clip.frames_shape[1:]))
    progress("comparing a whole video", 0, 1)
    expected = whole_video(model, card.clip, video)
    if precision != "fp32":
        model = halve_trunk(model, HALF[precision])
    network = streaming_form(model, card.clip, frames_per_call=frames_per_call, window=window)
    card = card.model_copy(update={"form": "stream", "stream": network.spec})
    card = _write_proven(path, network, card, parent, allowed, (video, expected), progress)
    return ExportResult(path, card)


def _check_clip(card: ModelCard, spec: StreamSpec) -> None:
    if card.clip.num_frames % spec.stride_frames:
        raise SpecError(
            f"the network strides by {spec.stride_frames} frames in time, and its clips have "
            f"{card.clip.num_frames}; a multiple is wanted: stdeploy card FILE --set num_frames=N"
        )


def _write_proven(
    path: Path,
    network: StreamingNetwork,
    card: ModelCard,
    parent: Parent,
    allowed: Difference,
    whole: tuple[np.ndarray, WholeVideo],
    progress: Progress,
) -> ModelCard:
    """Write the file once it is proven; the card inside it."""
    precision, options = card.precision, prover(card.precision)
    source, outcome = f"{card.lineage.parent!r} as a stream in {precision}", "nothing was written"
    with whole_file(path) as temporary:
        progress("writing the graph", 0, 1)
        graph = to_stream_onnx(network, card)
        numbers = check_numbers(graph, network, precision, source=source)
        save_graph(graph, card, temporary)
        with open_backend(temporary, card, options) as runtime:
            assert isinstance(runtime, ClipsOfStreams)
            on_video = video_row(runtime.streams, *whole, precision)
            if not on_video.passed:
                raise ParityError(
                    f"{source} differs from the network that sees a whole video by "
                    f"{on_video.error:.1e}, allowed {on_video.tolerance:.0e}; {outcome}"
                )
            proof = prove(runtime, parent.reference, allowed, progress=progress)
        check(proof, source=source, outcome=outcome, may_allow=precision != "fp32")
        golden = card.golden.model_copy(
            update={"verified": None if precision == "fp32" else proof.golden}
        )
        rows = (*card.parity, numbers, on_video, *proof.rows)
        card = card.model_copy(update={"parity": rows, "golden": golden})
        save_graph(graph, card, temporary)
        open_runtime(temporary, options=options).close()
    return card


def to_stream_onnx(network: StreamingNetwork, card: ModelCard) -> onnx.ModelProto:
    """The graph of a streaming network; see `stdeploy.backends.signature.stream_tensors`.

    Args:
        network: on the CPU.
        card: of the file.
    """
    spec, side = network.spec, card.clip.crop_px
    inputs, outputs = stream_tensors(card)
    frames = torch.zeros((2 * spec.frames_per_call, side, side, 3), dtype=torch.uint8)
    numbers = [torch.zeros(2, dtype=torch.int32) for _ in range(2)]
    states = [
        torch.full((2, *state.shape), state.fill, dtype=getattr(torch, state.type))
        for state in spec.states
    ]
    streams = torch.export.Dim("streams")
    shapes = (
        {0: streams if spec.frames_per_call == 1 else spec.frames_per_call * streams},
        {0: streams},
        {0: streams},
        [{0: streams} for _ in states],
    )
    return torch_to_onnx(
        network,
        (frames, *numbers, states),
        dynamic_shapes=shapes,
        precision=card.precision,
        input_names=[name for name, *_ in inputs],
        output_names=[name for name, *_ in outputs],
    )
