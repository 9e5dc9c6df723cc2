"""The clips that stand for one video: from a file to uint8 frames."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.spec import ClipSpec
from stdeploy.video.decoder import DecoderName
from stdeploy.video.limits import NO_LIMITS, Limits
from stdeploy.video.reader import VideoReader
from stdeploy.video.sampling import frames_at, view_times
from stdeploy.video.timing import Timing
from stdeploy.video.transform import clip_crops


@dataclasses.dataclass(frozen=True)
class Views:
    """The clips of one video.

    Attributes:
        frames: uint8 (V, T, H, W, 3), RGB.
        times_seconds: (V, T), when each frame is shown, from the first frame of the video.
    """

    frames: NDArray[np.uint8] = dataclasses.field(repr=False)
    times_seconds: NDArray[np.float64] = dataclasses.field(repr=False)


def read_views(
    video: Path,
    clip: ClipSpec,
    views: int,
    *,
    crops: int = 1,
    decoder: DecoderName = "auto",
    limits: Limits = NO_LIMITS,
) -> Views:
    """Decode the clips of a video, evenly spaced over it; the crops of one time side by side.

    Args:
        video: a file.
        clip: which frames, and how large.
        views: times wanted.
        crops: clips at each time, 1 (the centre) or 3 (along the longer side).
        decoder: see `VideoReader`.
        limits: likewise.

    Raises:
        VideoError: it gives no clip; the message says why, without the path.
    """
    reader = VideoReader(video, decoder=decoder, limits=limits)

    def choose(timing: Timing) -> NDArray[np.intp]:
        return frames_at(timing.timestamps, view_times(timing.duration, clip, views))

    # (times, T, crops, H, W, 3)
    numbers, frames = reader.gather(choose, functools.partial(clip_crops, clip=clip, crops=crops))
    clips = frames.swapaxes(1, 2).reshape(-1, *clip.frames_shape)
    return Views(clips, reader.timing.timestamps[numbers].repeat(crops, axis=0))
