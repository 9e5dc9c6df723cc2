"""Clips as they were decoded, and how a GPU makes of them what augment.py does on a CPU.

A process that decodes hands over the pixels that a clip needs and a few numbers; resizing, the
crop that moves, the mirror and the colours are computed where the network is. In whole numbers,
as OpenCV computes on x86: clips are those of the CPU to the bit, but for saturation (within a
level) and hue after it (see `_turned`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stdeploy.train.augment import LUMA, Draw, crop_corners
from stdeploy.video.transform import Image, average_blocks, resized_shape

_ONE = 2048  # what OpenCV multiplies the weights of neighbours by, to have whole numbers
# What OpenCV divides by, 1 to 255, as factors in 4096ths: 255 / value, and 256 / (6 span).
_LEVELS = np.arange(256).clip(1)
_SATURATIONS = np.rint(255 * 4096 / _LEVELS).astype(np.int32)
_HUES = np.rint(256 * 4096 / (6.0 * _LEVELS)).astype(np.int32)
# Pixels of finished clips that are computed at once: 64 MB of places, and some times as much.
_PIXELS_AT_ONCE = 1 << 23


@dataclasses.dataclass(frozen=True)
class Cut:
    """What a clip takes of decoded frames of one size, and how.

    Places count along an axis, from the first row or column that is taken; each pixel of the
    finished clip lies between two.

    Attributes:
        size: (H, W) of a decoded frame.
        short_side_px: length that the shorter side is resized to.
        rows: first and last + 1 of those that are taken, after blocks have been averaged.
        columns: likewise.
        places: int64 (T, 2, 2, S): of rows and of columns, the one before and the one behind.
        weights: int32 (T, 2, S): of the one behind, 0 to 2048.
    """

    size: tuple[int, int]
    short_side_px: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    places: NDArray[np.int64]
    weights: NDArray[np.int32]

    @classmethod
    def of(cls, size: tuple[int, int], crop_px: int, num_frames: int, draw: Draw) -> Self:
        """Of frames of a size.

        Args:
            size: (H, W) as decoded.
            crop_px: S, of the finished clip.
            num_frames: T.
            draw: size of the resized frame, where it is cut, and whether it is mirrored.
        """
        resized = resized_shape(*size, draw.short_side_px)
        block = max(1, min(new_old // new for new_old, new in zip(size, resized, strict=True)))
        corners = crop_corners(*resized, crop_px, num_frames, draw)
        taken, places, weights = list[tuple[int, int]](), [], []
        for axis in (0, 1):
            before, behind, weight = _neighbours(size[axis] // block, resized[axis])
            # Whole, if nothing is resized: pixels then have no neighbours in OpenCV either.
            wanted = corners[:, axis, None] + np.arange(crop_px)
            if axis == 1 and draw.mirrored:
                wanted = wanted[:, ::-1]
            first, last = int(before[wanted].min()), int(behind[wanted].max())
            taken.append((first, last + 1))
            places.append(np.stack([before[wanted], behind[wanted]], axis=1) - first)
            weights.append(weight[wanted])
        return cls(
            size,
            draw.short_side_px,
            taken[0],
            taken[1],
            np.stack(places, axis=1),
            np.stack(weights, axis=1),
        )

    def taken(self, image: Image) -> Image:
        """The part of a decoded frame (H, W, 3) that the clip needs, (h, w, 3)."""
        shrunk = average_blocks(image, self.short_side_px)
        return shrunk[slice(*self.rows), slice(*self.columns)]


def _neighbours(
    old: int, new: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Between which of `old` pixels in a line each of `new` lies, and the weight of the second.

    At the ends both are the last pixel.
    """
    # In float64, then float32, as in OpenCV: weights have to round in the same way.
    places = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(places)
    weight = np.rint((places - first) * np.float32(_ONE)).astype(np.int32)
    number = first.astype(np.int64)
    return number.clip(0, old - 1), (number + 1).clip(0, old - 1), weight


@dataclasses.dataclass(frozen=True)
class UncutClip:
    """A clip as a process that decodes hands it over.

    Attributes:
        frames: uint8 (T, h, w, 3), BGR: what `Cut.taken` gave of each.
        cut: what is to be done with them.
        colour: factors of brightness, contrast and saturation, and the turn of the hue.
    """

    frames: NDArray[np.uint8]
    cut: Cut
    colour: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class UncutClips:
    """A batch of them, of any sizes; tensors alone, so that it can be pinned and sent.

    Attributes:
        pixels: uint8 (P, 3), BGR: all frames of all clips, one row after the other.
        places: int64 (N, T, 2, 2, S): where in `pixels` the rows above and below begin, and how
            far in them the columns left and right are.
        weights: int32 (N, T, 2, S): of the row below and the column to the right, 0 to 2048.
        colours: float64 (N, 5): factors of brightness, contrast and saturation, the turn of the
            hue in 256ths of the circle, and 1 where there is one, even by 0.
        by_table: whether no saturation changes.
        coloured: whether brightness, contrast or saturation change in any clip.
        turned: whether there is a turn of the hue in any clip.
    """

    pixels: Tensor
    places: Tensor
    weights: Tensor
    colours: Tensor
    by_table: bool
    coloured: bool
    turned: bool

    @classmethod
    def of(cls, clips: Sequence[UncutClip]) -> Self:
        """Put clips of one length and one finished size together."""
        places, begin = list[NDArray[np.int64]](), 0
        for clip in clips:
            count, height, width = clip.frames.shape[:3]
            absolute = clip.cut.places.copy()
            absolute[:, 0] *= width
            absolute[:, 0] += begin + (np.arange(count) * (height * width))[:, None, None]
            places.append(absolute)
            begin += count * height * width
        colours = [
            (*clip.colour[:3], round(clip.colour[3] * 256) % 256, bool(clip.colour[3]))
            for clip in clips
        ]
        return cls(
            torch.from_numpy(np.concatenate([clip.frames.reshape(-1, 3) for clip in clips])),
            torch.from_numpy(np.stack(places)),
            torch.from_numpy(np.stack([clip.cut.weights for clip in clips])),
            torch.tensor(colours, dtype=torch.float64),
            by_table=all(clip.colour[2] == 1.0 for clip in clips),
            coloured=any(clip.colour[:3] != (1.0, 1.0, 1.0) for clip in clips),
            turned=any(clip.colour[3] for clip in clips),
        )

    def __len__(self) -> int:
        return len(self.places)

    def pin_memory(self) -> Self:
        """In memory from which a GPU can copy by itself; torch's loader asks for it."""
        return self._with(*(tensor.pin_memory() for tensor in self._tensors))

    def to(self, device: torch.device) -> Self:
        """On a device; from pinned memory without waiting for it."""
        return self._with(*(tensor.to(device, non_blocking=True) for tensor in self._tensors))

    def finished(self) -> Tensor:
        """Resize, cut, mirror and colour them where they lie.

        Returns:
            uint8 (N, T, S, S, 3), RGB.
        """
        count, num_frames, _, _, side = self.places.shape
        step = max(1, _PIXELS_AT_ONCE // (num_frames * side**2))
        parts = [self._part(slice(first, first + step)) for first in range(0, count, step)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, clips: slice) -> Tensor:
        frames = _resampled(self.pixels, self.places[clips], self.weights[clips])
        colours = self.colours[clips]
        if self.coloured:
            frames = _by_table(frames, colours) if self.by_table else _mixed(frames, colours)
        return _turned(frames, colours) if self.turned else frames

    @property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.pixels, self.places, self.weights, self.colours

    def _with(self, *tensors: Tensor) -> Self:
        pixels, places, weights, colours = tensors
        return dataclasses.replace(
            self, pixels=pixels, places=places, weights=weights, colours=colours
        )


def _resampled(pixels: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Between four neighbours each, uint8 (N, T, S, S, 3), RGB."""
    above, below = places[:, :, 0].unbind(2)  # (N, T, S) each
    left, right = places[:, :, 1].unbind(2)
    down, to_right = weights.unbind(2)
    to_right = to_right[:, :, None, :, None]

    def row(begin: Tensor, weight: Tensor) -> Tensor:
        """Its share of each pixel, int32 (N, T, S, S, 3)."""
        begin = begin[..., None]
        near, far = pixels[begin + left[:, :, None]].int(), pixels[begin + right[:, :, None]].int()
        along = (near * (_ONE - to_right) + far * to_right) >> 4
        return (along * weight[..., None, None]) >> 16

    blended = (row(above, _ONE - down) + row(below, down) + 2) >> 2
    return blended.to(torch.uint8).flip(-1)


def _grey_means(frames: Tensor, colours: Tensor) -> Tensor:
    """Mean grey of each clip after brightness has changed, float64 (N,)."""
    count = frames[0, ..., 0].numel()
    means = frames.sum(dim=(1, 2, 3), dtype=torch.int64).double() * (1.0 / count)
    luma = torch.from_numpy(LUMA).to(frames.device).double()
    return colours[:, 0] * (means * luma).sum(dim=1)


def _by_table(frames: Tensor, colours: Tensor) -> Tensor:
    """Brightness and contrast, by a table of 256 levels for each clip, as in augment.py."""
    brightness, contrast = colours[:, 0], colours[:, 1]
    offset = _grey_means(frames, colours) * (1 - contrast)
    levels = torch.arange(256, dtype=torch.float64, device=frames.device)
    values = levels * (contrast * brightness)[:, None] + offset[:, None]
    table = values.round().clamp(0, 255).to(torch.uint8)
    number = torch.arange(len(frames), device=frames.device).view(-1, 1, 1, 1, 1)
    return table[number, frames.long()]


def _mixed(frames: Tensor, colours: Tensor) -> Tensor:
    """Brightness, contrast and saturation, in float32."""
    brightness, contrast, saturation = colours[:, :3].unbind(1)
    offset = _grey_means(frames, colours) * (1 - contrast)
    factor, offset, saturation = (
        part.float().view(-1, 1, 1, 1, 1) for part in (contrast * brightness, offset, saturation)
    )
    levels = frames.float()
    # No product of matrices, which a GPU may be told to round to TF32.
    luma = torch.from_numpy(LUMA).to(frames.device)
    grey = (levels * luma).sum(dim=-1, keepdim=True)
    mixed = factor * (saturation * levels + (1 - saturation) * grey) + offset
    return mixed.round().clamp(0, 255).to(torch.uint8)


def _turned(frames: Tensor, colours: Tensor) -> Tensor:
    """Hue, saturation and value in 256 levels each, as in OpenCV, and back with the hue turned.

    NOTE: such a hue is coarse. Where saturation has made a pixel another by one level, the hue may
    be the next, which moves a channel by up to 6 levels.
    """
    levels = frames.int()
    red, green, blue = levels.unbind(-1)
    value, least = levels.amax(dim=-1), levels.amin(dim=-1)
    span = value - least
    per_value, per_span = (
        torch.from_numpy(table).to(frames.device)[of.long()]
        for table, of in ((_SATURATIONS, value), (_HUES, span))
    )
    saturation = (span * per_value + 2048) >> 12
    sixth = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * span, red - green + 4 * span),
    )
    hue = (sixth * per_span + 2048) >> 12
    turn, is_turned = (colours[:, n].view(-1, 1, 1, 1) for n in (3, 4))
    hue = (hue + turn.int()) % 256
    # By 255, as OpenCV: its 256 levels of hue go once round and one level further.
    back = _of_hue(hue.float() * (6 / 255), saturation.float() / 255, value.float() / 255)
    return torch.where(is_turned[..., None] > 0, back, frames)


def _of_hue(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB in whole levels of a hue 0..6, saturation and value 0..1, each (N, T, S, S)."""
    channels = []
    for start in (5.0, 3.0, 1.0):  # of red, green and blue
        place = (start + hue) % 6.0
        share = torch.minimum(place, 4.0 - place).clamp(0.0, 1.0)
        channels.append(value * (1.0 - saturation * share))
    return (torch.stack(channels, dim=-1) * 255).round().clamp(0, 255).to(torch.uint8)
