"""Frames as GPUs decode them, NV12, to frames of clips: the arithmetic of it, on any device.

NV12 is a plane of luma, and below it one of chroma at half of the resolution, U and V side by side.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.optional_packages import require
from stdeploy.video.decoder import Coding, IndexMisleadsError, Picture
from stdeploy.video.timing import Timing
from stdeploy.video.transform import AS_CODED, Image, Orientation, places_of_crops

require("torch", extra="nvdec", purpose="decoding on a GPU")

import torch  # noqa: E402 - after the check for it
from torch import Tensor  # noqa: E402

from stdeploy.video.tensor_transform import resize_short_side  # noqa: E402

# Weights of red and blue in luma, by the number of the matrix in ITU-T H.273, table 4.
_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601
    6: (0.299, 0.114),
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
_UNSAID = 2  # FFmpeg takes BT.601 then
_PIXELS_AT_ONCE = 1 << 24  # eight frames of 1080p: 50 bytes of memory a pixel
_FORMATS = ("yuv420p", "yuvj420p", "nv12")


def reason_against(coding: Coding | None) -> str:
    """Why frames of a stream are not converted here; empty where they are.

    Args:
        coding: of the stream.
    """
    if coding is None:
        return "its colours are not known without PyAV"
    if coding.pixel_format not in _FORMATS:
        return f"its frames are {coding.pixel_format}, not 4:2:0 in 8 bits"
    if coding.matrix not in (*_LUMA_WEIGHTS, _UNSAID):
        return f"its colour matrix is number {coding.matrix} of ITU-T H.273"
    return ""


def rgb_of(planes: Tensor, coding: Coding) -> Tensor:
    """Convert frames as FFmpeg does: four pixels share the colour of one sample of chroma.

    Args:
        planes: uint8 (F, H * 3 / 2, W), NV12, H and W even.
        coding: matrix and range; see `reason_against`.

    Returns:
        uint8 (F, H, W, 3), RGB.
    """
    count, rows, width = planes.shape
    height = rows * 2 // 3
    of_luma, black, v_to_red, u_to_green, v_to_green, u_to_blue = _coefficients(coding)
    luma = ((planes[:, :height].int() - black) * of_luma) >> 13
    chroma = planes[:, height:].reshape(count, height // 2, width // 2, 2).int() - 128
    u, v = chroma.unbind(-1)
    shares = (
        (v * v_to_red) >> 13,
        ((u * u_to_green) >> 13) + ((v * v_to_green) >> 13),
        (u * u_to_blue) >> 13,
    )
    picture = torch.empty((count, height, width, 3), dtype=torch.uint8, device=planes.device)
    for channel, share in enumerate(shares):
        wide = share.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        picture[..., channel] = wide.add_(luma).clamp_(0, 255)
    return picture


def _coefficients(coding: Coding) -> tuple[int, ...]:
    """Luma, its level of black, V to red, U to green, V to green, U to blue.

    NOTE: all but the level in units of 2^-13, as FFmpeg has them on x86. So the pictures are those
    of FFmpeg to the bit there.
    """
    red, blue = _LUMA_WEIGHTS[5 if coding.matrix == _UNSAID else coding.matrix]
    green = 1 - red - blue
    luma, chroma, black = (1.0, 1.0, 0) if coding.full_range else (255 / 219, 255 / 224, 16)
    to_red, to_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    shares = (to_red, -blue * to_blue / green, -red * to_red / green, to_blue)
    of_luma, *of_chroma = (round(share * 8192) for share in (luma, *shares))
    return of_luma, black, *of_chroma


def turned(pictures: Tensor, orientation: Orientation) -> Tensor:
    """Show pictures (F, H, W, 3) as they are meant, (F, H, W, 3) or (F, W, H, 3)."""
    if orientation.transposed:
        pictures = pictures.transpose(1, 2)
    sides = [
        side for side, swapped in ((2, orientation.mirrored), (1, orientation.flipped)) if swapped
    ]
    return pictures.flip(sides) if sides else pictures


@dataclasses.dataclass(frozen=True)
class Nv12Frame:
    """One decoded frame; see `stdeploy.video.decoder.DeviceFrame`.

    Attributes:
        planes: uint8 (H * 3 / 2, W), a copy of its own.
        coding: of its colours.
        orientation: in which it is shown.
    """

    planes: Tensor = dataclasses.field(repr=False)
    coding: Coding
    orientation: Orientation = AS_CODED

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the picture as it is coded, (H, W, 3)."""
        rows, width = self.planes.shape
        return rows * 2 // 3, width, 3

    def turned(self, orientation: Orientation) -> "Nv12Frame":
        """The same frame, to be shown in an orientation."""
        return dataclasses.replace(self, orientation=orientation)

    def to_host(self) -> Image:
        """The picture (H, W, 3), BGR and upright."""
        (picture,) = turned(rgb_of(self.planes[None], self.coding), self.orientation)
        return np.ascontiguousarray(picture.cpu().numpy()[..., ::-1])

    def clip_frame(self, clip: ClipSpec) -> Image:
        """A frame of a clip, made on the GPU: (clip.crop_px, clip.crop_px, 3), RGB."""
        frame: Image = crops_of([self], clip, crops=1)[0, 0].cpu().numpy()
        return frame


def crops_of(frames: Sequence[Nv12Frame], clip: ClipSpec, crops: int) -> Tensor:
    """Turn frames of one video into frames of clips, as `transform.clip_crops` does.

    Args:
        frames: F of them, of one size, coding and orientation.
        clip: how large.
        crops: 1 (the centre) or 3 (along the longer side).

    Returns:
        uint8 (F, crops, clip.crop_px, clip.crop_px, 3), RGB, on the device of the frames.
    """
    pictures = rgb_of(torch.stack([frame.planes for frame in frames]), frames[0].coding)
    pictures = resize_short_side(turned(pictures, frames[0].orientation), clip.short_side_px)
    height, width = pictures.shape[1:3]
    side = clip.crop_px
    squares = [
        pictures[:, top : top + side, left : left + side]
        for top, left in places_of_crops(height, width, side, crops)
    ]
    return torch.stack(squares, dim=1)


class _GivesPictures(Protocol):
    """What of `VideoReader` is used here."""

    timing: Timing

    @property
    def on_gpu(self) -> bool: ...

    @property
    def frame_shape(self) -> tuple[int, int]: ...

    def pictures(self, numbers: Iterable[int]) -> Iterator[Picture]: ...


def gather(
    reader: _GivesPictures,
    choose: Callable[[Timing], NDArray[np.intp]],
    clip: ClipSpec,
    crops: int,
) -> tuple[NDArray[np.intp], Tensor] | None:
    """Fetch frames of clips, which stay on the GPU; each is decoded once.

    Args:
        reader: decodes them.
        choose: gives frame numbers of any shape.
        clip: how large.
        crops: see `crops_of`.

    Returns:
        The frame numbers, and uint8 numbers.shape + (crops, clip.crop_px, clip.crop_px, 3), RGB;
        None where the reader goes on without the GPU.
    """
    height, width = reader.frame_shape
    at_once = max(1, _PIXELS_AT_ONCE // (height * width))
    while reader.on_gpu:
        numbers = choose(reader.timing)
        wanted, places = np.unique(numbers, return_inverse=True)
        with contextlib.suppress(IndexMisleadsError):
            frames = cast(Iterator[Nv12Frame], reader.pictures(wanted))
            parts = []
            while group := list(itertools.islice(frames, at_once)):
                parts.append(crops_of(group, clip, crops))
            return numbers, torch.cat(parts)[torch.from_numpy(places.reshape(numbers.shape))]
    return None
