"""stdeploy analyze: what the filters of a network do in time, as pictures and numbers."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from stdeploy.cli.console import counted, note, out, progress_bar
from stdeploy.cli.help import Verbs
from stdeploy.errors import DatasetError
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    from stdeploy.analysis.filters import LayerFilters, StageFilters
    from stdeploy.analysis.length_advice import Advice
    from stdeploy.analysis.receptive_field import ReceptiveField

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    help="See what the filters do in time: the paper's figures 1 and 4, and a report.",
)


class ProjectionName(StrEnum):
    """How the half sphere is drawn."""

    ORTHOGRAPHIC = "orthographic"
    LAMBERT = "lambert"


PlotOption = Annotated[
    Path | None, typer.Option("--save-plot", help="Draw it: a .png or .svg file.")
]
ArraysOption = Annotated[
    Path | None, typer.Option("--save-arrays", help="All numbers, for NumPy: an .npz file.")
]
ProjectionOption = Annotated[
    ProjectionName,
    typer.Option(
        "--projection",
        help="Of figure 1: orthographic is the paper's and crowds the rim; lambert keeps areas.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="A line of JSON for each file.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Videos: a folder, data set or list. Default: noise."),
]
ClipsOption = Annotated[
    int, typer.Option("--clips", min=1, help="Clips to average over, one of each video.")
]


@app.command("filters")
def filters(
    artifact: Annotated[
        Path, typer.Argument(help="Any file with weights: ours, or a state_dict of any network.")
    ],
    save_plot: PlotOption = None,
    save_arrays: ArraysOption = None,
    projection: ProjectionOption = ProjectionName.ORTHOGRAPHIC,
    with_norms: Annotated[
        bool,
        typer.Option("--with-norms", help="With batch norms folded in, as after fusing."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take spatio-temporal filters apart in time (equation 1, figure 1).

    For each layer longer than one frame: where its energy lies, frame by frame, and how much of
    it is average, first and second differential.
    """
    from stdeploy.analysis.filters import by_stage
    from stdeploy.analysis.json_report import filters_record
    from stdeploy.analysis.length_advice import recommend

    _check_outputs(save_plot, save_arrays)
    layers = _analysed(artifact, with_norms=with_norms)
    stages = by_stage(layers)
    advice = recommend(stages)
    if save_plot is not None:
        from stdeploy.analysis.plots import draw_filters

        draw_filters(layers, save_plot, projection=projection.value)
        note(f"{save_plot}: what the filters of each layer do in time")
    if save_arrays is not None:
        _save_arrays(save_arrays, _arrays_of_filters(layers))
    if as_json:
        print(json.dumps(filters_record(artifact, layers, stages, advice)))
        return
    out.print(_layers_table(layers))
    out.print(_stages_table(stages, advice))


@app.command("receptive-field")
def receptive_field(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Networks to compare: .pt or .fused.safetensors files.")
    ],
    data: DataOption = None,
    clips: ClipsOption = 20,
    frames: Annotated[
        int | None,
        typer.Option("--frames", min=1, help="Of a clip. Default: what each network wants."),
    ] = None,
    save_plot: PlotOption = None,
    save_arrays: ArraysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what networks really see in space and time (section 5, figure 4).

    The gradient of the centre unit of the last feature map (of a causal network: of its last
    frame) with respect to the input, averaged over clips: real ones with --data, or Gaussian noise.
    """
    from stdeploy.analysis.json_report import field_record

    _check_outputs(save_plot, save_arrays)
    artifacts = list(dict.fromkeys(artifacts))
    fields = _fields_of(artifacts, data, clips, frames)
    if save_plot is not None:
        from stdeploy.analysis.plots import draw_receptive_fields

        draw_receptive_fields(fields, save_plot)
        note(f"{save_plot}: what the networks see")
    if save_arrays is not None:
        _save_arrays(save_arrays, {name: field.density for name, field in fields.items()})
    if as_json:
        for path, field in zip(artifacts, fields.values(), strict=True):
            print(json.dumps(field_record(path, field)))
        return
    out.print(_fields_table(fields, data))


@app.command("report")
def report(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifacts of stdeploy, side by side.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page, a single .html file.")
    ] = Path("report.html"),
    data: DataOption = None,
    clips: ClipsOption = 8,
    projection: ProjectionOption = ProjectionName.ORTHOGRAPHIC,
) -> None:
    """Write one page about networks: cost, filters, receptive field, parity, advice.

    The page holds its pictures, needs no network, and prints well.
    """
    require("torch", extra="analysis", purpose="a report")
    require("matplotlib", extra="analysis", purpose="a report")
    require("jinja2", extra="analysis", purpose="a report")
    from stdeploy.analysis.html_report import write_report
    from stdeploy.artifacts.files import checked_output

    checked_output(output, ".html")
    if output.exists():
        note(f"{output} is replaced at the end, -o names another")
    with progress_bar("looking") as progress:
        write_report(
            artifacts,
            output,
            videos=_videos_of(data),
            clips=clips,
            projection=projection.value,
            progress=progress,
        )
    out.print(str(output), soft_wrap=True, markup=False)


def _videos_of(data: Path | None) -> list[Path]:
    """The videos that --data names: see `videos_of`; or a file, a pattern or a list of files.

    Raises:
        DatasetError: there are none.
    """
    from stdeploy.cli.video_arguments import expand
    from stdeploy.datasets.loader import videos_of

    if data is None:
        return []
    if data.is_dir() or data.suffix.lower() == ".csv":
        named = videos_of(data, "validation")
        if words := named.passed_over.in_words():
            note(f"{data}: {words}")
        return list(named.videos)
    listed = data.suffix == ".txt"
    videos = expand([] if listed else [str(data)], lists=[data] if listed else [], recursive=True)
    if not videos or (videos == [data] and not data.is_file()):
        what = "holds no video" if data.exists() else "does not exist"
        raise DatasetError(f"--data {str(data)!r} {what}; name a folder, a list or a file")
    return videos


def _fields_of(
    artifacts: list[Path], data: Path | None, clips: int, frames: int | None
) -> "dict[str, ReceptiveField]":
    """The receptive field of each artifact, by its name; a bar shows how far it is."""
    require("torch", extra="analysis", purpose="measuring a receptive field")
    from stdeploy.analysis.receptive_field import field_of_file

    videos = _videos_of(data)
    fields = {}
    with progress_bar("looking") as progress:
        for number, (name, path) in enumerate(_names(artifacts).items()):

            def update(done: int, total: int, before: int = number) -> None:
                progress(before * total + done, len(artifacts) * total)

            fields[name] = field_of_file(
                path, videos, clips=clips, num_frames=frames, progress=update
            )
    return fields


def _names(artifacts: list[Path]) -> dict[str, Path]:
    """Short names for a legend; whole paths where short ones are alike."""
    short = [path.name.partition(".")[0] for path in artifacts]
    alike = len(set(short)) < len(short)
    return {str(p) if alike else name: p for name, p in zip(short, artifacts, strict=True)}


def _analysed(artifact: Path, *, with_norms: bool) -> "list[LayerFilters]":
    from stdeploy.analysis.filters import analyse_all
    from stdeploy.analysis.kernels import read_kernels

    kernels = read_kernels(artifact, folded=with_norms)
    with progress_bar("looking") as progress:
        return analyse_all(kernels, progress)


def _check_outputs(picture: Path | None, arrays: Path | None) -> None:
    from stdeploy.artifacts.files import checked_output
    from stdeploy.plotting.style import checked_picture

    if picture is not None:
        checked_picture(picture)
        require("matplotlib", extra="analysis", purpose="drawing a picture")
    if arrays is not None:
        checked_output(arrays, ".npz")


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    import numpy as np

    from stdeploy.artifacts.files import whole_file

    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _arrays_of_filters(layers: "list[LayerFilters]") -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for layer in layers:
        arrays[f"{layer.name}/directions"] = layer.primary.directions
        arrays[f"{layer.name}/weights"] = layer.primary.weights
        arrays[f"{layer.name}/energy_per_tap"] = layer.energy_per_tap
        arrays[f"{layer.name}/energy_per_axis"] = layer.energy_per_axis
    return arrays


def _layers_table(layers: "list[LayerFilters]") -> Table:
    table = Table(title="energy of each layer, %", title_justify="left")
    longest = max(len(layer.name) for layer in layers)
    # Numbers go on in the next line at a space; names have none.
    table.add_column("layer", overflow="fold", no_wrap=longest <= out.width // 3)
    table.add_column("t x h x w")
    table.add_column("in each frame")
    for name in ("average", "1st diff", "2nd diff"):
        table.add_column(name, justify="right")
    for layer in layers:
        taps = " ".join(f"{100 * share:.1f}" for share in layer.energy_per_tap)
        axes = [f"{100 * share:.1f}" for share in layer.energy_per_axis[:3]]
        size = "x".join(str(extent) for extent in layer.shape[2:])
        table.add_row(layer.name, size, taps, *axes, *[""] * (3 - len(axes)))
    return table


def _stages_table(stages: "list[StageFilters]", advice: "list[Advice]") -> Table:
    table = Table(
        title="stages",
        title_justify="left",
        caption="peak: energy in one frame. flat: 1 is the same in every frame. entropy: 1 is "
        "filters of every kind. advised t: the paper's reading, see the manual",
        caption_justify="left",
    )
    table.add_column("stage")
    for name in ("t", "average", "1st diff", "centre", "peak", "flat", "entropy", "advised t"):
        table.add_column(name, justify="right")
    for stage, each in zip(stages, advice, strict=True):
        shares = (stage.average, stage.first_differential, stage.centre, stage.peak)
        table.add_row(
            stage.stage,
            str(stage.length),
            *("" if share is None else f"{share:.1%}" for share in shares),
            f"{stage.flatness:.2f}",
            f"{stage.entropy:.2f}",
            str(each.recommended),
        )
    return table


def _fields_table(fields: "dict[str, ReceptiveField]", data: Path | None) -> Table:
    clips = min(field.clips for field in fields.values())
    table = Table(
        title="effective receptive field, standard deviations",
        title_justify="left",
        caption=f"over {counted(clips, 'clip')} of {data or 'Gaussian noise; see --data'}",
        caption_justify="left",
    )
    table.add_column("network")
    for name in ("frames", "seconds", "x, px", "y, px", "could see (t, y, x)"):
        table.add_column(name, justify="right")
    for name, field in fields.items():
        down, across = field.spread_px
        frames, height, width = field.theoretical
        table.add_row(
            name,
            f"{field.spread_frames:.3f}",
            f"{field.spread_seconds:.3f}",
            f"{across:.1f}",
            f"{down:.1f}",
            f"{frames}{' back' if field.causal else ''} x {height} x {width}",
        )
    return table
