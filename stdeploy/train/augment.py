"""Augmentation of training clips: section 4 of the paper, and the usual spatial kinds.

Pure arithmetic on numbers and arrays. Everything spatial is drawn once for a clip, so that its
frames stay one video; only the ego-motion of eq. (9) moves along it.
"""

import dataclasses
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.artifacts.values import Spec
from stdeploy.video.sampling import EDGE_SECONDS, clip_times, view_times

Frames = NDArray[np.uint8]

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # of R, G, B (ITU-R BT.601)


class Augmentation(Spec):
    """What is varied from clip to clip; the defaults vary nothing but the crop's place.

    Attributes:
        frame_strides: sampling rates r of eq. (8), one of which is drawn for each clip; empty
            for the clip's own.
        fit_frame_strides: draw only among those rates at which the clip fits into the video, and
            take the smallest where it fits at none. Long clips then see short videos at fewer
            rates, or at one.
        ego_motion_sigma_px: standard deviation of the velocity of eq. (9), in pixels of the
            resized frame per frame of the clip.
        short_side_px: least and largest length that the shorter side is resized to; None for
            the clip's own.
        flip: mirror half of the clips. Labels with a left or right in them are swapped with
            their counterpart, and not mirrored where there is none.
        brightness: colours are multiplied by 1 +- this.
        contrast: differences from the clip's mean grey are multiplied by 1 +- this.
        saturation: differences from each pixel's grey are multiplied by 1 +- this.
        hue: turns of the colour circle are +- this.
        videomix_alpha: of the Beta distribution that VideoMix draws areas from; 0 mixes nothing.
    """

    frame_strides: tuple[int, ...] = ()
    fit_frame_strides: bool = False
    ego_motion_sigma_px: float = Field(default=0.0, ge=0.0, le=1000.0)
    short_side_px: tuple[int, int] | None = None
    flip: bool = False
    brightness: float = Field(default=0.0, ge=0.0, le=1.0)
    contrast: float = Field(default=0.0, ge=0.0, le=1.0)
    saturation: float = Field(default=0.0, ge=0.0, le=1.0)
    hue: float = Field(default=0.0, ge=0.0, le=0.5)
    videomix_alpha: float = Field(default=0.0, ge=0.0, le=100.0)

    @field_validator("frame_strides")
    @classmethod
    def _positive(cls, strides: tuple[int, ...]) -> tuple[int, ...]:
        if any(stride < 1 for stride in strides):
            raise ValueError("a sampling rate takes every r-th frame, so r is 1 or more")
        return strides

    @field_validator("short_side_px")
    @classmethod
    def _ascending(cls, sides: tuple[int, int] | None) -> tuple[int, int] | None:
        if sides is not None and not 8 <= sides[0] <= sides[1]:
            raise ValueError("give the least and the largest length, at least 8, in this order")
        return sides

    @model_serializer(mode="wrap")
    def _as_before(self, to_fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is off and was not there before.

        So the recipe of an earlier run stays the same text, and its state can be resumed.
        """
        fields: dict[str, Any] = to_fields(self)
        if not self.fit_frame_strides:
            fields.pop("fit_frame_strides", None)
        return fields


@dataclasses.dataclass(frozen=True)
class Draw:
    """What was drawn for one clip.

    Attributes:
        frame_stride: r of eq. (8).
        start: where the clip begins in the room that it has, 0..1.
        short_side_px: length that the shorter side is resized to.
        origin: (top, left) of the first crop among the places that it may have, 0..1 each.
        velocity_px: (v_y, v_x) of eq. (9), in pixels per frame of the clip.
        mirrored: whether left and right are swapped.
        colour: factors of brightness, contrast and saturation, and the turn of the hue.
        other_stride: which rate to take where frame_stride is too large for the video, among those
            at which the clip fits, 0..1; None to take frame_stride always.
    """

    frame_stride: int
    start: float
    short_side_px: int
    origin: tuple[float, float]
    velocity_px: tuple[float, float]
    mirrored: bool
    colour: tuple[float, float, float, float]
    other_stride: float | None = None

    @classmethod
    def of(cls, augmentation: Augmentation, clip: ClipSpec, rng: np.random.Generator) -> Self:
        """Draw for one clip.

        Everything is drawn always, so that switching ego-motion, flips or colours on leaves the
        others as they were; several sampling rates or sizes make other draws of all that follows.
        """
        strides = augmentation.frame_strides or (clip.frame_stride,)
        low, high = augmentation.short_side_px or (clip.short_side_px, clip.short_side_px)
        stride = strides[int(rng.integers(len(strides)))]
        start, top, left = rng.random(3)
        side = int(rng.integers(max(low, clip.crop_px), max(high, clip.crop_px) + 1))
        v_y, v_x = rng.standard_normal(2) * augmentation.ego_motion_sigma_px
        mirrored = bool(rng.random() < 0.5) and augmentation.flip
        swing = rng.uniform(-1.0, 1.0, size=4)
        # The last, and only where it is wanted: clips of recipes without it stay as they were.
        other_stride = float(rng.random()) if augmentation.fit_frame_strides else None
        return cls(
            frame_stride=stride,
            start=float(start),
            short_side_px=side,
            origin=(float(top), float(left)),
            velocity_px=(float(v_y), float(v_x)),
            mirrored=mirrored,
            colour=(
                1.0 + augmentation.brightness * float(swing[0]),
                1.0 + augmentation.contrast * float(swing[1]),
                1.0 + augmentation.saturation * float(swing[2]),
                augmentation.hue * float(swing[3]),
            ),
            other_stride=other_stride,
        )


def possible_strides(
    duration: float, clip: ClipSpec, augmentation: Augmentation
) -> tuple[int, ...]:
    """The sampling rates r of eq. (8), equally likely, that a clip of one video may have.

    >>> spec = ClipSpec(num_frames=4, fps=10.0)  # spans r x 0.3 s
    >>> some = Augmentation(frame_strides=(1, 2, 3, 4), fit_frame_strides=True)
    >>> [possible_strides(seconds, spec, some) for seconds in (0.2, 0.7, 9.0)]
    [(1,), (1, 2), (1, 2, 3, 4)]

    Args:
        duration: of the video, in seconds.
        clip: T and the frame rate.
        augmentation: the rates, and whether they are to fit.
    """
    strides = augmentation.frame_strides or (clip.frame_stride,)
    if not augmentation.fit_frame_strides:
        return strides
    fitting = tuple(
        stride
        for stride in strides
        if clip.model_copy(update={"frame_stride": stride}).span_seconds < duration
    )
    return fitting or (min(strides),)


def stride_of(duration: float, clip: ClipSpec, augmentation: Augmentation, draw: Draw) -> int:
    """The sampling rate of a clip: the one that was drawn, or another where that does not fit.

    A rate that was drawn of all of them and is possible stands; otherwise one of the possible
    rates is taken by the second number. So they are equally likely.

    Args:
        duration: of the video, in seconds.
        clip: T and the frame rate.
        augmentation: the rates, and whether they are to fit.
        draw: what was drawn for the clip.
    """
    possible = possible_strides(duration, clip, augmentation)
    if draw.other_stride is None or draw.frame_stride in possible:
        return draw.frame_stride
    return possible[int(draw.other_stride * len(possible))]


def sampled_times(duration: float, clip: ClipSpec, draw: Draw) -> NDArray[np.float64]:
    """Eq. (8): the moments of F_s, F_{s+r}, .., F_{s+(T-1)r}, where s is drawn.

    A frame number of the paper is a moment here: frame n of a video of clip.fps is shown at
    n / clip.fps seconds. A video too short for the clip is treated as clip.short_video says.

    >>> spec = ClipSpec(num_frames=3, fps=10.0)
    >>> draw = Draw(2, 0.5, 256, (0, 0), (0, 0), False, (1, 1, 1, 0))
    >>> sampled_times(1.0, spec, draw).round(3).tolist()  # room of 0.6 s, so s = 3
    [0.3, 0.5, 0.7]

    Args:
        duration: of the video, in seconds.
        clip: T, the frame rate, and what short videos get.
        draw: r and the start.

    Returns:
        Seconds from the first frame, (T,).

    Raises:
        VideoError: the video is short and clip.short_video is "error".
    """
    clip = clip.model_copy(update={"frame_stride": draw.frame_stride})
    room = duration - clip.span_seconds
    if room <= 0:
        return view_times(duration, clip, views=1).reshape(-1)
    # Just short of the room's end, where the clip's last moment would be the end of the video.
    start = max(0.0, min(draw.start * room, room - 2 * EDGE_SECONDS))
    return clip_times(np.array([start]), clip).reshape(-1)


def crop_corners(
    height_px: int, width_px: int, side_px: int, num_frames: int, draw: Draw
) -> NDArray[np.intp]:
    """Eq. (9): where each frame is cropped, (x_0 + v_x i, y_0 + v_y i), in whole pixels.

    The first crop is drawn uniformly among those from which the whole path stays inside the frame.

    NOTE: the paper does not say what happens at the border. Where a path is longer than the room
    that the crop has, the middle of the path lies in the middle of the room, and the crop stands
    still at the border before and after: it moves over the whole room, more cannot be had.

    >>> draw = Draw(2, 0.0, 256, (0.5, 0.5), (1.0, -3.0), False, (1, 1, 1, 0))
    >>> crop_corners(15, 16, 10, 4, draw).tolist()  # room (5, 6), path (3, -9)
    [[1, 6], [2, 4], [3, 2], [4, 0]]

    Args:
        height_px: of the resized frames.
        width_px: likewise.
        side_px: of the square, at most as long as both.
        num_frames: T.
        draw: the first crop's place and the velocity.

    Returns:
        (T, 2), top and left.
    """
    room = np.array([height_px - side_px, width_px - side_px])
    velocity = np.asarray(draw.velocity_px)
    path = velocity * (num_frames - 1)
    lowest, highest = np.maximum(0.0, -path), room - np.maximum(0.0, path)
    drawn = lowest + (highest - lowest) * np.asarray(draw.origin)
    first = np.where(lowest <= highest, drawn, (room - path) / 2)
    moved = first + np.arange(num_frames)[:, None] * velocity
    corners: NDArray[np.intp] = np.clip(np.rint(moved), 0, room).astype(np.intp)
    return corners


def crop_clip(frames: Frames, side_px: int, draw: Draw) -> Frames:
    """Cut the moving square out of resized frames, and mirror it if that was drawn.

    Args:
        frames: (T, H, W, 3).
        side_px: of the square.
        draw: where, and whether mirrored.

    Returns:
        (T, side_px, side_px, 3).
    """
    count, height, width = frames.shape[:3]
    corners = crop_corners(height, width, side_px, count, draw)
    cut = np.empty((count, side_px, side_px, 3), dtype=np.uint8)
    for frame, (top, left), out in zip(frames, corners, cut, strict=True):
        square = frame[top : top + side_px, left : left + side_px]
        if draw.mirrored:
            cv2.flip(square, 1, dst=out)
        else:
            out[:] = square
    return cut


def jitter_colours(frames: Frames, draw: Draw) -> Frames:
    """Change brightness, contrast, saturation and hue, in this order, alike in all frames.

    Args:
        frames: (T, H, W, 3), RGB.
        draw: the factors.

    Returns:
        Of the same shape; the same array where nothing changes.
    """
    brightness, contrast, saturation, hue = draw.colour
    if draw.colour[:3] != (1.0, 1.0, 1.0):
        # All three are linear in R, G and B, so one pass over the clip does them together.
        tall = frames.reshape(-1, *frames.shape[2:])
        middle = brightness * float(np.asarray(cv2.mean(tall)[:3]) @ LUMA)
        factor, offset = contrast * brightness, middle * (1 - contrast)
        if saturation == 1.0:
            values = np.rint(np.arange(256) * factor + offset).clip(0, 255).astype(np.uint8)
            changed = cv2.LUT(tall, values)
        else:
            grey = np.broadcast_to(LUMA, (3, 3))
            mixed = factor * (saturation * np.eye(3) + (1 - saturation) * grey)
            changed = cv2.transform(tall, np.column_stack([mixed, np.full(3, offset)]))
        frames = np.asarray(changed, dtype=np.uint8).reshape(frames.shape)
    if hue:
        flat = frames.reshape(-1, *frames.shape[2:])  # one tall picture
        hsv = cv2.cvtColor(flat, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(round(hue * 256) % 256)  # a circle of 256, so that it wraps
        turned = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
        frames = np.asarray(turned, dtype=np.uint8).reshape(frames.shape)
    return frames


def videomix_box(share: float, side_px: int, centre: tuple[float, float]) -> tuple[slice, slice]:
    """The square that VideoMix takes from another clip, the same in every frame.

    >>> videomix_box(0.25, 8, (0.5, 0.5))
    (slice(2, 6, None), slice(2, 6, None))

    Args:
        share: of the area, 0..1, before the border cuts it.
        side_px: of the clip.
        centre: of the box, 0..1 each, from the top and from the left.

    Returns:
        Rows and columns.
    """
    half = np.sqrt(share) * side_px / 2
    rows, columns = (
        slice(
            int(np.clip(round(place * side_px - half), 0, side_px)),
            int(np.clip(round(place * side_px + half), 0, side_px)),
        )
        for place in centre
    )
    return rows, columns
