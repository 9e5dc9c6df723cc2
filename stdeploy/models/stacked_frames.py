"""Frames stacked in channels by copies into one tensor, for torch where nothing compiles them.

To pad a clip and then concatenate its shifted frames writes all of it once more than has to be, and
on a GPU that is what a planar convolution waits for. A compiler makes one kernel of the usual
operations by itself; this is one operation to it, and to torch.export, which is why it is one.
"""

import torch
from torch import Tensor


@torch.library.custom_op("stdeploy::stack_frames", mutates_args=())
def stack_frames(
    x: Tensor,
    frames: int,
    length: int,
    stride: int,
    before: int,
    after: int,
    edges: bool,
    empty: int,
) -> Tensor:
    """Stack the frames that a window sees at each of its stops.

    Args:
        x: (T N, C, H, W), the same frame of all clips side by side.
        frames: T.
        length: t of the window.
        stride: frames by which it moves.
        before: frames of padding before the clip.
        after: and behind it.
        edges: these frames are the first and the last one of the clip, instead of zeros.
        empty: channels of zeros behind the others.

    Returns:
        (T' N, t C + empty, H, W), in the memory format of x.
    """
    stacked = _room(x, frames, length, stride, before, after, edges, empty)
    clips, channels = x.shape[0] // frames, x.shape[1]
    stops = stacked.shape[0] // clips
    by_frame = x.permute(0, 2, 3, 1).view(frames, clips, *x.shape[2:], channels)
    by_stop = stacked.permute(0, 2, 3, 1).view(stops, clips, *stacked.shape[2:], -1)
    by_stop[..., length * channels :] = 0
    for tap in range(length):
        part = by_stop[..., tap * channels : (tap + 1) * channels]
        # Of the stops those that see a frame of the clip there: from `first` until `end`.
        first = min(stops, max(0, -((tap - before) // stride)))
        end = max(first, min(stops, (frames - 1 - tap + before) // stride + 1))
        part[:first] = by_frame[0] if edges else 0
        part[end:] = by_frame[-1] if edges else 0
        if first < end:
            start = first * stride + tap - before
            part[first:end] = by_frame[start : start + (end - first - 1) * stride + 1 : stride]
    return stacked


def _room(
    x: Tensor,
    frames: int,
    length: int,
    stride: int,
    before: int,
    after: int,
    _edges: bool,
    empty: int,
) -> Tensor:
    """The tensor that is written, without numbers."""
    clips = x.shape[0] // frames
    stops = (frames + before + after - length) // stride + 1
    shape = (stops * clips, length * x.shape[1] + empty, *x.shape[2:])
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


stack_frames.register_fake(_room)
