"""stdeploy classify: what happens in these videos?"""

import contextlib
import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from stdeploy.cli.console import err, note, out, progress_bar, rate_bar
from stdeploy.cli.inputs import default_artifact, expand
from stdeploy.cli.options import (
    AllowCpuOption,
    BackendName,
    BackendOption,
    CompileOption,
    CudaGraphsOption,
    DeviceName,
    DeviceOption,
    PrecisionOption,
    ReaderName,
    ReaderOption,
    RebuildOption,
    ThreadsOption,
    runtime_options,
)
from stdeploy.errors import SpecError, VideoError
from stdeploy.prediction import Prediction
from stdeploy.timeline import Timeline, TimelineOptions

if TYPE_CHECKING:
    from stdeploy.classify import Classifier
    from stdeploy.runtime.dense import DenseTrunk

Result = Prediction | Timeline | VideoError


class TimelineKind(StrEnum):
    """How a timeline is made."""

    WINDOWS = "windows"
    DENSE = "dense"


def command(
    videos: Annotated[
        list[str] | None, typer.Argument(help="Files, folders or patterns.", show_default=False)
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", help="Default: the newest *.onnx; on GPU hosts also *.engine."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Labels per video.")] = 5,
    views: Annotated[
        int | None,
        typer.Option(
            "--views", min=1, max=64, help="Clips averaged per video. Default: the model's."
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into the folders of folders.")
    ] = False,
    lists: Annotated[
        list[Path] | None,
        typer.Option("--list", help="A text file with a video on each line.", show_default=False),
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
    enter: Annotated[
        float, typer.Option("--enter", min=0, max=1, help="Score at which a segment begins.")
    ] = 0.5,
    leave: Annotated[
        float, typer.Option("--leave", min=0, max=1, help="Score below which it ends.")
    ] = 0.3,
    save_plot: Annotated[
        Path | None,
        typer.Option("--save-plot", help="Draw the timeline: a .png or .svg, or a folder."),
    ] = None,
    save_video: Annotated[
        Path | None,
        typer.Option("--save-video", help="Write the video with labels: an .mp4, or a folder."),
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet", help="Write the frames that the network saw: a .png, or a folder."
        ),
    ] = None,
    reader: ReaderOption = ReaderName.AUTO,
    backend: BackendOption = BackendName.AUTO,
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
    from stdeploy.classify import Classifier, ClassifyOptions
    from stdeploy.cli.saving import Saving
    from stdeploy.files import digest_of, sha256_of
    from stdeploy.results import DIGEST, ResultFile
    from stdeploy.runtime.dense import DenseTrunk
    from stdeploy.video.clips import ReadClips, read_clips
    from stdeploy.video.decode_pool import DecodePool
    from stdeploy.video.limits import Limits

    if not videos and not lists:
        raise SpecError("no videos were named; give files, folders, patterns or --list FILE")
    if resume and output is None:
        raise SpecError("--resume needs --output FILE, whose rows tell what is done")
    if save_plot is not None and timeline is None:
        raise SpecError("--save-plot draws a timeline; add --timeline windows")
    if timeline is not None and output is not None and output.suffix != ".jsonl":
        raise SpecError(f"a timeline has no columns for {str(output)!r}; name a .jsonl file")
    over_time = TimelineOptions(hop_seconds=hop, enter=enter, leave=leave, top_k=top_k)
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
    paths = expand(videos or [], lists=lists or [], recursive=recursive)
    artifact = model or default_artifact()
    chain = ClassifyOptions(views=views, batch=batch, jobs=jobs, decoder=reader.value)
    saving = Saving(save_plot, save_video, contact_sheet, num_videos=len(paths))
    show = _shower(len(paths), top_k, as_json=as_json, to_file=output is not None)
    failed = done = 0
    digests: dict[Path, str] = {}
    with contextlib.ExitStack() as opened:
        file = None
        if output is not None:
            file = opened.enter_context(
                ResultFile(output, artifact_sha256=sha256_of(artifact), top_k=top_k, resume=resume)
            )
        read: ReadClips = read_clips
        if untrusted:
            pool = opened.enter_context(DecodePool(chain.decoding_jobs, Limits()))
            read = pool.read_clips
        classifier = opened.enter_context(
            Classifier.open(artifact, options=chain, runtime_options=options, read=read)
        )
        runtime = classifier.runtime
        note(
            f"{artifact}, {runtime.name} on {runtime.device} in {runtime.precision}, "
            f"{classifier.views} view(s) a video"
        )

        def wanted() -> Iterator[Path]:
            nonlocal done
            for path in paths:
                if file is not None and (digest := digest_of(path)) is not None:
                    if digest in file.done:
                        done += 1
                        continue
                    digests[path] = digest
                yield path

        progress = opened.enter_context(rate_bar("classifying", "videos"))
        opened.callback(show.end)  # also what was done before an interruption
        results: Iterator[tuple[Path, Result]]
        if timeline is None:
            results = classifier.classify_all(wanted())
        else:
            trunk = None
            if timeline is TimelineKind.DENSE:
                trunk = DenseTrunk.open(artifact, classifier.card, runtime)
            results = _timelines(classifier, wanted(), over_time, trunk)
        for path, result in results:
            failed += isinstance(result, VideoError)
            show.add(path, result)
            if file is not None:
                digest = digests.pop(path, None)
                file.write(_record(path, result, top_k) | ({DIGEST: digest} if digest else {}))
            saving.save(path, result, classifier)
            done += 1
            progress(done, len(paths))
    if output is not None:
        kept = len(file.done) if file is not None else 0
        note(f"{output}: {done} videos" + (f", {kept} of them from before" if kept else ""))
    if failed:
        err.print(f"{failed} of {len(paths)} videos could not be classified", style="red")
        raise typer.Exit(VideoError.exit_status)


def _timelines(
    classifier: "Classifier",
    videos: Iterator[Path],
    options: TimelineOptions,
    trunk: "DenseTrunk | None",
) -> Iterator[tuple[Path, Result]]:
    """A timeline of each; a broken one gives its error and the others go on."""
    for video in videos:
        try:
            with progress_bar(video.name) as progress:
                result = classifier.timeline(video, options, trunk=trunk, progress=progress)
        except VideoError as error:
            yield video, error
        else:
            yield video, result


def _shower(num_videos: int, top_k: int, *, as_json: bool, to_file: bool) -> "_Show":
    if as_json:
        return _Json(top_k)
    return _Show() if to_file else _Screen(num_videos, top_k)


class _Show:
    """What standard output gets: here nothing, because the rows go to a file."""

    def add(self, path: Path, result: Result) -> None:
        """Show a row."""

    def end(self) -> None:
        """Show what could not be shown before."""


class _Json(_Show):
    def __init__(self, top_k: int) -> None:
        self._top_k = top_k

    def add(self, path: Path, result: Result) -> None:
        print(json.dumps(_record(path, result, self._top_k)), flush=True)


class _Screen(_Show):
    def __init__(self, num_videos: int, top_k: int) -> None:
        self._top_k = top_k
        self._table = Table(show_lines=num_videos > 1)
        self._table.add_column("video", overflow="fold")
        self._table.add_column("score  label")

    def add(self, path: Path, result: Result) -> None:
        if isinstance(result, Timeline):
            self._table.add_row(Text(str(path)), _segments(result))
            return
        if isinstance(result, VideoError):
            self._table.add_row(Text(str(path)), Text(f"error: {result}", style="red"))
            return
        best = Table.grid(padding=(0, 2))  # a long label wraps beside its score, not under the next
        for label, score in result.top(self._top_k):
            best.add_row(f"{score:.3f}", Text(label))
        self._table.add_row(Text(str(path)), best)

    def end(self) -> None:
        out.print(self._table)


def _record(path: Path, result: Result, top_k: int) -> dict[str, object]:
    if isinstance(result, VideoError):
        return {"video": str(path), "error": str(result)}
    return result.to_record() if isinstance(result, Timeline) else result.to_record(top_k)


def _segments(timeline: Timeline) -> Table | Text:
    """Segments in words; where there is none, the best label of each window."""
    rows = Table.grid(padding=(0, 2))
    for segment in timeline.segments:
        label = timeline.labels[segment.label]
        rows.add_row(_stretch(segment.start, segment.end), f"{segment.mean:.3f}", Text(label))
    if not timeline.segments:
        best: dict[int, float] = {}
        for cell in timeline.cells:
            best[cell.best[0]] = max(best.get(cell.best[0], 0.0), cell.scores[0])
        nearest, score = max(best.items(), key=lambda item: item[1])
        return Text(
            f"no label reaches {timeline.options.enter:g}; the nearest is "
            f"{timeline.labels[nearest]!r} with {score:.3f}"
        )
    return rows


def _stretch(start: float, end: float) -> str:
    return f"{_clock(start)} to {_clock(end)}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"
