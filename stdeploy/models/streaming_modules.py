"""The modules of the streaming form: each takes the next frames, and what it kept of others.

K frames of each of N streams lie side by side, (N K, C, H, W). What is kept of a stream stands as
(N, n C, H, W): n frames, the oldest first, stacked in channels. So (N K, C, H, W) is (N, K C, H, W)
as it lies in memory, and no tensor has five dimensions.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stdeploy.artifacts.layouts import Size3
from stdeploy.models.base import AveragePoolHead
from stdeploy.models.i3d_inception import same_padding
from stdeploy.models.planar_modules import pooled_over_space
from stdeploy.models.resnet import PaddingShortcut


class Timing(NamedTuple):
    """Which frames of a stream a tensor has.

    Of the calls c = 0, 1, .. the c-th brings the frames from c K - delay on, K of them; a network
    without delay brings frame 0 first. Those before frame 0 are none of the stream, as are those
    behind its end: they come out of a layer that saw zeros alone there.

    Attributes:
        frames: K, that come with a call.
        delay: by how many frames they lag behind; below 0 where others stand before the first.
        stride: frames of the video for one of these.
        counts: how many there are of a video, step by step: for (a, s) of n frames before it
            (n + a) // s + 1 frames after it.
    """

    frames: int
    delay: int = 0
    stride: int = 1
    counts: tuple[tuple[int, int], ...] = ()


class Kept(NamedTuple):
    """A window of t frames that moves by s over frames of which some come with each call.

    Attributes:
        frames: K, that come with a call.
        length: t.
        stride: s.
        kept: frames of earlier calls that are seen again.
        skipped: of the first frames those that no window sees.
        outputs: stops of the window in a call.
    """

    frames: int
    length: int
    stride: int
    kept: int
    skipped: int
    outputs: int

    @classmethod
    def of(
        cls, timing: Timing, length: int, stride: int, before: int, after: int
    ) -> "tuple[Kept, Timing]":
        """A window over what has this timing, and the timing of what it gives.

        Stop i sees the frames i s - before .. i s - before + t - 1. After c calls frames up to
        c K - delay - 1 are known, hence stops up to floor((c K - delay + before - t) / s).

        Args:
            timing: of the frames; its K is a multiple of s.
            length: t.
            stride: s.
            before: frames before the first, which are none of the stream.
            after: and behind the last.
        """
        delay = -((before - length - timing.delay) // stride) - 1
        kept = stride * delay + before - timing.delay
        outputs = timing.frames // stride
        window = cls(timing.frames, length, stride, max(kept, 0), max(-kept, 0), outputs)
        counts = (*timing.counts, (before + after - length, stride))
        return window, Timing(outputs, delay, timing.stride * stride, counts)

    @property
    def in_place(self) -> bool:
        """Whether each frame is seen by itself, as it comes."""
        return self[1:] == (1, 1, 0, 0, self.frames)

    def joined(self, x: Tensor, state: Tensor | None, begins: Tensor | None = None) -> Tensor:
        """What was kept, and behind it frames (N K, C, H, W): (N, n C, H, W).

        Args:
            x: the frames.
            state: what was kept, (N, kept C, H, W).
            begins: (N, 1, 1, 1), which streams begin: of those the first frame was kept, so to say.
        """
        channels = x.shape[1]
        new = x if self.frames == 1 else x.reshape(-1, self.frames * channels, *x.shape[2:])
        if state is None:
            return new
        if begins is not None:
            first = new if self.frames == 1 else new[:, :channels]
            first = first if self.kept == 1 else torch.cat([first] * self.kept, dim=1)
            state = torch.where(begins, first, state)
        return torch.cat([state, new], dim=1)

    def rest(self, joined: Tensor) -> Tensor:
        """Of those what the next call sees again."""
        channels = joined.shape[1] // (self.kept + self.frames)
        return joined[:, self.frames * channels :]

    def frame(self, joined: Tensor, tap: int) -> Tensor:
        """The tap-th frames of all stops, (N K', C, H, W)."""
        return self._at_stops(joined, tap, 1)

    def stacked(self, joined: Tensor) -> Tensor:
        """The t frames of each stop, stacked in channels: (N K', t C, H, W)."""
        return self._at_stops(joined, 0, self.length)

    def _at_stops(self, joined: Tensor, first: int, count: int) -> Tensor:
        if count == self.kept + self.frames:  # a slice of all would be an operation of its own
            return joined
        channels = joined.shape[1] // (self.kept + self.frames)
        starts = [(self.skipped + stop * self.stride + first) for stop in range(self.outputs)]
        parts = [joined[:, start * channels : (start + count) * channels] for start in starts]
        if len(parts) == 1:
            return parts[0]
        together = torch.cat(parts, dim=1)
        return together.reshape(-1, count * channels, *joined.shape[2:])


class FrameMask(nn.Module):
    """Which of the frames of a call are frames of the stream.

    Args:
        timing: of the frames.
    """

    def __init__(self, timing: Timing) -> None:
        super().__init__()
        self.timing = timing
        numbers = torch.arange(timing.frames, dtype=torch.int32) - timing.delay
        self.register_buffer("numbers", numbers, persistent=False)

    numbers: Tensor

    def forward(self, position: Tensor, length: Tensor) -> Tensor:
        """Map (N,) frames before this call, and (N,) in all, to (N K, 1, 1, 1) of truth values."""
        number = self.numbers + frames_before(position, self.timing)[:, None]
        end = frames_in_all(length, self.timing)[:, None]
        # Not "&", which the converter of Core ML does not know.
        return torch.logical_and(number >= 0, number < end).reshape(-1, 1, 1, 1)


class Begins(nn.Module):
    """Which streams begin with this call."""

    def forward(self, position: Tensor) -> Tensor:
        """Map (N,) frames before this call to (N, 1, 1, 1) of truth values."""
        return (position == 0).reshape(-1, 1, 1, 1)


def frames_before(position: Tensor, timing: Timing) -> Tensor:
    """How many frames of this timing earlier calls brought, of (N,) of the video."""
    return position if timing.stride == 1 else position // timing.stride


def frames_in_all(length: Tensor, timing: Timing) -> Tensor:
    """How many frames of this timing a video of (N,) frames has."""
    for added, stride in timing.counts:
        if stride == 1:
            length = length + (added + 1)
        else:
            length = torch.div(length + added, stride, rounding_mode="floor") + 1
    return length


def _only_of_stream(x: Tensor, valid: Tensor | None, fill: float) -> Tensor:
    """Frames with another number in place of those that are none of the stream."""
    # Not torch.where with a number, which the converter of Core ML does not know.
    return x if valid is None else x.masked_fill(torch.logical_not(valid), fill)


class StreamedConv(nn.Module):
    """A 3D convolution as a 2D one of the frames that its window sees, stacked in channels.

    Args:
        conv: 2D, of stacked frames; or one for each frame of the window, whose results are added.
        window: of the frames.
    """

    fill = 0.0

    def __init__(self, conv: nn.Conv2d | nn.ModuleList, window: Kept) -> None:
        super().__init__()
        self.conv = conv
        self.window = window

    def forward(
        self, x: Tensor, valid: Tensor | None, state: Tensor | None, begins: Tensor | None = None
    ) -> list[Tensor]:
        """Map frames (N K, C_in, H, W) to (N K', C_out, H', W'), and what is kept of them."""
        if self.window.in_place:
            return [self.conv(x)]
        joined = self.window.joined(_only_of_stream(x, valid, self.fill), state, begins)
        if isinstance(self.conv, nn.ModuleList):
            parts = [conv(self.window.frame(joined, j)) for j, conv in enumerate(self.conv)]
            y: Tensor = functools.reduce(torch.add, parts)
        else:
            y = self.conv(self.window.stacked(joined))
        return [y] if state is None else [y, self.window.rest(joined)]


class StreamedMaxPool(nn.Module):
    """A 3D max pool as the maximum of 2D ones.

    Args:
        pool: over space, of each frame.
        window: of the frames.
        fill: what stands where there is no frame; no larger than what is pooled.
    """

    def __init__(self, pool: nn.Module, window: Kept, fill: float) -> None:
        super().__init__()
        self.pool = pool
        self.window = window
        self.fill = fill

    def forward(
        self, x: Tensor, valid: Tensor | None, state: Tensor | None, begins: Tensor | None = None
    ) -> list[Tensor]:
        """Map frames (N K, C, H, W) to (N K', C, H', W'), and what is kept of them."""
        if self.window.in_place:
            return [self.pool(x)]
        pooled = _only_of_stream(self.pool(x), valid, self.fill)
        joined = self.window.joined(pooled, state, begins)
        taps = [self.window.frame(joined, tap) for tap in range(self.window.length)]
        y = functools.reduce(torch.maximum, taps)
        return [y] if state is None else [y, self.window.rest(joined)]


class StreamedPaddingShortcut(nn.Module):
    """`PaddingShortcut` of frames that come by calls.

    Args:
        shortcut: of clips.
        window: of one frame.
    """

    fill = 0.0

    def __init__(self, shortcut: PaddingShortcut, window: Kept) -> None:
        super().__init__()
        self.out_channels = shortcut.out_channels
        self.stride = shortcut.stride[1]
        self.window = window

    def forward(
        self, x: Tensor, valid: Tensor | None, state: Tensor | None, begins: Tensor | None = None
    ) -> list[Tensor]:
        """Map frames (N K, C_in, H, W) to (N K', C_out, H', W'), and what is kept of them."""
        missing = self.out_channels - x.shape[1]
        taken = _only_of_stream(x[:, :, :: self.stride, :: self.stride], valid, self.fill)
        joined = self.window.joined(taken, state, begins)
        y = functional.pad(self.window.frame(joined, 0), (0, 0, 0, 0, 0, missing))
        return [y] if state is None else [y, self.window.rest(joined)]


class StreamedPadding(nn.Module):
    """Zeros around each frame, as TensorFlow's "SAME" puts them, and in time frames that are none.

    Args:
        kernel_size: of the layer behind it, (t, kH, kW).
        stride: of that, (sT, sH, sW).
    """

    def __init__(self, kernel_size: Size3, stride: Size3) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Map frames (N K, C, H, W) to (N K, C, H', W')."""
        x = _only_of_stream(x, valid, 0.0)
        pads: list[int] = []
        for axis in (2, 1):  # functional.pad starts with the last axis
            pads.extend(same_padding(x.shape[1 + axis], self.kernel_size[axis], self.stride[axis]))
        return functional.pad(x, pads) if any(pads) else x


class Delay(nn.Module):
    """Frames as late as those of another path, to which they are added.

    Args:
        frames: K, that come with a call.
        delay: by how many frames.
    """

    fill = 0.0

    def __init__(self, frames: int, delay: int) -> None:
        super().__init__()
        self.window = Kept(frames, 1, 1, delay, 0, frames)

    def forward(self, x: Tensor, state: Tensor) -> list[Tensor]:
        """Map frames (N K, C, H, W) to as many older ones, and what is kept of them."""
        joined = self.window.joined(x, state)
        return [self.window.frame(joined, 0), self.window.rest(joined)]


class StreamedHead(nn.Module):
    """`AveragePoolHead` over the newest places in time of a stream.

    What was averaged over space of them is kept; so the average over time is computed anew in each
    call, which costs next to nothing, and no error of rounding adds up, as it would in a sum that
    runs along.

    Args:
        head: of clips.
        timing: of the features.
        window: how many places, at least those of one call.
    """

    fill = 0.0

    def __init__(self, head: AveragePoolHead, timing: Timing, window: int) -> None:
        super().__init__()
        self.classifier = head.classifier
        self.window_side = head.window_side
        self.sliding = max(head.window, 1)
        self.timing = timing
        self.window = window
        offsets = torch.arange(window, dtype=torch.int32) - window + timing.frames - timing.delay
        self.register_buffer("numbers", offsets, persistent=False)

    numbers: Tensor

    def forward(
        self, features: Tensor, position: Tensor, length: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Classify the newest places.

        Args:
            features: (N K, C, h, w).
            position: (N,), frames of the video before this call.
            length: (N,), of the video.
            state: (N, window - K, C), kept of the places before.

        Returns:
            Logits (N, classes) of the average over the window, logits (N, K, classes) of each new
            place by itself, and what is kept.
        """
        new = pooled_over_space(features, self.window_side)
        new = new.reshape(-1, self.timing.frames, new.shape[1])
        places = torch.cat([state, new], dim=1)
        counted = self._counted(position, length).to(new.dtype)
        weights = counted / counted.sum(dim=1, keepdim=True).clamp(min=1)
        # A place that is none may hold any number, but a finite one.
        average = (places * weights[:, :, None]).sum(dim=1)
        return self.classifier(average), self.classifier(new), places[:, self.timing.frames :]

    def _counted(self, position: Tensor, length: Tensor) -> Tensor:
        """(N, window): how often each place counts; 0 for those that are none.

        The average slides over `sliding` places at a time, and is then averaged: a place counts as
        often as such a window holds it.
        """
        number = self.numbers + frames_before(position, self.timing)[:, None]
        first = number[:, :1].clamp(min=0)
        end = torch.minimum(number[:, -1:] + 1, frames_in_all(length, self.timing)[:, None])
        counted = torch.minimum(number - first, end - 1 - number) + 1
        windows = (end - first - self.sliding + 1).clamp(min=1)
        return torch.minimum(counted, windows).clamp(min=0, max=self.sliding)
