"""stdeploy classify: what happens in these videos?"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stdeploy.cli.console import counted, note, progress_bar, rate_bar
from stdeploy.cli.formatters import Record, Show, ShowJson, ShowTable
from stdeploy.cli.options import (
    AllowCpuOption,
    BackendOption,
    CompileOption,
    CudaGraphsOption,
    DeviceName,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    ReaderName,
    ReaderOption,
    RebuildOption,
    ThreadsOption,
    runtime_options,
)
from stdeploy.cli.row_output import Rows
from stdeploy.cli.video_arguments import Unfinished, common_folder, default_artifact, expand
from stdeploy.errors import SpecError, StdeployError, VideoError
from stdeploy.inference.prediction import Prediction
from stdeploy.inference.timeline import Timeline, TimelineOptions

if TYPE_CHECKING:
    from stdeploy.backends.dense_trunk import DenseTrunk
    from stdeploy.cli.picture_writers import Saving
    from stdeploy.inference.classifier import Classifier, ClassifyOptions

Result = Prediction | Timeline | VideoError
Progress = Callable[[float, float], None]

_LEAVE = 0.3


class TimelineKind(StrEnum):
    """How a timeline is made."""

    WINDOWS = "windows"
    DENSE = "dense"


def command(
    videos: Annotated[
        list[str] | None, typer.Argument(help="Files, folders or patterns.", show_default=False)
    ] = None,
    model: ModelOption = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Labels per video.")] = 5,
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            min=1,
            max=64,
            help="Clips, evenly spaced over the video, whose answers are averaged. Each is as "
            "long as the model's clip (stdeploy card says how long). Default: the model's.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into the folders of folders.")
    ] = False,
    lists: Annotated[
        list[Path] | None,
        typer.Option(
            "--list",
            help="A .csv list, or a text file with a video on each line; - for standard input.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write rows to a .jsonl, .csv or .parquet file, not the screen."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with --output: leave out videos that it holds."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --output, if it holds rows already.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON per video, for programs.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Videos decoded at once. Default: 1 a processor.",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Clips that the network gets at once.")
    ] = 1,
    untrusted: Annotated[
        bool,
        typer.Option(
            "--untrusted",
            help="Decode in processes with limits that are killed when a file does harm.",
        ),
    ] = False,
    timeline: Annotated[
        TimelineKind | None,
        typer.Option(
            "--timeline",
            help="An answer over time: windows, or dense (they share work; needs an .onnx file "
            "whose network does not stride in time).",
            show_default=False,
        ),
    ] = None,
    hop: Annotated[
        float, typer.Option("--hop", min=0.001, help="Seconds between windows of a timeline.")
    ] = 1.0,
    cuts: Annotated[
        bool,
        typer.Option(
            "--cuts/--no-cuts", help="Lay no window of a timeline across a hard cut of the video."
        ),
    ] = True,
    enter: Annotated[
        float, typer.Option("--enter", min=0, max=1, help="Score at which a segment begins.")
    ] = 0.5,
    leave: Annotated[
        float | None,
        typer.Option(
            "--leave",
            min=0,
            max=1,
            help="Score below which it ends; below --enter where another label reaches that. "
            f"Default: {_LEAVE}, or --enter if that is lower.",
            show_default=False,
        ),
    ] = None,
    save_plot: Annotated[
        Path | None,
        typer.Option("--save-plot", help="Draw the timeline: a .png or .svg, or a folder."),
    ] = None,
    save_video: Annotated[
        Path | None,
        typer.Option(
            "--save-video", help="Write the video, labels below it: an .mp4, or a folder."
        ),
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet", help="Write 8 frames of each view as seen: a .png, or a folder."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            help="Work on a Ray cluster: its address, or local to start one here.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="With --ray: copies of the network.")
    ] = 2,
    gpus_per_worker: Annotated[
        float, typer.Option("--gpus-per-worker", min=0, help="With --ray: 0 for none, or a share.")
    ] = 0.0,
    reader: ReaderOption = ReaderName.AUTO,
    backend: BackendOption = "auto",
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = None,
    allow_cpu: AllowCpuOption = False,
    compiled: CompileOption = False,
    cuda_graphs: CudaGraphsOption = False,
    threads: ThreadsOption = None,
    rebuild: RebuildOption = False,
) -> None:
    """Classify video files: one row a file, best label first.

    A file that cannot be read has its row with the error, and the others go on; the exit
    status is then 1.
    """
    from stdeploy.artifacts.card import read_card
    from stdeploy.artifacts.files import existing, sha256_of
    from stdeploy.backends.dense_trunk import DenseTrunk
    from stdeploy.cli.picture_writers import Saving, Wanted
    from stdeploy.inference.classifier import Classifier, ClassifyOptions
    from stdeploy.inference.ray_data import ClusterOptions, classify_on_ray
    from stdeploy.inference.result_files import ResultFile
    from stdeploy.video.decode_pool import DecodePool
    from stdeploy.video.limits import Limits, give_back_large_arrays

    pictures = Wanted(contact_sheet, save_plot, save_video)
    if not videos and not lists:
        raise SpecError("no videos were named; give files, folders, patterns or --list FILE")
    if (resume or overwrite) and output is None:
        raise SpecError("--resume and --overwrite need --output FILE, which they are about")
    if resume and overwrite:
        raise SpecError("--resume keeps the rows of --output, --overwrite does not; give one")
    if ray is not None and (timeline or save_video or contact_sheet):
        raise SpecError("--ray gives rows only; leave --timeline, --save-video and sheets out")
    if untrusted and save_video is not None:
        raise SpecError("--save-video decodes in this program, which --untrusted is to prevent")
    if save_plot is not None and timeline is None:
        raise SpecError("--save-plot draws a timeline; add --timeline windows")
    if timeline is not None and views is not None:
        raise SpecError("--views are for one answer, a timeline has windows; leave one of them out")
    if timeline is not None and contact_sheet is not None:
        raise SpecError("--contact-sheet shows the views of one answer; leave --timeline out")
    if leave is not None and leave > enter:
        raise SpecError(
            f"a segment that begins at --enter {enter} cannot end below --leave {leave}; "
            "give a --leave that is not above --enter"
        )
    over_time = TimelineOptions(
        hop_seconds=hop,
        enter=enter,
        leave=min(_LEAVE, enter) if leave is None else leave,
        top_k=top_k,
        cuts=cuts,
    )
    options = runtime_options(
        backend,
        device,
        precision,
        allow_cpu=allow_cpu,
        compiled=compiled,
        cuda_graphs=cuda_graphs,
        threads=threads,
        rebuild=rebuild,
    )
    paths = expand(videos or [], lists=lists or [], recursive=recursive, report=note)
    if not paths:
        raise SpecError("the lists name no video; write one on each line")
    artifact = existing(model) if model else default_artifact()
    chain = ClassifyOptions(views=views, batch=batch, jobs=jobs, decoder=reader.value)
    saving = Saving(pictures, videos=paths, top_k=top_k, keep=resume)
    give_back_large_arrays()
    with contextlib.ExitStack() as opened:
        file = None
        if output is not None:
            file = opened.enter_context(
                ResultFile(
                    output,
                    artifact_sha256=sha256_of(artifact),
                    settings=_settings(timeline, over_time, chain, artifact),
                    top_k=min(top_k, len(read_card(artifact).labels)),
                    timeline=timeline is not None,
                    pictures=pictures.names,
                    existing="resume" if resume else "overwrite" if overwrite else "refuse",
                )
            )
        wanted = Unfinished(paths, file.done if file is not None else None)
        one_by_one = timeline is not None and len(paths) == 1
        if not any(map(os.path.lexists, paths)):
            read_card(artifact)  # and no more of it: opening takes seconds

            def rows(progress: Progress) -> Iterator[Record]:  # noqa: ARG001
                return _none_there(wanted)
        elif ray is not None:
            cluster = ClusterOptions(address=ray, workers=workers, gpus_per_worker=gpus_per_worker)
            note(f"{artifact} on Ray at {ray}, {counted(workers, 'worker')}")

            def rows(progress: Progress) -> Iterator[Record]:  # noqa: ARG001
                return classify_on_ray(wanted, artifact, cluster, chain, options, top_k=top_k)
        else:
            how: dict[str, Any] = {}
            if untrusted:
                pool = opened.enter_context(DecodePool(chain.decoding_jobs, Limits()))
                how = {"read": pool.read_clips, "give_up": pool.close}
            classifier = opened.enter_context(
                Classifier.open(artifact, options=chain, runtime_options=options, **how)
            )
            runtime = classifier.runtime
            trunk = None
            if timeline is TimelineKind.DENSE:
                trunk = DenseTrunk.open(artifact, classifier.card, runtime)
            each = f"{counted(classifier.views, 'view')} a video"
            if timeline is not None:
                each = f"a window every {hop:g} s"
            note(f"{artifact}, {runtime.name} on {runtime.device} in {runtime.precision}, {each}")

            def rows(progress: Progress) -> Iterator[Record]:
                results: Iterator[tuple[Path, Result]] = classifier.classify_all(wanted)
                if timeline is not None:
                    seconds = progress if one_by_one else lambda _done, _of: None
                    results = _timelines(classifier, wanted, over_time, trunk, seconds)
                return _saved(results, classifier, saving, top_k)

        run = Rows(
            _show(
                as_json=as_json,
                to_file=file is not None,
                timeline=timeline is not None,
                folder=None if lists else common_folder(videos or []),
            ),
            file,
            wanted,
            num_videos=len(paths),
            recursive=recursive,
        )
        bar = progress_bar("classifying") if one_by_one else rate_bar("classifying", "videos")
        try:
            with bar as progress:
                for row in rows(progress):
                    run.add(row)
                    if not one_by_one:
                        progress(run.seen, len(paths))
        except (KeyboardInterrupt, SystemExit, StdeployError) as error:
            run.break_off(nothing_to_say=isinstance(error, StdeployError) and run.done == 0)
            raise
        run.end()
    for line in saving.told():
        note(line)
    if output is not None:
        note(run.written(output))
    run.say_how_it_went(output)
    if run.failed:
        raise typer.Exit(VideoError.exit_status)


def _show(*, as_json: bool, to_file: bool, timeline: bool, folder: Path | None) -> Show:
    if as_json:
        return ShowJson()
    return Show() if to_file else ShowTable(timeline=timeline, folder=folder)


def _settings(
    timeline: TimelineKind | None,
    over_time: TimelineOptions,
    chain: "ClassifyOptions",
    artifact: Path,
) -> str:
    """What rows have to have in common to stand in one file, beside the artifact."""
    from stdeploy.artifacts.card import read_card

    if timeline is None:
        views = chain.views or read_card(artifact).clip.views
        return f"views={views} crops={chain.crops} top_k={over_time.top_k}"
    return (
        f"timeline={timeline} hop={over_time.hop_seconds} enter={over_time.enter} "
        f"leave={over_time.leave} top_k={over_time.top_k} cuts={over_time.cuts}"
    )


def _none_there(videos: Iterable[Path]) -> Iterator[Record]:
    """Rows of videos that do not exist."""
    from stdeploy.video.reader import VideoReader

    for video in videos:
        try:
            VideoReader(video)
        except VideoError as error:
            yield {"video": str(video), "error": str(error)}


def _timelines(
    classifier: "Classifier",
    videos: Iterable[Path],
    options: TimelineOptions,
    trunk: "DenseTrunk | None",
    progress: Progress,
) -> Iterator[tuple[Path, Result]]:
    """A timeline of each; a broken one gives its error and the others go on."""
    for video in videos:
        try:
            result = classifier.timeline(video, options, trunk=trunk, progress=progress)
        except VideoError as error:
            yield video, error
        else:
            yield video, result


def _saved(
    results: Iterator[tuple[Path, Result]],
    classifier: "Classifier",
    saving: "Saving",
    top_k: int,
) -> Iterator[Record]:
    """Results as rows, once their pictures are written."""
    for path, result in results:
        pictures = saving.save(path, result, classifier, note)
        if isinstance(result, VideoError):
            yield {"video": str(path), "error": str(result)}
        elif isinstance(result, Timeline):
            yield result.to_record() | pictures
        else:
            yield result.to_record(top_k) | pictures
