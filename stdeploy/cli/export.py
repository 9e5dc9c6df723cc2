"""stdeploy export: fused weights to files of other runtimes, in any precision, each one proven."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.files import ENGINE_SUFFIX, FUSED_SUFFIX, ONNX_SUFFIX, existing, newest
from stdeploy.artifacts.spec import DEFAULT_WINDOW_FRAMES, ForeignSpec
from stdeploy.backends.tensorrt_builder import BuildOptions
from stdeploy.cli.export_writers import (
    Gate,
    Package,
    Stream,
    put_on_triton,
    videos_named,
    write_engine,
    write_float_input,
    write_onnx,
    write_openvino,
    write_package,
    write_program,
    write_stream,
)
from stdeploy.cli.options import DeviceName, FormName, InputName, PrecisionName
from stdeploy.errors import ArtifactError, SpecError

if TYPE_CHECKING:
    pass


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
_Aot = Annotated[
    bool,
    typer.Option(
        "--aot",
        help="Instead: compile a package for torch on the GPU of this host (--device cpu: for its "
        "processor), which opens without compiling: an .aot.pt2 file and its sidecar.",
    ),
]
_Device = Annotated[
    DeviceName, typer.Option("--device", help="What --aot compiles for. auto: the GPU if any.")
]
_Autotune = Annotated[
    bool, typer.Option("--autotune", help="With --aot: time every kernel, for minutes.")
]
_Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Instead: write an .onnx file that takes new frames and what its layers kept of old "
        "ones, for live video: ckpt.stream.onnx.",
    ),
]
_FramesPerCall = Annotated[
    int | None,
    typer.Option(
        "--frames-per-call",
        min=1,
        help="With --stream: new frames at a time; a multiple of the network's stride in time.",
        show_default="that stride",
    ),
]
_Window = Annotated[
    int | None,
    typer.Option(
        "--window", min=1, help="With --stream: frames that an answer is about.", show_default="64"
    ),
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
        help="Batch to be fastest at, and largest, of an engine or on Triton; --aot takes any.",
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
    aot: _Aot = False,
    device: _Device = DeviceName.AUTO,
    autotune: _Autotune = False,
    stream: _Stream = False,
    frames_per_call: _FramesPerCall = None,
    window: _Window = None,
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
    gate = Gate(allow=_thresholds(allow or []), max_clips=calibration_clips)
    others = (input_format is InputName.FLOAT, openvino, pt2, trt, triton)
    if stream:
        _refuse_beside("--stream", (aot, form is not FormName.CONV3D, *others))
        wanted = Stream(frames_per_call, window or DEFAULT_WINDOW_FRAMES)
        write_stream(fused, output, precision, wanted, calibrate, gate)
        return
    if frames_per_call or window:
        raise SpecError("--frames-per-call and --window are for live video: add --stream")
    if aot:
        _refuse_beside("--aot", (output, False, *others))
        batch = _batches(batches or "1,1")[0]
        write_package(
            fused, Package(precision, form, device, batch, autotune=autotune), calibrate, gate
        )
        return
    _check_belong(
        package=autotune or device is not DeviceName.AUTO,
        engine=not trt and bool(target or any_gpu or any_version),
        triton=triton is None and name is not None,
    )
    float_input = input_format is InputName.FLOAT
    remakes = float_input or openvino or trt  # makes other files of an .onnx file
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
        if fused is not None and _is_for_triton(fused, written=written, remakes=remakes):
            if batches and fused.suffix == ENGINE_SUFFIX:
                raise SpecError(f"{str(fused)!r} has its batches already; leave --batches out")
            put_on_triton(fused, triton, name, engine.batches)
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
    if not exports:
        changed = precision is not PrecisionName.FP32 or planar or (output and not float_input)
        _check_remade(source, remakes=remakes, changed=bool(changed))
    found = videos_named(calibrate)
    artifact = write_onnx(source, output, precision, form, found, gate) if exports else source
    if float_input:
        artifact = write_float_input(artifact, None if exports else output, found, gate)
    if openvino:
        write_openvino(artifact, found, gate)
    if pt2:
        write_program(source, input_format, found, gate)
    if trt:
        artifact = write_engine(artifact, engine, found, gate, calibrated=exports)
    if triton is not None:
        put_on_triton(artifact, triton, name, engine.batches)


def _check_belong(*, package: bool, engine: bool, triton: bool) -> None:
    """Refuse options of what is not made: of a package, an engine, a model on Triton."""
    if package:
        raise SpecError("--device and --autotune are for packages: add --aot")
    if engine:
        raise SpecError("--target and the --...-compatible options are for engines: add --trt")
    if triton:
        raise SpecError("--name is of a model on Triton: add --triton DIR")


def _is_for_triton(artifact: Path, *, written: bool, remakes: bool) -> bool:
    """Whether an artifact goes to Triton as it is.

    Raises:
        SpecError: it is what the other options ask for already.
    """
    exported = artifact.suffix in (ONNX_SUFFIX, ENGINE_SUFFIX)
    if not exported or remakes or (written and _lowers(artifact)):
        return False
    if written:
        raise _is_exported(artifact)
    return True


def _check_remade(artifact: Path, *, remakes: bool, changed: bool) -> None:
    """Refuse an .onnx file of which nothing is made, or which is to be another."""
    if not remakes:
        raise SpecError(
            f"{str(artifact)!r} is exported already; --trt builds an engine from it, --openvino "
            "and --input float-ncthw make other files"
        )
    if changed:
        raise _is_exported(artifact)


def _refuse_beside(mode: str, others: tuple[object, ...]) -> None:
    """Refuse what is made of the usual .onnx file, or is one, where none is written."""
    first = ("--output", "--form") if mode == "--aot" else ("--aot", "--form")
    names = (*first, "--input", "--openvino", "--pt2", "--trt", "--triton")
    given = [name for name, value in zip(names, others, strict=True) if value]
    if given:
        reason = "compiles the fused network" if mode == "--aot" else "writes a file for streams"
        raise SpecError(
            f"{mode} {reason} and writes no usual .onnx file; leave {', '.join(given)} out, or "
            "export twice"
        )


def _check_program_possible(source: Path, precision: PrecisionName) -> None:
    """Refuse a program of torch that cannot be made, before anything is written."""
    if source.suffix == ONNX_SUFFIX:
        raise SpecError(f"--pt2 takes a *{FUSED_SUFFIX} file, and {str(source)!r} is a graph")
    if precision is not PrecisionName.FP32:
        raise SpecError(f"--pt2 writes fp32; leave --precision {precision.value} out")


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
