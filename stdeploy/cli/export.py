"""stdeploy export: fused weights to files of other runtimes, in any precision, each one proven."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from rich.table import Table

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.files import ENGINE_SUFFIX, FUSED_SUFFIX, ONNX_SUFFIX, existing, newest
from stdeploy.artifacts.spec import ForeignSpec
from stdeploy.backends.tensorrt_builder import BuildOptions
from stdeploy.cli.console import announced, note, out, phase_bars
from stdeploy.cli.options import FormName, InputName, PrecisionName
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stdeploy.artifacts.card import ParityRow
    from stdeploy.datasets.loader import NamedVideos


_Fused = Annotated[
    Path | None,
    typer.Argument(
        help="Default: the newest *.fused.safetensors of this folder. An .onnx file for "
        "--input, --openvino, --trt or --triton alone, or an imported one for lower precisions; "
        "an .engine file for --triton."
    ),
]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Default: ckpt.onnx beside the weights.")
]
_Precision = Annotated[PrecisionName, typer.Option("--precision", help="Of the convolutions.")]
_Form = Annotated[
    FormName,
    typer.Option("--form", help="planar: 2D convolutions of stacked frames instead of 3D ones."),
]
_Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        help="Real videos, which int8 needs: a folder of them, a .csv list, or a data set, of "
        "which only what is trained on is taken.",
        metavar="DATA",
    ),
]
_CalibrationClips = Annotated[
    int, typer.Option("--calibration-clips", min=1, max=1000, help="Most clips of them.")
]
_Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", help="A threshold of the gate, such as kl_nats=0.1; repeatable."),
]
_Input = Annotated[
    InputName,
    typer.Option(
        "--input",
        help="float-ncthw: also write an .onnx file that takes float32 (N, 3, T, H, W), 0 to 255, "
        "for programs that hand over no uint8 frames. What follows is made from that one.",
    ),
]
_OpenVino = Annotated[
    bool, typer.Option("--openvino", help="Also write OpenVINO IR: an .xml and a .bin file.")
]
_Pt2 = Annotated[
    bool, typer.Option("--pt2", help="Also write a program of torch.export, in fp32: a .pt2 file.")
]
_Trt = Annotated[bool, typer.Option("--trt", help="Also build a TensorRT engine.")]
_Target = Annotated[
    str | None,
    typer.Option(
        "--target", help="Compute capabilities to build for without a GPU: sm86,sm89,sm120."
    ),
]
_Batches = Annotated[
    str | None,
    typer.Option(
        "--batches",
        help="Batch to be fastest at, and largest, of an engine or on Triton.",
        show_default="1,8",
    ),
]
_WorkspaceGib = Annotated[
    float, typer.Option("--workspace-gib", min=0.0, help="Memory for TensorRT's tactics.")
]
_AnyGpu = Annotated[
    bool,
    typer.Option("--hardware-compatible", help="The engine also runs on newer GPUs; slower."),
]
_AnyVersion = Annotated[
    bool,
    typer.Option("--version-compatible", help="The engine also runs on newer TensorRT."),
]
_Triton = Annotated[
    Path | None,
    typer.Option(
        "--triton",
        help="Also put the .onnx file, or the engine, into this model repository of Triton.",
        show_default=False,
    ),
]
_Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="With --triton: of the model. Default: the file's.", show_default=False
    ),
]


def command(
    fused: _Fused = None,
    output: _Output = None,
    precision: _Precision = PrecisionName.FP32,
    form: _Form = FormName.CONV3D,
    calibrate: _Calibrate = None,
    calibration_clips: _CalibrationClips = 32,
    allow: _Allow = None,
    input_format: _Input = InputName.UINT8,
    openvino: _OpenVino = False,
    pt2: _Pt2 = False,
    trt: _Trt = False,
    target: _Target = None,
    batches: _Batches = None,
    workspace_gib: _WorkspaceGib = 4.0,
    any_gpu: _AnyGpu = False,
    any_version: _AnyVersion = False,
    triton: _Triton = None,
    name: _Name = None,
) -> None:
    """Write one self-contained .onnx file: uint8 frames in, logits out, any batch size.

    It has to give the logits of the fused network, within the thresholds of its precision, at
    batches 1, 2 and 5, on the golden clip and on the clips of --calibrate, or nothing is written.
    What is made of it is compared in the same way.
    """
    if not trt and (target or any_gpu or any_version):
        raise SpecError("--target and the --...-compatible options are for engines: add --trt")
    if triton is None and name is not None:
        raise SpecError("--name is of a model on Triton: add --triton DIR")
    float_input = input_format is InputName.FLOAT
    remakes = float_input or openvino or trt  # makes other files of an .onnx file
    gate: _Gate = {"allow": _thresholds(allow or []), "max_clips": calibration_clips}
    engine = BuildOptions(
        batches=_batches(batches or "1,8"),
        targets=tuple(target.split(",")) if target else (),
        workspace_gib=workspace_gib,
        hardware_compatible=any_gpu,
        version_compatible=any_version,
    )
    planar = form is FormName.PLANAR
    # What an .onnx file has already.
    written = bool(output) or precision is not PrecisionName.FP32 or planar
    if triton is not None:
        from stdeploy.export.triton import check_planned

        check_planned(name, precision.value, engine=trt, ahead_of_time=target is not None)
        exported = fused is not None and fused.suffix in (ONNX_SUFFIX, ENGINE_SUFFIX)
        if fused is not None and exported and not remakes and not (written and _lowers(fused)):
            if written:
                raise _is_exported(fused)
            if batches and fused.suffix == ENGINE_SUFFIX:
                raise SpecError(f"{str(fused)!r} has its batches already; leave --batches out")
            _put_on_triton(fused, triton, name, engine.batches)
            return
    if fused is not None:
        existing(fused)  # before torch, which takes seconds to import
    if trt:
        from stdeploy.export.engine import checked_options

        engine = checked_options(engine)
    source = fused or newest(Path(), FUSED_SUFFIX, made_by="stdeploy fuse ckpt.pt")
    exports = source.suffix != ONNX_SUFFIX or (written and _lowers(source))
    if pt2:
        _check_program_possible(source, precision)
    if not exports and not remakes:
        raise SpecError(
            f"{str(source)!r} is exported already; --trt builds an engine from it, --openvino and "
            "--input float-ncthw make other files"
        )
    if not exports and (
        precision is not PrecisionName.FP32 or planar or (output and not float_input)
    ):
        raise _is_exported(source)
    found = _videos_named(calibrate)
    artifact = _export(source, output, precision, form, found, gate) if exports else source
    if float_input:
        artifact = _write_float_input(artifact, None if exports else output, found, gate)
    if openvino:
        _write_openvino(artifact, found, gate)
    if pt2:
        _write_program(source, input_format, found, gate)
    if trt:
        artifact = _build(artifact, engine, found, gate, calibrated=exports)
    if triton is not None:
        _put_on_triton(artifact, triton, name, engine.batches)


class _Gate(TypedDict):
    """What judges an export and an engine alike."""

    allow: dict[str, float]
    max_clips: int


def _videos_named(calibrate: Path | None) -> "NamedVideos | None":
    """The videos of --calibrate, and what exporting needs, which takes seconds to import."""
    found = None
    loading = "loading PyTorch and ONNX"
    with phase_bars("looking for videos" if calibrate else loading) as progress:
        if calibrate is not None:
            from stdeploy.datasets.loader import videos_of

            found = videos_of(calibrate, "train")
            if words := found.passed_over.in_words():
                note(f"{calibrate}: {words}")
            progress(loading, 0, 1)
        require("torch", extra="export", purpose="exporting")
        import stdeploy.export.engine
        import stdeploy.export.onnx  # noqa: F401 - while the bar is shown
    return found


def _export(
    fused: Path,
    output: Path | None,
    precision: PrecisionName,
    form: FormName,
    found: "NamedVideos | None",
    gate: _Gate,
) -> Path:
    """Write and show an .onnx file."""
    from stdeploy.export.onnx import export_onnx

    what = f"exporting {fused} in {precision.value}"
    if found:
        use = "calibrating" if precision is PrecisionName.INT8 else "comparing"
        what += f", {use} on {found.some(gate['max_clips'])}"
    with phase_bars(f"opening {fused.name}") as progress:
        result = export_onnx(
            fused,
            output,
            precision=precision.value,
            form=form.value,
            calibrate=found,
            progress=announced(what, progress),
            tell=note,
            **gate,
        )
    parent = "imported" if isinstance(result.card.model, ForeignSpec) else "fused"
    _print_parity(result.parity, f"{result.card.precision} against the {parent} network")
    if result.card.kept:
        out.print(f"kept in fp32: {', '.join(result.card.kept)}", soft_wrap=True, markup=False)
    _print_written(result.path)
    if precision is not PrecisionName.FP32 or form is FormName.PLANAR:
        note(f"without --model, classify and serve take the newest .onnx: {result.path.name}")
    return result.path


def _build(
    onnx_file: Path,
    options: BuildOptions,
    found: "NamedVideos | None",
    gate: _Gate,
    *,
    calibrated: bool,
) -> Path:
    """Write and show an engine; of videos that were `calibrated` on all has been said."""
    from stdeploy.export.engine import build_engine

    what = f"building an engine from {onnx_file}"
    if found:
        what += f", comparing on {found.some(gate['max_clips'])}"
    with phase_bars(f"opening {onnx_file.name}") as progress:
        built = build_engine(
            onnx_file,
            options,
            calibrate=found,
            progress=announced(what, progress),
            tell=(lambda _text: None) if calibrated else note,
            **gate,
        )
    for line in built.notes:
        note(line)
    _print_written(built.path)
    return built.path


def _write_float_input(
    onnx_file: Path, output: Path | None, found: "NamedVideos | None", gate: _Gate
) -> Path:
    """Write and show the file that takes float32."""
    from stdeploy.export.float_input import export_float_input

    with phase_bars(f"opening {onnx_file.name}") as progress:
        result = export_float_input(
            onnx_file,
            output,
            calibrate=found,
            progress=announced(f"writing {onnx_file} once more for float-ncthw", progress),
            tell=note,
            **gate,
        )
    _print_parity(result.parity, f"{InputName.FLOAT.value} against {onnx_file.name}")
    _print_written(result.path)
    return result.path


def _write_openvino(onnx_file: Path, found: "NamedVideos | None", gate: _Gate) -> None:
    """Write and show the files of OpenVINO."""
    from stdeploy.export.openvino_ir import export_openvino

    with phase_bars(f"opening {onnx_file.name}") as progress:
        result = export_openvino(
            onnx_file,
            calibrate=found,
            progress=announced(f"writing {onnx_file} as OpenVINO IR", progress),
            tell=note,
            **gate,
        )
    _print_parity(result.parity, f"OpenVINO IR against {onnx_file.name}")
    _print_written(result.path)
    _print_written(result.weights)


def _check_program_possible(source: Path, precision: PrecisionName) -> None:
    """Refuse a program of torch that cannot be made, before anything is written."""
    if source.suffix == ONNX_SUFFIX:
        raise SpecError(f"--pt2 takes a *{FUSED_SUFFIX} file, and {str(source)!r} is a graph")
    if precision is not PrecisionName.FP32:
        raise SpecError(f"--pt2 writes fp32; leave --precision {precision.value} out")


def _write_program(
    fused: Path, input_format: InputName, found: "NamedVideos | None", gate: _Gate
) -> None:
    """Write and show the program of torch.export."""
    from stdeploy.export.torch_program import export_torch_program

    with phase_bars(f"opening {fused.name}") as progress:
        result = export_torch_program(
            fused,
            input_format=input_format.value,
            calibrate=found,
            progress=announced(f"writing {fused} as a program of torch.export", progress),
            tell=note,
            **gate,
        )
    _print_parity(result.parity, f"torch.export against {fused.name}")
    _print_written(result.path)


def _is_exported(artifact: Path) -> SpecError:
    return SpecError(
        f"{str(artifact)!r} has its precision, form and name already; give the "
        f"*{FUSED_SUFFIX} file to export in another"
    )


def _lowers(artifact: Path) -> bool:
    """Whether lower precisions are made of this .onnx file: another project's network."""
    if artifact.suffix != ONNX_SUFFIX or not artifact.is_file():
        return False
    try:
        card = read_card(artifact)
    except ArtifactError:  # what is wrong with it is said by what opens it
        return False
    return isinstance(card.model, ForeignSpec) and card.precision == "fp32"


def _print_written(path: Path) -> None:
    out.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", soft_wrap=True, markup=False)


def _put_on_triton(
    artifact: Path, repository: Path, name: str | None, batches: tuple[int, int]
) -> None:
    from stdeploy.export.triton import write_triton

    model = write_triton(artifact, repository, name=name, batches=batches)
    if not model.added:
        note(f"{model.folder} holds this artifact already")
    if model.note:
        note(model.note)
    out.print(str(model.folder), soft_wrap=True, markup=False)


def _print_parity(parity: "Sequence[ParityRow]", title: str) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("check", "on"):
        table.add_column(name)
    for name in ("error", "allowed"):
        table.add_column(name, justify="right")
    for row in parity:
        table.add_row(row.check, row.detail, f"{row.error:.1e}", f"{row.tolerance:.1e}")
    out.print(table)


def _thresholds(texts: list[str]) -> dict[str, float]:
    """`name=number` texts."""
    values = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            raise SpecError(f"--allow {text!r}: write name=number, such as kl_nats=0.1") from None
    return values


def _batches(text: str) -> tuple[int, int]:
    try:
        best, largest = (int(part) for part in text.split(","))
    except ValueError:
        raise SpecError(f"--batches {text!r}: write best,largest, such as 4,8") from None
    if not 1 <= best <= largest:
        raise SpecError(f"--batches {text!r}: need 1 <= best <= largest")
    return best, largest
