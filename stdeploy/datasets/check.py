"""Checking a data set before a run trips over it: every video, and how many a class has."""

import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from stdeploy.artifacts.files import sha256_of
from stdeploy.datasets.labelled_videos import SPLIT_NAMES, LabelledVideos, Sample, Split
from stdeploy.errors import DatasetError, VideoError
from stdeploy.video.flaws import NO_FLAWS, Flaws
from stdeploy.video.opencv import limit_threads
from stdeploy.video.reader import VideoReader

# Walking and talking differ by one letter, too. It is a slip only in names that are long enough,
# where one of the classes has this much fewer videos.
_SLIP_LETTERS = 5
_SHARE_OF_A_SLIP = 0.25
_ONE_NAME = "if it is one class, give both one name"


@dataclasses.dataclass(frozen=True)
class Looked:
    """What a look at one video found.

    Attributes:
        video: the file.
        reason: why it cannot be read; None where it can.
        frames: how many were decoded.
        seconds: how long it is shown.
        sha256: of the file.
        announced_seconds: how long it says that it lasts.
        flaws: what is wrong with one that can be read.
        width_px: of a frame, the right way up.
        height_px: likewise.
    """

    video: Path
    reason: str | None
    frames: int = 0
    seconds: float = 0.0
    sha256: str = ""
    announced_seconds: float = 0.0
    flaws: Flaws = NO_FLAWS
    width_px: int = 0
    height_px: int = 0


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something wrong with a video.

    Attributes:
        kind: "broken", "damaged" (it breaks off), "lossy" (frames in it do not decode), "odd"
            (what else was noted), "short", "duplicate" (the same file under the same label),
            "mislabelled" (the same file under several labels) or "leaked" (a validation video to
            train on).
        split: which list it is in.
        video: the file.
        detail: what was seen, in words.
        dropped: whether the clean list goes without it.
    """

    kind: str
    split: Split
    video: Path
    detail: str
    dropped: bool


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        clean: the splits without what was dropped.
        findings: all that was wrong, in the order of the lists.
    """

    clean: Mapping[Split, LabelledVideos]
    findings: tuple[Finding, ...]


def look(video: Path) -> Looked:
    """Decode a video once, to its end."""
    try:
        reader = VideoReader(video)
        reader.scan()
        digest = sha256_of(video)
    except VideoError as error:
        return Looked(video, str(error))
    except OSError as error:
        return Looked(video, f"cannot be read: {error.strerror}")
    timing, (height, width) = reader.timing, reader.frame_shape
    return Looked(
        video,
        None,
        frames=len(timing.timestamps),
        seconds=timing.duration,
        sha256=digest,
        announced_seconds=reader.announced_seconds,
        flaws=reader.flaws,
        width_px=width,
        height_px=height,
    )


def look_at_all(
    videos: Iterable[Path],
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[Path, Looked]:
    """Look at videos in parallel, each once.

    Args:
        videos: files, in any order.
        workers: processes; None for one on each processor.
        progress: is told videos done and in all.

    Raises:
        DatasetError: a video brought its process down.
    """
    paths = list(dict.fromkeys(videos))
    found: dict[Path, Looked] = {}
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=workers or os.cpu_count(),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=limit_threads,
        initargs=(1,),
    ) as pool:
        try:
            for looked in pool.map(look, paths, chunksize=4):
                found[looked.video] = looked
                progress(len(found), len(paths))
        except BrokenProcessPool as error:
            raise DatasetError(
                f"a process died over one of the videos after {str(paths[len(found)])!r}; take "
                "that out of the list, or give it more memory"
            ) from error
    return found


def judge(
    splits: Mapping[Split, LabelledVideos], looked: Mapping[Path, Looked], *, min_seconds: float
) -> Checked:
    """Decide what is wrong. Pure: no file is touched here.

    Of the copies of a file under one label the first is kept; a file under several labels is
    dropped altogether, because nothing says which is right; a file in both splits is kept for
    validation alone. Short videos are kept: `ClipSpec.short_video` says what becomes of them.

    Args:
        splits: to judge.
        looked: what was found, by video.
        min_seconds: shorter videos are reported.
    """
    labels_of: dict[str, dict[str, Path]] = {}  # by digest: a video of each label
    held_out: set[str] = set()
    for split, data in splits.items():
        for sample in data.samples:
            digest = looked[sample.video].sha256
            labels_of.setdefault(digest, {}).setdefault(data.labels[sample.label], sample.video)
            if split == "validation":
                held_out.add(digest)
    findings: list[Finding] = []
    clean: dict[Split, LabelledVideos] = {}
    for split, data in splits.items():
        first: dict[str, Path] = {}
        kept: list[Sample] = []
        for sample in data.samples:
            seen = looked[sample.video]
            find = functools.partial(Finding, split=split, video=sample.video)
            labels = labels_of[seen.sha256]
            if seen.reason is not None:
                findings.append(find(kind="broken", detail=seen.reason, dropped=True))
                continue
            if seen.flaws.damaged_after_seconds is not None:
                # What it was labelled for may lie in the part that is missing.
                ends = (
                    f"breaks off after {seen.seconds:.1f} s of {seen.announced_seconds:.1f} s; "
                    + ("; ".join(seen.flaws.notes) or "copy it again")
                )
                findings.append(find(kind="damaged", detail=ends, dropped=True))
                continue
            if len(labels) > 1:
                named = ", ".join(f"{label!r} ({labels[label].name})" for label in sorted(labels))
                detail = f"is the same file under {named}"
                findings.append(find(kind="mislabelled", detail=detail, dropped=True))
                continue
            if seen.sha256 in first:
                other = first[seen.sha256]
                twice = other == sample.video
                copy = "is listed twice" if twice else f"is a copy of {str(other)!r}"
                findings.append(find(kind="duplicate", detail=copy, dropped=True))
                continue
            if split == "train" and seen.sha256 in held_out:
                where = "is a validation video too"
                findings.append(find(kind="leaked", detail=where, dropped=True))
                continue
            if seen.flaws.lost_frames:
                detail = f"{seen.flaws.lost_frames} of its frames cannot be decoded"
                findings.append(find(kind="lossy", detail=detail, dropped=False))
            estimated = ("lacks timestamps: times are estimated",) * seen.flaws.times_estimated
            findings += [
                find(kind="odd", detail=detail, dropped=False)
                for detail in (*estimated, *seen.flaws.notes)
            ]
            if seen.seconds < min_seconds:
                length = f"is {seen.seconds:.2f} s long, under {min_seconds:g} s"
                findings.append(find(kind="short", detail=length, dropped=False))
            first[seen.sha256] = sample.video
            kept.append(sample)
        clean[split] = dataclasses.replace(data, samples=tuple(kept))
    return Checked(clean, tuple(findings))


@dataclasses.dataclass(frozen=True)
class ClassFinding:
    """Something wrong with classes.

    Attributes:
        kind: "empty" (no video in a split), "alike" (see `classes_alike`) or "few" (too few
            videos to learn from, or to measure accuracy on).
        split: which list it is about.
        labels: the classes; all of them where it is about the whole split.
        detail: what was seen and what to do, in words.
    """

    kind: str
    split: Split
    labels: tuple[str, ...]
    detail: str


def judge_classes(
    splits: Mapping[Split, LabelledVideos], *, min_videos: int
) -> tuple[ClassFinding, ...]:
    """Decide what is wrong with the classes. Pure.

    Args:
        splits: without the videos that are left out; both with the same labels.
        min_videos: classes with fewer training videos, and fewer validation videos in all, are
            reported.
    """
    return tuple(
        finding
        for split, data in splits.items()
        for finding in (
            *_empty(split, data),
            # Those of validation are the labels of training.
            *(classes_alike(data) if split == "train" else ()),
            *_few(split, data, min_videos),
        )
    )


def classes_alike(training: LabelledVideos) -> Iterator[ClassFinding]:
    """Classes that may be one, by their names. Pure.

    They differ only in capitals, spaces and signs; or by one letter (one more, one less, another
    one, or two neighbours swapped), where the longer name has five or more, and one of the two at
    most a quarter of the other's videos.
    """
    first: dict[str, str] = {}
    for label in training.labels:
        plain = "".join(character for character in label.casefold() if character.isalnum())
        other = first.setdefault(plain, label)
        if plain and other != label:
            detail = f"classes {other!r} and {label!r} differ in spelling only; {_ONE_NAME}"
            yield ClassFinding("alike", "train", (other, label), detail)
    counts = dict(zip(training.labels, training.counts(), strict=True))
    for one, other in itertools.combinations(first, 2):
        rare, common = sorted((first[one], first[other]), key=lambda label: counts[label])
        if counts[rare] <= counts[common] * _SHARE_OF_A_SLIP and _one_letter_apart(one, other):
            detail = (
                f"class {rare!r} ({_count(counts[rare], 'train')}) differs from {common!r} "
                f"({counts[common]}) by one letter; {_ONE_NAME}"
            )
            yield ClassFinding("alike", "train", (common, rare), detail)


def _one_letter_apart(one: str, other: str) -> bool:
    """Whether different names differ by one letter, or by two neighbours that are swapped."""
    if abs(len(one) - len(other)) > 1 or max(len(one), len(other)) < _SLIP_LETTERS:
        return False
    pairs = zip(one, other, strict=False)
    same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    one, other = one[same:], other[same:]
    swapped = one[:2] == other[:2][::-1] and one[2:] == other[2:]
    near = swapped or one[1:] == other[1:] or one[1:] == other or one == other[1:]
    return near and (one[:1] + other[:1]).isalpha()  # camera1 and camera2 are no slip


def _empty(split: Split, data: LabelledVideos) -> Iterator[ClassFinding]:
    advice = {
        "train": "training refuses that; add some, or leave the class out",
        "validation": "its accuracy cannot be measured; move about one in five of its training "
        "videos to validation",
    }
    for label, count in zip(data.labels, data.counts(), strict=True):
        if not count:
            detail = f"class {label!r} has no {SPLIT_NAMES[split]} video; {advice[split]}"
            yield ClassFinding("empty", split, (label,), detail)


def _few(split: Split, data: LabelledVideos, min_videos: int) -> Iterator[ClassFinding]:
    if split == "validation":
        videos = len(data.samples)
        if 0 < videos < min_videos:
            detail = (
                f"{_count(videos, split)}, under {min_videos}; each is {100 / videos:.0f} points "
                "of accuracy, so that two models can hardly be told apart"
            )
            yield ClassFinding("few", split, data.labels, detail)
        return
    counts = dict(zip(data.labels, data.counts(), strict=True))
    few = sorted((count, label) for label, count in counts.items() if 0 < count < min_videos)
    if few:
        count, label = few[0]
        named = (
            f"class {label!r} has {_count(count, split)}"
            if len(few) == 1
            else f"{len(few)} classes have few training videos, the fewest {label!r} with {count}"
        )
        detail = (
            f"{named}, under {min_videos}; a class with so few is often never named: add videos"
        )
        yield ClassFinding("few", split, tuple(label for _, label in few), detail)


def _count(videos: int, split: Split) -> str:
    return f"{videos} {SPLIT_NAMES[split]} video{'' if videos == 1 else 's'}"
