"""Real clips of videos, for the ranges of int8 and for the gate of a precision."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.card import Calibration
from stdeploy.errors import DatasetError, VideoError
from stdeploy.spec import ClipSpec
from stdeploy.video.samples import middle_clips
from stdeploy.video_files import SUFFIXES_IN_WORDS, PassedOver, holds_no_video, videos_in

_WANTED = f"--calibrate wants real videos of the kind that will be classified ({SUFFIXES_IN_WORDS})"


@dataclasses.dataclass(frozen=True)
class CalibrationClips:
    """Clips of real videos.

    Attributes:
        record: what the card says about them.
        frames: uint8 (N, T, H, W, 3), RGB.
    """

    record: Calibration
    frames: NDArray[np.uint8] = dataclasses.field(repr=False)


def read_calibration(
    source: Path,
    clip: ClipSpec,
    *,
    max_clips: int,
    videos: Sequence[Path] = (),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> CalibrationClips:
    """Take the middle clip of videos that are evenly spaced over all that there are.

    Args:
        source: a folder of videos, at any depth; only a name for the card where `videos` are given.
        clip: which frames, and how large.
        max_clips: most clips to take; more than a few dozen change little.
        videos: to take instead of all those in the folder.
        progress: is told clips read and wanted.

    Raises:
        DatasetError: no folder, or no video in it that can be read.
    """
    if not videos:
        if not source.is_dir():
            raise DatasetError(f"{str(source)!r} is no folder; {_WANTED}")
        passed = PassedOver()
        videos = sorted(videos_in(source, recursive=True, passed_over=passed))
        if not videos:
            raise DatasetError(f"{str(source)!r} {holds_no_video(passed)}; {_WANTED}")
    count = min(max_clips, len(videos))
    clips: list[NDArray[np.uint8]] = []
    try:
        for frames_of_one in middle_clips(videos, clip, count=count):
            clips.append(frames_of_one)
            progress(len(clips), count)
    except VideoError as error:
        raise DatasetError(f"{str(source)!r}: {error}; {_WANTED}") from error
    frames = np.stack(clips)
    record = Calibration(
        source=str(source),
        clips=len(clips),
        frames_sha256=hashlib.sha256(frames.data).hexdigest(),
    )
    return CalibrationClips(record, frames)
