"""What `stdeploy export` writes: each kind of file, with its bar, its comparisons and its size."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from rich.table import Table

from stdeploy.artifacts.files import FUSED_SUFFIX, existing, newest
from stdeploy.artifacts.spec import ForeignSpec
from stdeploy.backends.tensorrt_builder import BuildOptions
from stdeploy.cli.console import announced, note, out, phase_bars
from stdeploy.cli.options import DeviceName, FormName, InputName, PrecisionName
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stdeploy.artifacts.card import ParityRow
    from stdeploy.datasets.loader import NamedVideos


class Gate(TypedDict):
    """What judges an export and an engine alike."""

    allow: dict[str, float]
    max_clips: int


class Package(NamedTuple):
    """What a package of AOTInductor is to be."""

    precision: PrecisionName
    form: FormName
    device: DeviceName
    batch: int
    autotune: bool


class Stream(NamedTuple):
    """What a file for streams is to be."""

    frames_per_call: int | None
    window: int


def write_package(fused: Path | None, package: Package, calibrate: Path | None, gate: Gate) -> None:
    """Write and show a package of AOTInductor."""
    source = existing(fused or newest(Path(), FUSED_SUFFIX, made_by="stdeploy fuse ckpt.pt"))
    found = videos_named(calibrate)
    from stdeploy.export.aot import build_package

    what = f"compiling {source} in {package.precision.value}"
    if found:
        what += f", comparing on {found.some(gate['max_clips'])}"
    with phase_bars(f"opening {source.name}") as progress:
        built = build_package(
            source,
            precision=package.precision.value,
            form=package.form.value,
            device=package.device.value,
            batch=package.batch,
            autotune=package.autotune,
            calibrate=found,
            progress=announced(what, progress),
            tell=note,
            **gate,
        )
    _print_parity(built.parity, f"{package.precision.value} against the fused network")
    _print_written(built.path)


def videos_named(calibrate: Path | None) -> "NamedVideos | None":
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


def write_onnx(
    fused: Path,
    output: Path | None,
    precision: PrecisionName,
    form: FormName,
    found: "NamedVideos | None",
    gate: Gate,
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


def write_stream(
    fused: Path | None,
    output: Path | None,
    precision: PrecisionName,
    stream: Stream,
    calibrate: Path | None,
    gate: Gate,
) -> None:
    """Write and show an .onnx file that takes streams."""
    source = existing(fused or newest(Path(), FUSED_SUFFIX, made_by="stdeploy fuse ckpt.pt"))
    found = videos_named(calibrate)
    from stdeploy.export.stream import export_stream

    what = f"exporting {source} for streams in {precision.value}"
    if found:
        what += f", comparing on {found.some(gate['max_clips'])}"
    with phase_bars(f"opening {source.name}") as progress:
        result = export_stream(
            source,
            output,
            frames_per_call=stream.frames_per_call,
            window=stream.window,
            precision=precision.value,
            calibrate=found,
            progress=announced(what, progress),
            tell=note,
            **gate,
        )
    _print_parity(result.parity, f"{result.card.precision} stream against the fused network")
    _print_written(result.path)
    spec = result.card.stream
    assert spec is not None
    behind = spec.delay_places * spec.stride_frames
    seconds = behind * result.card.clip.interval_seconds
    note(f"answers are about frames up to {behind} ({seconds:.3g} s) before the newest")
    note(f"without --model, classify and serve take the newest .onnx: {result.path.name}")


def write_engine(
    onnx_file: Path,
    options: BuildOptions,
    found: "NamedVideos | None",
    gate: Gate,
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


def write_float_input(
    onnx_file: Path, output: Path | None, found: "NamedVideos | None", gate: Gate
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


def write_openvino(onnx_file: Path, found: "NamedVideos | None", gate: Gate) -> None:
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


def write_program(
    fused: Path, input_format: InputName, found: "NamedVideos | None", gate: Gate
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


def _print_written(path: Path) -> None:
    out.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", soft_wrap=True, markup=False)


def put_on_triton(
    artifact: Path, repository: Path, name: str | None, batches: tuple[int, int]
) -> None:
    """Put an artifact into a model repository of Triton, and show where."""
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
