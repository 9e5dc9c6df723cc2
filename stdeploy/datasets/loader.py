"""From what a user names with --data to labelled videos, whatever the layout."""

import dataclasses
import shlex
from pathlib import Path

from stdeploy.artifacts.files import meant_beside
from stdeploy.datasets.csv_list import read_list
from stdeploy.datasets.folders import folders_in
from stdeploy.datasets.labelled_videos import SPLIT_NAMES, LabelledVideos, Split
from stdeploy.datasets.layouts import known_layouts, layout_of
from stdeploy.errors import DatasetError
from stdeploy.video.video_files import SUFFIXES_IN_WORDS, PassedOver, holds_no_video, videos_in


@dataclasses.dataclass(frozen=True)
class NamedVideos:
    """Videos that a user named, without their labels.

    Attributes:
        source: what was named.
        split: which part of it they are, where it is a data set.
        videos: the files, each once.
        passed_over: what was found in folders and not taken.
    """

    source: Path
    split: Split | None
    videos: tuple[Path, ...] = dataclasses.field(repr=False)
    passed_over: PassedOver = dataclasses.field(default_factory=PassedOver, repr=False)

    def some(self, count: int) -> str:
        """How many of them are taken, in words: "32 of the 196 training videos of my-lists"."""
        there = len(self.videos)
        what = f"{SPLIT_NAMES[self.split]} videos" if self.split else "videos"
        return f"{min(count, there)} of the {there} {what} of {self.source}"


def read_split(
    data: Path, split: Split, *, fold: int = 1, missing_ok: bool = False
) -> LabelledVideos:
    """Read one split of a data set, or one list.

    Both splits of a folder get the same labels in the same order.

    Args:
        data: a list, which is taken for either split, or a folder.
        split: "train" or "validation".
        fold: from 1; which division into splits, of data sets that have several.
        missing_ok: whether videos may be listed that are not there.

    Raises:
        DatasetError: nothing that is known, something is missing in it, or it has no such fold.
    """
    found = _read(data, split, fold)
    if not found.samples:
        raise DatasetError(f"{str(data)!r} lists no {SPLIT_NAMES[split]} video")
    if not missing_ok:
        _check_there(found, data, split)
    return found


def _check_there(found: LabelledVideos, data: Path, split: Split) -> None:
    missing = [sample.video for sample in found.samples if not sample.video.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of the {len(found.samples)} {SPLIT_NAMES[split]} videos of "
            f"{str(data)!r} are not there, the first is {str(missing[0])!r}; `stdeploy data check` "
            "with -o FOLDER writes lists without them there; give one of those"
        )


def videos_of(named: Path, split: Split) -> NamedVideos:
    """The videos of a data set's split, of a list, or of any folder and those below it.

    A folder in a known layout is a data set: what it holds besides the split is never taken.

    Args:
        named: a folder, or a .csv list, of which all is taken.
        split: "train" or "validation".

    Raises:
        DatasetError: none of these, no video in it, or a data set without the split.
    """
    if not named.is_dir() and not (named.is_file() and named.suffix.lower() == ".csv"):
        what = "is neither folder nor .csv list" if named.exists() else "does not exist"
        raise DatasetError(
            f"{str(named)!r} {what}; name a folder of videos, a .csv list with the columns "
            f"path,label, or the folder of a data set{meant_beside(named)}"
        )
    if named.is_dir() and layout_of(named) is None:
        passed = PassedOver()
        videos = tuple(sorted(videos_in(named, recursive=True, passed_over=passed)))
        if not videos:
            raise DatasetError(f"{str(named)!r} {holds_no_video(passed)}; {SUFFIXES_IN_WORDS}")
        return NamedVideos(named, None, videos, passed)
    try:
        found = read_split(named, split, missing_ok=True)
    except DatasetError as error:
        if named.is_file():
            raise
        raise DatasetError(
            f"{error}; {str(named)!r} looks like a data set, of which only {SPLIT_NAMES[split]} "
            "videos are taken: for others, name a folder that holds them alone"
        ) from error
    _check_there(found, named, split)
    videos = tuple(dict.fromkeys(sample.video for sample in found.samples))
    return NamedVideos(
        named, split if named.is_dir() else None, videos, passed_over=found.passed_over
    )


def _read(data: Path, split: Split, fold: int) -> LabelledVideos:
    if data.is_file():
        _check_fold(str(data), fold, 1)
        return read_list(data)
    if not data.is_dir():
        what_then = meant_beside(data) or f"; name {known_layouts()}"
        raise DatasetError(f"{str(data)!r} does not exist{what_then}")
    found = layout_of(data)
    if found is None:
        classes = [path for path in folders_in(data) if any(videos_in(path, recursive=True))]
        if len(classes) > 1:
            raise DatasetError(
                f"{str(data)!r} holds folders of videos, {classes[0].name!r} and others, but none "
                f"to validate on; `stdeploy data split {shlex.quote(str(data))} -o LISTS` writes "
                "lists of what to train on and what to hold out, each folder a class"
            )
        raise DatasetError(
            f"{str(data)!r} is no data set that is known here; name {known_layouts()}"
        )
    _check_fold(str(data), fold, found.folds)
    return found.read(data, split) if found.folds == 1 else found.read(data, split, fold=fold)


def _check_fold(data: str, fold: int, folds: int) -> None:
    if not 1 <= fold <= folds:
        there = f"the folds 1 to {folds}" if folds > 1 else "one division only"
        raise DatasetError(f"--fold {fold}: {data!r} has {there}")
