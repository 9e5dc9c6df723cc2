"""Fused weights to one self-contained .onnx file that is proven before it gets its name."""

import dataclasses
import importlib.util
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard, ParityRow, read_card
from stdeploy.artifacts.digest import OnnxFile
from stdeploy.artifacts.files import (
    FUSED_SUFFIX,
    ONNX_SUFFIX,
    StrPath,
    as_path,
    checked_output,
    existing,
    onnx_path,
    whole_file,
)
from stdeploy.artifacts.parity import Difference
from stdeploy.artifacts.spec import ForeignSpec, Form, Precision
from stdeploy.backends.base import Backend, RuntimeOptions
from stdeploy.backends.loader import open_backend, open_runtime
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.datasets.loader import NamedVideos
from stdeploy.errors import ArtifactError, SpecError, check_choice
from stdeploy.export.calibration import CalibrationClips, named_videos, read_calibration
from stdeploy.export.graph_precision import graph_in
from stdeploy.export.onnx_verification import Parent
from stdeploy.export.planar_verification import proven_planar
from stdeploy.export.torch_to_onnx import OPSETS, torch_to_onnx
from stdeploy.export.verification import Reference, check_verifiable, prove_file, prover, thresholds
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import FramesToLogits, halve_trunk
from stdeploy.optional_packages import require

FORMS: tuple[Form, ...] = ("conv3d", "planar")  # a stream is written by export_stream
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        path: the .onnx file.
        card: the card inside it, with every comparison that it passed.
    """

    path: Path
    card: ModelCard

    @property
    def parity(self) -> tuple[ParityRow, ...]:
        """Every comparison with the fused network, all of them passed."""
        return self.card.parity


def export_onnx(
    fused: StrPath,
    output: StrPath | None = None,
    *,
    precision: Precision = "fp32",
    form: Form = "conv3d",
    calibrate: StrPath | NamedVideos | None = None,
    max_clips: int = 32,
    allow: Mapping[str, float] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> ExportResult:
    """Export a fused network: uint8 frames (N, T, H, W, 3) in, logits (N, K) out, any N.

    Args:
        fused: a .fused.safetensors file; or, for lower precisions, the .onnx file that
            `import_onnx` made of another project's network.
        output: where to write; None puts ckpt.onnx (or ckpt.int8.onnx) beside
            ckpt.fused.safetensors.
        precision: arithmetic of the convolutions; the head is in fp32 always.
        form: "planar" has 2D convolutions of stacked frames instead of 3D ones, which compute the
            same, see `stdeploy.models.planar`.
        calibrate: real videos; needed for int8, and a sharper gate for the others. A folder, a .csv
            list, or a data set, of which only training videos are taken.
        max_clips: most clips of them, at least 1.
        allow: thresholds of the gate to use instead of those in parity.py, by name.
        progress: is told what is done, how much of it and of how much.
        tell: is told which videos are of no use, and that there are few.

    Raises:
        ArtifactError: the file cannot be used or is not fused.
        SpecError: int8 without calibration clips, an unknown precision, form or threshold, or a
            network whose planar form is not known.
        DatasetError: no video gives a clip that shows something, or for int8 one alone does.
        ParityError: the exported network answers differently; nothing is written.
        BackendError: this processor cannot verify the precision.
        MissingExtraError: onnxscript, ONNX Runtime or, for bf16, OpenVINO is not installed.
    """
    _check_possible(precision)
    check_choice("form", form, FORMS)
    fused = existing(as_path(fused, "a fused network"))
    graph = fused.with_name(fused.name.removesuffix(ONNX_SUFFIX) + FUSED_SUFFIX)
    path = checked_output(
        onnx_path(graph if fused.suffix == ONNX_SUFFIX else fused, precision, form)
        if output is None
        else as_path(output, "an output"),
        ".onnx",
        source=fused,
    )
    allowed = thresholds(precision, allow or {})
    if fused.suffix == ONNX_SUFFIX:
        if form != "conv3d":
            raise SpecError(
                f"{str(fused)!r} is a graph, and its {form} form is made of a *{FUSED_SUFFIX} file"
            )
        return _export_graph(
            fused, path, precision, calibrate, max_clips, allowed, progress=progress, tell=tell
        )
    model, card = load_model(fused)
    if not card.model.fused:
        command = f"stdeploy fuse {shlex.quote(str(fused))}"
        raise ArtifactError(f"{str(fused)!r} is not fused yet; run: {command}")
    clips = calibration_clips(card, precision, calibrate, max_clips, progress)
    for text in clips.notes if clips else ():
        tell(text)
    parent = Parent.of(model, card, fused, clips, progress, form=form)
    card = unproven_card(card, fused, precision, clips).model_copy(update={"form": form})
    if form == "planar":
        rows, model = proven_planar(model, card, fused)
        card = card.model_copy(update={"parity": rows})
    card = _write_proven(path, lambda: to_onnx(model, card), card, clips, parent, allowed, progress)
    return ExportResult(path, card)


def _export_graph(
    artifact: Path,
    path: Path,
    precision: Precision,
    calibrate: StrPath | NamedVideos | None,
    max_clips: int,
    allowed: Difference,
    *,
    progress: Progress,
    tell: Callable[[str], None],
) -> ExportResult:
    """Write another project's network, imported as a graph, in lower precision."""
    card = read_card(artifact)
    if not isinstance(card.model, ForeignSpec) or card.precision != "fp32":
        raise ArtifactError(
            f"{str(artifact)!r} has its precision, form and name already; give the *{FUSED_SUFFIX} "
            "file to export in another, or of another project's network the imported file"
        )
    if precision == "fp32":
        raise SpecError(f"{str(artifact)!r} is in fp32 already; choose a lower precision")
    graph = onnx.load(artifact)
    clips = calibration_clips(card, precision, calibrate, max_clips, progress)
    for text in clips.notes if clips else ():
        tell(text)
    with open_runtime(artifact, card, prover("fp32")) as runtime:
        parent = Parent.of_graph(runtime, artifact, card, clips, progress)
    if parent.layers is None:
        tell("its graph is compared by its answers alone: its layers are none that can be compared")
    card = unproven_card(card, artifact, precision, clips)
    card = _write_proven(
        path, lambda: graph_in(precision, graph), card, clips, parent, allowed, progress
    )
    return ExportResult(path, card)


def unproven_card(
    card: ModelCard, parent: Path, precision: Precision, clips: CalibrationClips | None
) -> ModelCard:
    """The card of what is made from a file, without the comparisons."""
    return card.model_copy(
        update={
            "lineage": card.lineage.of_child(
                parent, torch=torch.__version__, onnx=onnx.__version__
            ),
            "precision": precision,
            "calibration": clips.record if clips else None,
            "parity": (),
        }
    )


def _write_proven(
    path: Path,
    make: Callable[[], onnx.ModelProto],
    card: ModelCard,
    clips: CalibrationClips | None,
    parent: Parent,
    allowed: Difference,
    progress: Progress,
) -> ModelCard:
    """Write the file once it is proven; the card inside it."""
    precision = card.precision
    source, outcome = f"{card.lineage.parent!r} in {precision}", "nothing was written"
    with whole_file(path) as temporary:
        if precision == "int8":
            assert clips is not None
            graph, kept = _int8(make(), card, clips, parent.reference, allowed, temporary, progress)
            card = card.model_copy(update={"kept": kept})
        else:
            progress("writing the graph", 0, 1)
            graph = make()
        save_graph(graph, card, temporary)
        proof = parent.verify(
            temporary,
            card,
            allowed,
            progress,
            source=source,
            outcome=outcome,
            may_allow=precision != "fp32",
        )
        golden = card.golden.model_copy(
            update={"verified": None if precision == "fp32" else proof.golden}
        )
        rows = (*card.parity, *proof.rows)
        card = card.model_copy(update={"parity": rows, "golden": golden})
        save_graph(graph, card, temporary)
        # What was proven is a file without these rows; the file that stays is looked at once more.
        parent.check_kernels(temporary, precision, source=source, outcome=outcome)
        open_runtime(temporary, options=prover(precision)).close()
    return card


def _check_possible(precision: Precision) -> None:
    """Refuse what cannot be written or verified here, before any work."""
    check_choice("precision", precision, OPSETS)
    require("onnxscript", extra="export", purpose="exporting to ONNX")
    check_verifiable(precision)


def to_onnx(model: ActionModel, card: ModelCard) -> onnx.ModelProto:
    """The graph of a fused network: fp32, or with its trunk in half precision.

    Args:
        model: fused, fp32; for half precision its trunk is changed in place.
        card: for the clip and the precision; int8 gives the fp32 graph that it starts from.
    """
    if card.precision in HALF:
        model = halve_trunk(model, HALF[card.precision])
    graph = FramesToLogits(model, card.clip).eval()
    example = torch.zeros((2, *card.clip.frames_shape), dtype=torch.uint8)
    return torch_to_onnx(
        graph,
        (example,),
        dynamic_shapes={"frames": {0: torch.export.Dim("batch")}},
        precision=card.precision,
        input_names=["frames"],
        output_names=["logits"],
    )


def calibration_clips(
    card: ModelCard,
    precision: Precision,
    calibrate: StrPath | NamedVideos | None,
    max_clips: int,
    progress: Progress,
) -> CalibrationClips | None:
    """Real clips for a precision, where videos are named.

    Raises:
        SpecError: int8 without videos, or no clips wanted.
        DatasetError: no video gives a clip that shows something.
    """
    if calibrate is None:
        if precision == "int8":
            raise SpecError(
                "int8 takes the ranges of its numbers from real clips; name videos like those to "
                "be classified, or what the network was trained on: --calibrate DATA"
            )
        return None
    if max_clips < 1:
        raise SpecError(f"max_clips {max_clips}: at least 1 is wanted")
    return read_calibration(
        named_videos(calibrate),
        card.clip,
        max_clips=max_clips,
        hold_out=precision == "int8",
        progress=lambda done, total: progress("reading clips", done, total),
    )


def _int8(
    graph: onnx.ModelProto,
    card: ModelCard,
    clips: CalibrationClips,
    reference: Reference,
    allowed: Difference,
    temporary: Path,
    progress: Progress,
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph with as many layers in int8 as pass the gate, and the names of the others."""
    progress("measuring ranges", 0, 1)
    # OpenVINO is several times faster in int8; what passes there is proven by ONNX Runtime too.
    fast: Backend = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
    options = RuntimeOptions(backend=fast, device="cpu")

    def answer(tried: onnx.ModelProto, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        save_graph(tried, card, temporary)
        with open_backend(temporary, card, options) as runtime:
            return np.concatenate([runtime.run(clip[None]) for clip in frames])

    def failures(tried: onnx.ModelProto, kept: int) -> list[ParityRow]:
        def told(what: str, done: int, total: int) -> None:
            progress(f"{what}, kept in fp32: {kept}", done, total)

        save_graph(tried, card, temporary)
        for runtime in dict.fromkeys((options, prover("int8"))):
            failed = prove_file(temporary, card, reference, allowed, runtime, told).failed
            if failed:
                return failed
        return []

    # Here, because it loads onnxruntime; where that is missing, `export_onnx` says so first.
    from stdeploy.export.quantise import Int8Search

    search = Int8Search(graph, clips.for_ranges, answer)
    return search.run(failures, lambda done, total: progress("finding spoilers", done, total))


def save_graph(graph: onnx.ModelProto, card: ModelCard, path: Path) -> None:
    """Write a graph with a card and the digest of both."""
    del graph.metadata_props[:]
    file = OnnxFile.of(memoryview(graph.SerializeToString()))
    file.with_card(card.to_json()).write(path)
