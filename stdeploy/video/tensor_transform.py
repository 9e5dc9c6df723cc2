"""Frames resized where they lie, as tensors of torch: decoded on a GPU, or changed in training.

In whole numbers, as OpenCV computes on x86, so that they are those of transform.py to the bit.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from stdeploy.errors import VideoError
from stdeploy.video.transform import resized_shape

_ONE = 2048  # what OpenCV multiplies weights by, to have whole numbers
_LARGEST_SIDE_PX = 1 << 16


def resize_short_side(frames: Tensor, short_side_px: int) -> Tensor:
    """Resize so that the shorter side has a given length, keeping the shape of pixels.

    As `stdeploy.video.transform.resize_short_side`: blocks of whole pixels are averaged, and what
    is left of the factor is bilinear.

    Args:
        frames: uint8 (F, H, W, 3), on any device.
        short_side_px: new length of the shorter side.

    Returns:
        uint8 (F, H', W', 3); the same tensor where nothing changes.

    Raises:
        VideoError: the picture is so narrow that the new one would be too large.
    """
    height, width = frames.shape[1:3]
    if short_side_px == min(height, width):
        return frames
    size = resized_shape(height, width, short_side_px)
    if max(size) > _LARGEST_SIDE_PX:
        raise VideoError(f"has a frame of {width}x{height} px, which cannot be resized")
    block = min(width // size[1], height // size[0])
    if block > 1:
        frames = _block_means(frames, block)
    return _bilinear(frames, *size)


def _block_means(frames: Tensor, block: int) -> Tensor:
    """Averages of blocks of block x block pixels, in whole levels; what is left over is cut off."""
    height, width = (size // block * block for size in frames.shape[1:3])
    planes = frames[:, :height, :width].permute(0, 3, 1, 2).float()
    sums = avg_pool2d(planes, block, divisor_override=1)
    # Of four pixels OpenCV rounds halves up, of more to the even level.
    means = (sums / 4 + 0.5).floor() if block == 2 else (sums * (1 / block**2)).round()
    return means.to(torch.uint8).permute(0, 2, 3, 1)


def _bilinear(frames: Tensor, height: int, width: int) -> Tensor:
    left, right, to_left, to_right = _neighbours(frames.shape[2], width, frames.device)
    upper, lower, to_upper, to_lower = _neighbours(frames.shape[1], height, frames.device)
    wide = frames.int()
    rows = wide[:, :, left] * to_left[:, None] + wide[:, :, right] * to_right[:, None]
    rows >>= 4
    above = (rows[:, upper] * to_upper[:, None, None]) >> 16
    below = (rows[:, lower] * to_lower[:, None, None]) >> 16
    return ((above + below + 2) >> 2).to(torch.uint8)


def _neighbours(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Between which of `old` pixels in a line each of `new` lies, and their weights: (new,) each.

    At the ends both are the last pixel.
    """
    # In float64, then float32, as in OpenCV: weights have to round in the same way.
    places = ((torch.arange(new, dtype=torch.float64) + 0.5) * (old / new) - 0.5).float()
    first = places.floor().long()
    share = places - first
    weights = ((1 - share) * _ONE).round().int(), (share * _ONE).round().int()
    both = first.clamp(0, old - 1), (first + 1).clamp(0, old - 1)
    first, second, to_first, to_second = (part.to(device) for part in (*both, *weights))
    return first, second, to_first, to_second
