"""stdeploy classify: what happens in these videos?"""

from pathlib import Path
from typing import Annotated

import typer

from stdeploy.backends.base import RuntimeOptions
from stdeploy.cli.classify_rows import Asked, TimelineKind, classify_rows
from stdeploy.cli.console import note
from stdeploy.cli.options import ModelOption, ReaderName, ReaderOption, with_runtime_options
from stdeploy.cli.video_arguments import common_folder, default_artifact, expand
from stdeploy.errors import SpecError
from stdeploy.inference.timeline import DEFAULT_LEAVE, TimelineOptions

_Videos = Annotated[
    list[str] | None, typer.Argument(help="Files, folders or patterns.", show_default=False)
]
_TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, help="Labels per video.")]
_Views = Annotated[
    int | None,
    typer.Option(
        "--views",
        min=1,
        max=64,
        help="Clips, evenly spaced over the video, whose answers are averaged. Each is as "
        "long as the model's clip (stdeploy card says how long). Default: the model's.",
    ),
]
_Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Look into the folders of folders.")
]
_Lists = Annotated[
    list[Path] | None,
    typer.Option(
        "--list",
        help="A .csv list, or a text file with a video on each line; - for standard input.",
        show_default=False,
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Write rows to a .jsonl, .csv or .parquet file, not the screen."
    ),
]
_Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with --output: leave out videos that it holds."),
]
_Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace --output, if it holds rows already.")
]
_AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON per video, for programs.")]
_Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Videos decoded at once. Default: 1 a processor.",
    ),
]
_Batch = Annotated[int, typer.Option("--batch", min=1, help="Clips that the network gets at once.")]
_Untrusted = Annotated[
    bool,
    typer.Option(
        "--untrusted",
        help="Decode in processes with limits that are killed when a file does harm.",
    ),
]
_Timeline = Annotated[
    TimelineKind | None,
    typer.Option(
        "--timeline",
        help="An answer over time: windows, or dense (they share work; needs an .onnx file "
        "whose network does not stride in time).",
        show_default=False,
    ),
]
_Hop = Annotated[
    float | None,
    typer.Option(
        "--hop", min=0.001, help="Seconds between windows of a timeline.", show_default="1.0"
    ),
]
_Cuts = Annotated[
    bool | None,
    typer.Option(
        "--cuts/--no-cuts",
        help="Lay no window of a timeline across a hard cut of the video.",
        show_default="cuts",
    ),
]
_Enter = Annotated[
    float | None,
    typer.Option(
        "--enter", min=0, max=1, help="Score at which a segment begins.", show_default="0.5"
    ),
]
_Leave = Annotated[
    float | None,
    typer.Option(
        "--leave",
        min=0,
        max=1,
        help="Score below which it ends; below --enter where another label reaches that. "
        f"Default: {DEFAULT_LEAVE}, or --enter if that is lower.",
        show_default=False,
    ),
]
_SavePlot = Annotated[
    Path | None,
    typer.Option("--save-plot", help="Draw the timeline: a .png or .svg, or a folder."),
]
_SaveVideo = Annotated[
    Path | None,
    typer.Option("--save-video", help="Write the video, labels below it: an .mp4, or a folder."),
]
_ContactSheet = Annotated[
    Path | None,
    typer.Option(
        "--contact-sheet", help="Write 8 frames of each view as seen: a .png, or a folder."
    ),
]
_Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Work on a Ray cluster: its address, or local to start one here.",
        show_default=False,
    ),
]
_Workers = Annotated[
    int, typer.Option("--workers", min=1, help="With --ray: copies of the network.")
]
_GpusPerWorker = Annotated[
    float, typer.Option("--gpus-per-worker", min=0, help="With --ray: 0 for none, or a share.")
]


@with_runtime_options
def command(
    videos: _Videos = None,
    model: ModelOption = None,
    top_k: _TopK = 5,
    views: _Views = None,
    recursive: _Recursive = False,
    lists: _Lists = None,
    output: _Output = None,
    resume: _Resume = False,
    overwrite: _Overwrite = False,
    as_json: _AsJson = False,
    jobs: _Jobs = None,
    batch: _Batch = 1,
    untrusted: _Untrusted = False,
    timeline: _Timeline = None,
    hop: _Hop = None,
    cuts: _Cuts = None,
    enter: _Enter = None,
    leave: _Leave = None,
    save_plot: _SavePlot = None,
    save_video: _SaveVideo = None,
    contact_sheet: _ContactSheet = None,
    ray: _Ray = None,
    workers: _Workers = 2,
    gpus_per_worker: _GpusPerWorker = 0.0,
    reader: ReaderOption = ReaderName.AUTO,
    *,
    runtime_options: RuntimeOptions,
) -> None:
    """Classify video files: one row a file, best label first.

    A file that cannot be read has its row with the error, and the others go on; the exit
    status is then 1.
    """
    if not videos and not lists:
        raise SpecError("no videos were named; give files, folders, patterns or --list FILE")
    _check_together(
        output=output is not None,
        resume=resume,
        overwrite=overwrite,
        ray=ray is not None,
        untrusted=untrusted,
        timeline=timeline is not None,
        views=views is not None,
        sheet=contact_sheet is not None,
        plot=save_plot is not None,
        video=save_video is not None,
    )
    if timeline is None:
        given = {"--hop": hop, "--cuts": cuts, "--enter": enter, "--leave": leave}
        idle = [name for name, value in given.items() if value is not None]
        if idle:
            raise SpecError(f"{' and '.join(idle)}: only of a timeline; add --timeline windows")
    over_time = _over_time(hop, enter, leave, top_k, cuts=cuts)
    paths = expand(videos or [], lists=lists or [], recursive=recursive, report=note)
    if not paths:
        raise SpecError("the lists name no video; write one on each line")
    from stdeploy.artifacts.files import existing
    from stdeploy.cli.picture_writers import Wanted
    from stdeploy.inference.classifier import ClassifyOptions
    from stdeploy.inference.ray_data import ClusterOptions

    cluster = None
    if ray is not None:
        cluster = ClusterOptions(address=ray, workers=workers, gpus_per_worker=gpus_per_worker)
    classify_rows(
        Asked(
            paths=paths,
            artifact=existing(model) if model else default_artifact(),
            chain=ClassifyOptions(views=views, batch=batch, jobs=jobs, decoder=reader.value),
            runtime=runtime_options,
            top_k=top_k,
            timeline=timeline,
            over_time=over_time,
            untrusted=untrusted,
            cluster=cluster,
            pictures=Wanted(contact_sheet, save_plot, save_video),
            output=output,
            existing_rows="resume" if resume else "overwrite" if overwrite else "refuse",
            as_json=as_json,
            recursive=recursive,
            folder=None if lists else common_folder(videos or []),
        )
    )


def _over_time(
    hop: float | None,
    enter: float | None,
    leave: float | None,
    top_k: int,
    *,
    cuts: bool | None,
) -> TimelineOptions:
    """What was asked for over time; --leave follows --enter where only that was given."""
    usual = TimelineOptions()
    enter = usual.enter if enter is None else enter
    if leave is not None and leave > enter:
        raise SpecError(
            f"a segment that begins at --enter {enter} cannot end below --leave {leave}; "
            "give a --leave that is not above --enter"
        )
    leave = min(DEFAULT_LEAVE, enter) if leave is None else leave
    return TimelineOptions(
        usual.hop_seconds if hop is None else hop, enter, leave, top_k, cuts is not False
    )


def _check_together(
    *,
    output: bool,
    resume: bool,
    overwrite: bool,
    ray: bool,
    untrusted: bool,
    timeline: bool,
    views: bool,
    sheet: bool,
    plot: bool,
    video: bool,
) -> None:
    """Refuse options that do not go together; each argument is whether one was given."""
    if (resume or overwrite) and not output:
        raise SpecError("--resume and --overwrite need --output FILE, which they are about")
    if resume and overwrite:
        raise SpecError("--resume keeps the rows of --output, --overwrite does not; give one")
    if ray and (timeline or video or sheet):
        raise SpecError("--ray gives rows only; leave --timeline, --save-video and sheets out")
    if untrusted and video:
        raise SpecError("--save-video decodes in this program, which --untrusted is to prevent")
    if plot and not timeline:
        raise SpecError("--save-plot draws a timeline; add --timeline windows")
    if timeline and views:
        raise SpecError("--views are for one answer, a timeline has windows; leave one of them out")
    if timeline and sheet:
        raise SpecError("--contact-sheet shows the views of one answer; leave --timeline out")
