"""What augmentation in time comes to in the videos of a data set; section 4 of the paper.

Pure arithmetic. A crop moves only as far as the frame has room (eq. 9), and a clip may be longer
than its video (eq. 8).
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec, ShortVideo
from stdeploy.train.augment import Augmentation, Draw, possible_strides, sampled_times
from stdeploy.video.sampling import frames_at, frames_past_end
from stdeploy.video.transform import resized_shape

# What becomes of a video whose clip is longer.
_BECOMES: Mapping[ShortVideo, str] = {
    "hold": "its last frame stands still",
    "loop": "it begins again",
    "stretch": "its frames are spread over the clip",
    "error": "it is refused",
}
_NORMAL_PEAK = 1 / math.sqrt(2 * math.pi)  # of the density of the normal distribution


@dataclasses.dataclass(frozen=True)
class EgoMotion:
    """How far crops move of what eq. (9) wants; pairs are vertical, horizontal.

    Attributes:
        wanted_path_px: mean length of the path of eq. (9) along one axis, from the first crop of
            a clip to the last.
        path_px: mean length that the frames have room for.
        wanted_sigma_px: of eq. (9), in pixels a frame.
        sigma_px: root mean square of the velocity from the first crop to the last, in pixels a
            frame.
        held: share of the clips whose crop stands still at a border for a part of the clip,
            because its path is longer than the room, 0..1.
    """

    wanted_path_px: float
    path_px: tuple[float, float]
    wanted_sigma_px: float
    sigma_px: tuple[float, float]
    held: tuple[float, float]

    def in_words(self) -> str:
        """One line; the horizontal number of each pair comes first."""
        if not self.wanted_path_px:
            return "ego-motion (eq. 9), x/y: none in this recipe"
        path, sigma = (f"{pair[1]:.1f}/{pair[0]:.1f}" for pair in (self.path_px, self.sigma_px))
        return (
            f"ego-motion (eq. 9), x/y: of paths of {self.wanted_path_px:.1f} px there is room for "
            f"{path} px, of sigma {self.wanted_sigma_px:.1f} px a frame for {sigma}; "
            f"{self.held[1]:.0%}/{self.held[0]:.0%} of clips are held at a border"
        )


def ego_motion_of(
    shapes: Iterable[tuple[int, int]], clip: ClipSpec, augmentation: Augmentation
) -> EgoMotion:
    """How much of the ego-motion a data set has room for.

    Exact but for the rounding to whole pixels: a path is |x| long with x ~ N(0, s) and
    s = sigma (T - 1), and `crop_corners` gives all of it up to the room R between frame and crop,
    and R of what is longer. With a = R / s, the density phi of the normal distribution and
    Q = P(|z| > a),

        E min(|x|, R) = 2 s (phi(0) - phi(a)) + R Q
        E min(x^2, R^2) = s^2 (1 - Q - 2 a phi(a)) + R^2 Q

    >>> spec = ClipSpec(num_frames=32, short_side_px=256, crop_px=224)
    >>> moving = ego_motion_of([(240, 427)], spec, Augmentation(ego_motion_sigma_px=2.0))
    >>> round(moving.wanted_path_px, 1), [round(path, 1) for path in moving.path_px]
    (49.5, [25.6, 49.5])

    Args:
        shapes: height and width of each video in pixels, at least one.
        clip: T, the crop, and the shorter side where the recipe does not vary it.
        augmentation: sigma, and the shorter sides.
    """
    sigma, steps = augmentation.ego_motion_sigma_px, clip.num_frames - 1
    spread = sigma * steps
    if not spread:
        return EgoMotion(0.0, (0.0, 0.0), 0.0, (0.0, 0.0), (0.0, 0.0))
    counts = collections.Counter(shapes)
    low, high = augmentation.short_side_px or (clip.short_side_px, clip.short_side_px)
    sides = range(max(low, clip.crop_px), max(high, clip.crop_px) + 1)
    resized = [[resized_shape(*shape, side) for side in sides] for shape in counts]
    room = np.array(resized, dtype=np.float64) - clip.crop_px  # (formats, sides, 2)
    a = room / spread
    density = _NORMAL_PEAK * np.exp(-(a**2) / 2)
    longer = np.vectorize(math.erfc, otypes=[np.float64])(a / math.sqrt(2))
    path = 2 * spread * (_NORMAL_PEAK - density) + room * longer
    square = spread**2 * (1 - longer - 2 * a * density) + room**2 * longer

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = np.array(list(counts.values()), dtype=np.float64)
        return np.asarray(np.average(values.mean(axis=1), axis=0, weights=weights))

    return EgoMotion(
        2 * spread * _NORMAL_PEAK,
        _pair(mean(path)),
        sigma,
        _pair(np.sqrt(mean(square)) / steps),
        _pair(mean(longer)),
    )


@dataclasses.dataclass(frozen=True)
class ShortVideos:
    """What training clips are like that are longer than their video, of all clips.

    Attributes:
        longer: share of the clips that are, 0..1.
        past_end: share of the frames of all clips that lie past the end of their video, 0..1; see
            `frames_past_end`.
        still: share of the frames of all clips that are the frame before once more, 0..1.
        restarted: share of the clips in which the video begins again, 0..1.
        mean_stride: mean of the sampling rate r as it is seen; a video that is stretched is seen
            at a smaller one.
        stride_deviation: standard deviation of the same.
        short_video: what short videos get; see ClipSpec.
    """

    longer: float
    past_end: float
    still: float
    restarted: float
    mean_stride: float
    stride_deviation: float
    short_video: ShortVideo

    def in_words(self) -> str:
        """One line."""
        return (
            f"{past_end_in_words(self.past_end, self.short_video)}; the sampling rate r of eq. (8) "
            f"is seen as {self.mean_stride:.2f} +- {self.stride_deviation:.2f}"
        )


def short_videos_of(
    durations: Iterable[float], clip: ClipSpec, augmentation: Augmentation
) -> ShortVideos:
    """What becomes of the videos that are shorter than a clip.

    Exact: all possible rates of all durations, for videos with clip.fps frames a second.

    Args:
        durations: of the videos, in seconds, at least one.
        clip: T, the frame rate, and what short videos get.
        augmentation: the rates.
    """
    rows, weights = [], []
    for duration, count in collections.Counter(durations).items():
        strides = possible_strides(duration, clip, augmentation)
        for stride in strides:
            strided = clip.model_copy(update={"frame_stride": stride})
            rows.append(_clip_of(duration, strided))
            weights.append(count / len(strides))
    table = np.array(rows, dtype=np.float64)
    longer, past_end, still, restarted, stride = np.average(table, axis=0, weights=weights).tolist()
    variance = np.average((table[:, 4] - stride) ** 2, weights=weights)
    return ShortVideos(
        longer, past_end, still, restarted, stride, math.sqrt(variance), clip.short_video
    )


def _clip_of(duration: float, clip: ClipSpec) -> tuple[float, float, float, float, float]:
    """Of one clip: longer, past_end, still, restarted and rate, as in ShortVideos."""
    if duration > clip.span_seconds or clip.short_video == "error":
        return 0.0, 0.0, 0.0, 0.0, clip.frame_stride
    stamps = np.arange(max(1, round(duration * clip.fps))) / clip.fps
    draw = Draw(clip.frame_stride, 0.0, clip.short_side_px, (0, 0), (0, 0), False, (1, 1, 1, 0))
    times = sampled_times(duration, clip, draw)
    steps = np.diff(frames_at(stamps, times))
    frames = clip.num_frames
    rate = (times[1] - times[0]) * clip.fps if clip.short_video == "stretch" else clip.frame_stride
    past_end = frames_past_end(duration, clip) / frames
    return 1.0, past_end, float((steps == 0).sum()) / frames, float((steps < 0).any()), rate


def past_end_in_words(share: float, short_video: ShortVideo) -> str:
    """How many frames of training clips lie past the end of their video, in one line.

    Args:
        share: of the frames of all clips, 0..1.
        short_video: of the clips.
    """
    lie = "would lie" if short_video == "stretch" else "lie"
    return (
        f"{share:.0%} of the frames of training clips {lie} past the end of their video "
        f"(short_video = {short_video}: {_BECOMES[short_video]})"
    )


def _pair(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values[0]), float(values[1])
