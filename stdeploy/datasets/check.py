"""Looking at every video of a data set once, before a run trips over it."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from stdeploy.artifacts.files import sha256_of
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample, Split
from stdeploy.errors import DatasetError, VideoError
from stdeploy.video.flaws import NO_FLAWS, Flaws
from stdeploy.video.opencv import limit_threads
from stdeploy.video.reader import VideoReader


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
    """

    video: Path
    reason: str | None
    frames: int = 0
    seconds: float = 0.0
    sha256: str = ""
    announced_seconds: float = 0.0
    flaws: Flaws = NO_FLAWS


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
    timing = reader.timing
    return Looked(
        video,
        None,
        frames=len(timing.timestamps),
        seconds=timing.duration,
        sha256=digest,
        announced_seconds=reader.announced_seconds,
        flaws=reader.flaws,
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
