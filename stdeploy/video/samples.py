"""A few clips that stand for many videos: for calibration, and for what a network looks at."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import VideoError
from stdeploy.video.clips import read_views


def middle_clips(
    videos: Sequence[Path],
    clip: ClipSpec,
    *,
    count: int,
    accept: Callable[[Path, NDArray[np.uint8]], bool] = lambda _video, _frames: True,
) -> Iterator[NDArray[np.uint8]]:
    """Decode the middle clips of videos that are evenly spaced in a sequence of them.

    Args:
        videos: files, at least one.
        clip: which frames, and how large.
        count: clips wanted. There are fewer where fewer videos can be read.
        accept: whether a clip of a video is taken; one that is not is passed over, too.

    Yields:
        uint8 (T, H, W, 3), RGB.

    Raises:
        VideoError: none of the videos gives a clip.
    """
    given, reason = 0, ""
    for video in evenly(videos, count):
        if given == count:
            return
        try:
            frames: NDArray[np.uint8] = read_views(video, clip, views=1).frames[0]
        except VideoError as error:
            reason = str(error)
            continue
        if not accept(video, frames):
            reason = "gives a clip that is not taken"
            continue
        given += 1
        yield frames
    if not given:
        raise VideoError(
            f"none of the {len(videos)} videos can be read; the last, {str(video)!r}, {reason}"
        )


def evenly(videos: Sequence[Path], count: int) -> list[Path]:
    """All videos, so ordered that the first `count` are spread evenly over them.

    The others are spares: a video that cannot be read costs no clip while there are any.
    """
    wanted = min(count, len(videos))
    chosen = [videos[round(number * len(videos) / wanted)] for number in range(wanted)]
    taken = set(chosen)
    return [*chosen, *(video for video in videos if video not in taken)]
