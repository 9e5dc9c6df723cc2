"""What `stdeploy classify` does with what was asked for: rows, shown or written as they come."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from stdeploy.cli.console import counted, note, progress_bar, rate_bar
from stdeploy.cli.formatters import Record, Rows, Show, ShowJson, ShowTable
from stdeploy.cli.video_arguments import Unfinished
from stdeploy.errors import StdeployError, VideoError
from stdeploy.inference.prediction import Prediction
from stdeploy.inference.timeline import Timeline, TimelineOptions

if TYPE_CHECKING:
    from stdeploy.backends.base import RuntimeOptions
    from stdeploy.backends.dense_trunk import DenseTrunk
    from stdeploy.cli.picture_writers import Saving, Wanted
    from stdeploy.inference.classifier import ClassifiedVideo, Classifier, ClassifyOptions
    from stdeploy.inference.ray_data import ClusterOptions
    from stdeploy.inference.result_files import ResultFile

Result = Prediction | Timeline | VideoError
Progress = Callable[[float, float], None]


class TimelineKind(StrEnum):
    """How a timeline is made."""

    WINDOWS = "windows"
    DENSE = "dense"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for, checked.

    Attributes:
        paths: the videos.
        artifact: that classifies them.
        chain: views, batches, jobs.
        runtime: backend, device, precision.
        top_k: labels in a row.
        timeline: how it is made; None for one answer a video.
        over_time: hop and thresholds of it.
        untrusted: decode in processes with limits.
        cluster: of Ray; None for this machine.
        pictures: that are written.
        output: file of rows; None for the screen.
        existing_rows: what becomes of those that it holds.
        as_json: rows as JSON on the screen.
        recursive: folders of folders were looked into.
        folder: that names are shown relative to.
    """

    paths: Sequence[Path]
    artifact: Path
    chain: "ClassifyOptions"
    runtime: "RuntimeOptions"
    top_k: int
    timeline: TimelineKind | None
    over_time: TimelineOptions
    untrusted: bool
    cluster: "ClusterOptions | None"
    pictures: "Wanted"
    output: Path | None
    existing_rows: Literal["resume", "overwrite", "refuse"]
    as_json: bool
    recursive: bool
    folder: Path | None

    @property
    def one_by_one(self) -> bool:
        """Whether the seconds of the only video are what goes on."""
        return self.timeline is not None and len(self.paths) == 1


def classify_rows(asked: Asked) -> None:
    """Classify, and show or write rows as they come."""
    from stdeploy.cli.picture_writers import Saving
    from stdeploy.video.limits import give_back_large_arrays

    saving = Saving(
        asked.pictures,
        videos=asked.paths,
        top_k=asked.top_k,
        keep=asked.existing_rows == "resume",
    )
    give_back_large_arrays()
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(_result_file(asked)) if asked.output is not None else None
        wanted = Unfinished(asked.paths, file.done if file is not None else None)
        rows = _source(asked, wanted, saving, opened)
        run = Rows(
            _show(
                as_json=asked.as_json,
                to_file=file is not None,
                timeline=asked.timeline is not None,
                folder=asked.folder,
            ),
            file,
            wanted,
            num_videos=len(asked.paths),
            recursive=asked.recursive,
        )
        one = asked.one_by_one
        bar = progress_bar("classifying") if one else rate_bar("classifying", "videos")
        try:
            with bar as progress:
                for row in rows(progress):
                    run.add(row)
                    if not one:
                        progress(run.seen, len(asked.paths))
        except (KeyboardInterrupt, SystemExit, StdeployError) as error:
            run.break_off(nothing_to_say=isinstance(error, StdeployError) and run.done == 0)
            raise
        run.end()
    for line in saving.told():
        note(line)
    if asked.output is not None:
        note(run.written(asked.output))
    run.say_how_it_went(asked.output)
    if run.failed:
        raise typer.Exit(VideoError.exit_status)


def _result_file(asked: Asked) -> "ResultFile":
    from stdeploy.artifacts.card import read_card
    from stdeploy.artifacts.files import sha256_of
    from stdeploy.inference.result_files import ResultFile

    assert asked.output is not None
    return ResultFile(
        asked.output,
        artifact_sha256=sha256_of(asked.artifact),
        settings=_settings(asked.timeline, asked.over_time, asked.chain, asked.artifact),
        top_k=min(asked.top_k, len(read_card(asked.artifact).labels)),
        timeline=asked.timeline is not None,
        pictures=asked.pictures.names,
        existing=asked.existing_rows,
    )


def _source(
    asked: Asked, wanted: Unfinished, saving: "Saving", opened: contextlib.ExitStack
) -> Callable[[Progress], Iterator[Record]]:
    """What gives rows: nothing but errors, a cluster, or a classifier that `opened` closes."""
    if not any(map(os.path.lexists, asked.paths)):
        from stdeploy.artifacts.card import read_card

        read_card(asked.artifact)  # and no more of it: opening takes seconds
        return lambda _progress: _none_there(wanted)
    if asked.cluster is not None:
        from stdeploy.inference.ray_data import classify_on_ray

        workers = counted(asked.cluster.workers, "worker")
        note(f"{asked.artifact} on Ray at {asked.cluster.address}, {workers}")
        rows = classify_on_ray(
            wanted, asked.artifact, asked.cluster, asked.chain, asked.runtime, top_k=asked.top_k
        )
        return lambda _progress: rows
    classifier = opened.enter_context(_opened(asked, opened))
    runtime = classifier.runtime
    trunk = None
    # A file for streams makes dense timelines by itself.
    if asked.timeline is TimelineKind.DENSE and classifier.card.stream is None:
        from stdeploy.backends.dense_trunk import DenseTrunk

        trunk = DenseTrunk.open(asked.artifact, classifier.card, runtime)
    each = f"{counted(classifier.views, 'view')} a video"
    if asked.timeline is not None:
        each = f"a window every {asked.over_time.hop_seconds:g} s"
    note(f"{asked.artifact}, {runtime.name} on {runtime.device} in {runtime.precision}, {each}")

    def rows_of(progress: Progress) -> Iterator[Record]:
        if asked.timeline is None:
            many = classifier.classify_many(wanted)
            answers = ((row.video, _result_of(row)) for row in many)
            return _saved(answers, classifier, saving, asked.top_k)
        seconds = progress if asked.one_by_one else lambda _done, _of: None
        timelines = _timelines(classifier, wanted, asked.over_time, trunk, seconds)
        return _saved(timelines, classifier, saving, asked.top_k)

    return rows_of


def _opened(asked: Asked, opened: contextlib.ExitStack) -> "Classifier":
    from stdeploy.inference.classifier import Classifier
    from stdeploy.video.decode_pool import DecodePool
    from stdeploy.video.limits import Limits

    how: dict[str, Any] = {}
    if asked.untrusted:
        pool = opened.enter_context(
            DecodePool(asked.chain.decoding_jobs, Limits(), on_gpu=asked.chain.decoder == "nvdec")
        )
        how = {"read": pool.read_clips, "give_up": pool.close}
    return Classifier.open(
        asked.artifact, options=asked.chain, runtime_options=asked.runtime, **how
    )


def _result_of(row: "ClassifiedVideo") -> Result:
    result = row.prediction or row.error
    assert result is not None
    return result


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
