"""Real clips of videos, for the ranges of int8 and for the gate of a precision."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import Calibration
from stdeploy.artifacts.files import StrPath, as_path
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.datasets.loader import NamedVideos, videos_of
from stdeploy.errors import DatasetError, VideoError
from stdeploy.video.clips import middle_clips
from stdeploy.video.video_files import SUFFIXES_IN_WORDS

_WANTED = f"--calibrate wants real videos of the kind that will be classified ({SUFFIXES_IN_WORDS})"
# Of 255; the pixels of a frame differ by 20 in a transparent drawing, by 40 to 120 in most videos.
_SINGLE_COLOUR_LEVELS = 5.0
_HELD_OUT_OF = 4  # one of so many clips judges, the others set the ranges
_FEW_CLIPS = 8


@dataclasses.dataclass(frozen=True)
class CalibrationClips:
    """Clips of real videos, no two alike.

    Attributes:
        record: what the card says about them.
        frames: uint8 (N, T, H, W, 3), RGB; those that judge only come last.
        notes: which videos gave no clip that is of use, and that there are few.
    """

    record: Calibration
    frames: NDArray[np.uint8] = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def for_ranges(self) -> NDArray[np.uint8]:
        """The clips that ranges are measured on."""
        return self.frames[: self.record.clips - self.record.held_out]


def named_videos(calibrate: StrPath | NamedVideos) -> NamedVideos:
    """The videos of what a caller named, of a data set those that are trained on.

    Raises:
        DatasetError: there are none.
        SpecError: a path that is none.
    """
    if isinstance(calibrate, NamedVideos):
        return calibrate
    return videos_of(as_path(calibrate, "a folder of videos"), "train")


def read_calibration(
    named: NamedVideos,
    clip: ClipSpec,
    *,
    max_clips: int,
    hold_out: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> CalibrationClips:
    """Take the middle clip of videos that are evenly spaced over all that there are.

    Clips of a single colour, and those with the very frames of another, are left out: they say
    nothing about the ranges of real videos, and judge nothing.

    Args:
        named: the videos, and what they are called in the card.
        clip: which frames, and how large.
        max_clips: most clips to take; more than a few dozen change little.
        hold_out: keep every fourth clip, at least one, for judging alone: what ranges are measured
            on cannot say how others fare.
        progress: is told clips read and wanted.

    Raises:
        DatasetError: no video gives a clip, or one alone where one has to be held out.
    """
    source, videos = named.source, named.videos
    count = min(max_clips, len(videos))
    clips: list[NDArray[np.uint8]] = []
    by_digest: dict[str, Path] = {}
    refused: list[str] = []

    def accept(video: Path, frames: NDArray[np.uint8]) -> bool:
        first = by_digest.setdefault(hashlib.sha256(frames.data).hexdigest(), video)
        why = single_colour(frames)
        if why is None and first is not video:
            why = f"has the frames of {str(first)!r}"
        if why is not None:
            refused.append(f"{str(video)!r} {why}")
        return why is None

    try:
        for frames_of_one in middle_clips(videos, clip, count=count, accept=accept):
            clips.append(frames_of_one)
            progress(len(clips), count)
    except VideoError as error:
        reason = _several(refused) if refused else str(error)
        raise DatasetError(f"{str(source)!r}: {reason}; {_WANTED}") from error
    left_out = f", and {_several(refused)}" if refused else ""
    if hold_out and len(clips) == 1:
        raise DatasetError(
            f"{str(source)!r} gives one clip{left_out}: what sets the ranges of int8 must not be "
            f"all that judges it; name at least 2 different videos, better {_FEW_CLIPS} or more"
        )
    judges = _judges(len(clips)) if hold_out else set()
    order = sorted(range(len(clips)), key=lambda number: (number in judges, number))
    frames = np.stack([clips[number] for number in order])
    record = Calibration(
        source=str(source),
        clips=len(clips),
        held_out=len(judges),
        frames_sha256=hashlib.sha256(frames.data).hexdigest(),
    )
    notes = [f"left out: {_several(refused)}"] if refused else []
    if hold_out and len(clips) < _FEW_CLIPS:
        notes.append(
            f"only {len(clips)} clips of {source}: {len(clips) - len(judges)} set the ranges of "
            f"int8, and {len(judges)} and the synthetic ones judge them; {_FEW_CLIPS} or more are "
            "advised"
        )
    return CalibrationClips(record, frames, tuple(notes))


def real_clips(
    named: StrPath | NamedVideos | None,
    clip: ClipSpec,
    *,
    max_clips: int,
    tell: Callable[[str], None],
) -> NDArray[np.uint8] | None:
    """Clips of real videos to compare answers on, uint8 (N, T, H, W, 3); None where none are named.

    Args:
        named: a folder, a .csv list, a data set, or the videos of one.
        clip: which frames, and how large.
        max_clips: most clips to take.
        tell: is told which videos are of no use.

    Raises:
        DatasetError: no video gives a clip.
    """
    if named is None:
        return None
    found = read_calibration(named_videos(named), clip, max_clips=max_clips)
    for text in found.notes:
        tell(text)
    return found.frames


def single_colour(frames: NDArray[np.uint8]) -> str | None:
    """Why a clip shows nothing: each of its frames is of one colour, or nearly.

    Args:
        frames: uint8 (T, H, W, 3).

    Returns:
        The reason, to follow the name of the video; None for a clip that shows something.
    """
    spread = np.mean([frame.std(axis=(0, 1)).max() for frame in frames])  # over T
    if spread >= _SINGLE_COLOUR_LEVELS:
        return None
    return (
        f"shows single colours (the pixels of a frame differ by {spread:.1f} of 255 levels, "
        f"{_SINGLE_COLOUR_LEVELS:g} are wanted)"
    )


def _judges(count: int) -> set[int]:
    """Numbers of the clips that judge only: they stand for the whole folder as the others do."""
    return set(range(_HELD_OUT_OF - 1, count, _HELD_OUT_OF)) or {count - 1}


def _several(reasons: Sequence[str]) -> str:
    """The first of some reasons in full, and the others by number."""
    more = len(reasons) - 3
    return "; ".join(reasons[:3]) + (f"; and {more} more" if more > 0 else "")
