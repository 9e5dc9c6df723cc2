"""The modules of the planar form, each of which computes what one of 3D does; see planar.py."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stdeploy.artifacts.layouts import Size3
from stdeploy.errors import SpecError
from stdeploy.layers.convolution import CausalConv3d, FramesBefore
from stdeploy.models.base import AveragePoolHead, SlidingAverage, exporting, runs_eagerly
from stdeploy.models.i3d_inception import SamePadding, same_padding
from stdeploy.models.resnet import PaddingShortcut
from stdeploy.models.slowfast import SlowFrames
from stdeploy.models.stacked_frames import stack_frames
from stdeploy.models.x3d import SqueezeExcitation


class Taps(NamedTuple):
    """Which frames a window of t frames sees as it moves over T of them.

    Attributes:
        frames: T.
        length: t.
        stride: by how many frames it moves.
        before: frames of padding before the clip.
        after: and behind it.
        edges: these frames are the first and the last one of the clip, instead of zeros.
    """

    frames: int
    length: int
    stride: int
    before: int = 0
    after: int = 0
    edges: bool = False

    @property
    def outputs(self) -> int:
        """How many times it stops."""
        return (self.frames + self.before + self.after - self.length) // self.stride + 1

    @property
    def numbers(self) -> tuple[tuple[int, ...], ...]:
        """For j of 0..t-1 the numbers of the frames at all stops; outside of 0..T-1 are zeros."""
        stops = range(-self.before, self.outputs * self.stride - self.before, self.stride)
        frames = [[stop + tap for stop in stops] for tap in range(self.length)]
        if self.edges:
            last = self.frames - 1
            frames = [[min(max(number, 0), last) for number in row] for row in frames]
        return tuple(map(tuple, frames))

    @property
    def in_place(self) -> bool:
        """Whether each frame is seen by itself, as it comes."""
        return (self.length, self.stride, self.before, self.after) == (1, 1, 0, 0)

    def of(self, x: Tensor) -> list[Tensor]:
        """The j-th frames of all stops, for j of 0..t-1.

        Args:
            x: frames (T N, C, H, W).

        Returns:
            t tensors (T' N, C, H, W).
        """
        if self.in_place:
            return [x]
        if exporting():
            # In a graph: shapes that are constant but for the batch, and no tensor of 5 dimensions.
            rows = self._padded(x.reshape(self.frames, -1), 1)
            return [rows[self._stops(j)].reshape(-1, *x.shape[1:]) for j in range(self.length)]
        # In torch: views where that is possible, and the memory format of x.
        clips = x.shape[0] // self.frames  # not len(x), which a program takes for a constant
        x = self._padded(x, clips)
        if self.stride == 1:
            lasting = self.outputs * clips
            return [x[j * clips : j * clips + lasting] for j in range(self.length)]
        x = x.permute(0, 2, 3, 1)
        x = x.view(self.frames + self.before + self.after, clips, *x.shape[1:])
        taps = (x[self._stops(j)].flatten(0, 1) for j in range(self.length))
        return [tap.permute(0, 3, 1, 2) for tap in taps]

    def _stops(self, tap: int) -> slice:
        return slice(tap, tap + (self.outputs - 1) * self.stride + 1, self.stride)

    def _padded(self, x: Tensor, clips: int) -> Tensor:
        """Frames before and behind those of x, whose first axis holds T times `clips` of them."""
        if not self.before and not self.after:
            return x
        if self.edges:
            return torch.cat([x[:clips]] * self.before + [x] + [x[-clips:]] * self.after)
        others = [0] * (2 * (x.dim() - 1))
        return functional.pad(x, [*others, self.before * clips, self.after * clips])


class ConvOfStackedFrames(nn.Conv2d):
    """A 3D convolution as a 2D one of frames that are stacked in channels already.

    Args:
        conv: without groups, or of one frame.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        weight = conv.weight.detach()
        super().__init__(
            conv.in_channels * weight.shape[2],
            conv.out_channels,
            three(conv.kernel_size)[1:],
            stride=three(conv.stride)[1:],
            padding=_padding_of(conv)[1:],
            groups=conv.groups,
            device="meta",  # no memory, no random numbers: its weights are those of `conv`
        )
        self.weight = nn.Parameter(weight.transpose(1, 2).flatten(1, 2).contiguous())
        self.bias = conv.bias


class StackedConv(ConvOfStackedFrames):
    """A 3D convolution as a 2D one of frames, which it stacks in channels.

    Args:
        conv: without groups, or of one frame.
        frames: T of what it takes.
    """

    def __init__(self, conv: nn.Conv3d, frames: int) -> None:
        super().__init__(conv)
        self.taps = taps_of(conv, frames)
        self.empty_channels = 0

    def align(self, multiple: int) -> None:
        """Fill the stacked channels up with zeros to a multiple, which changes no answer.

        Args:
            multiple: of channels, for which there are faster kernels.
        """
        missing = -self.in_channels % multiple
        if missing and self.groups == 1:
            padded = functional.pad(self.weight.detach(), (0, 0, 0, 0, 0, missing))
            self.weight = nn.Parameter(padded)
            self.in_channels += missing
            self.empty_channels += missing

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (T N, C_in, H, W) to (T' N, C_out, H', W')."""
        if not (self.taps.in_place and not self.empty_channels) and runs_eagerly():
            return super().forward(stack_frames(x, *self.taps, self.empty_channels))
        taps = self.taps.of(x)
        if self.empty_channels:
            frames, _channels, height, width = taps[0].shape
            taps.append(taps[0].new_zeros((frames, self.empty_channels, height, width)))
        return super().forward(taps[0] if len(taps) == 1 else torch.cat(taps, dim=1))


class SummedConv(nn.Module):
    """A 3D convolution with groups as a sum of 2D ones, of which each sees one frame.

    Stacked frames would have the channels of a group apart from each other.

    Args:
        conv: with groups, of several frames.
        frames: T of what it takes.
    """

    def __init__(self, conv: nn.Conv3d, frames: int) -> None:
        super().__init__()
        self.taps = taps_of(conv, frames)
        self.convs = nn.ModuleList()
        for tap, weight in enumerate(conv.weight.detach().unbind(2)):
            flat = nn.Conv2d(
                conv.in_channels,
                conv.out_channels,
                three(conv.kernel_size)[1:],
                stride=three(conv.stride)[1:],
                padding=_padding_of(conv)[1:],
                groups=conv.groups,
                bias=tap == 0 and conv.bias is not None,
                device="meta",  # as above
            )
            flat.weight = nn.Parameter(weight.contiguous())
            if tap == 0:
                flat.bias = conv.bias
            self.convs.append(flat)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (T N, C_in, H, W) to (T' N, C_out, H', W')."""
        parts = [conv(tap) for conv, tap in zip(self.convs, self.taps.of(x), strict=True)]
        summed: Tensor = functools.reduce(torch.add, parts)
        return summed


class PlanarMaxPool(nn.Module):
    """A 3D max pool as the maximum of 2D ones.

    Args:
        pool: without dilation.
        frames: T of what it takes.
    """

    def __init__(self, pool: nn.MaxPool3d, frames: int) -> None:
        super().__init__()
        kernel, stride, padding = (
            three(each) for each in (pool.kernel_size, pool.stride, pool.padding)
        )
        # A frame that is there twice changes no maximum, and a padded window sees the outermost.
        self.taps = Taps(frames, kernel[0], stride[0], padding[0], padding[0], edges=True)
        flat = (kernel[1:], stride[1:], padding[1:])
        self.pool = nn.Identity() if flat == ((1, 1), (1, 1), (0, 0)) else nn.MaxPool2d(*flat)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (T N, C, H, W) to (T' N, C, H', W')."""
        return functools.reduce(torch.maximum, self.taps.of(self.pool(x)))


class PlanarSamePadding(nn.Module):
    """`SamePadding` of frames in the batch.

    Args:
        padding: of clips.
        frames: T of what it takes.
    """

    def __init__(self, padding: SamePadding, frames: int) -> None:
        super().__init__()
        self.kernel_size = padding.kernel_size
        self.stride = padding.stride
        before, after = padding.in_time(frames)
        self.taps = Taps(frames, 1, 1, before, after, edges=padding.causal)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (T N, C, H, W) to (T' N, C, H', W')."""
        pads: list[int] = []
        for axis in (2, 1):  # functional.pad starts with the last axis
            pads.extend(same_padding(x.shape[1 + axis], self.kernel_size[axis], self.stride[axis]))
        if any(pads):  # a copy, otherwise
            x = functional.pad(x, pads)
        (padded,) = self.taps.of(x)
        return padded


class PlanarFramesBefore(nn.Module):
    """`FramesBefore` of frames in the batch.

    Args:
        before: of clips.
        frames: T of what it takes.
    """

    def __init__(self, before: FramesBefore, frames: int) -> None:
        super().__init__()
        self.taps = Taps(frames, 1, 1, before.frames, edges=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (T N, C, H, W) to (T' N, C, H, W)."""
        (padded,) = self.taps.of(x)
        return padded


class PlanarPaddingShortcut(nn.Module):
    """`PaddingShortcut` of frames in the batch.

    Args:
        shortcut: of clips.
        frames: T of what it takes.
    """

    def __init__(self, shortcut: PaddingShortcut, frames: int) -> None:
        super().__init__()
        self.out_channels = shortcut.out_channels
        in_time, self.stride = shortcut.stride
        self.taps = Taps(frames, 1, in_time)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (T N, C_in, H, W) to (T' N, C_out, H', W')."""
        (taken,) = self.taps.of(x[:, :, :: self.stride, :: self.stride])
        return functional.pad(taken, (0, 0, 0, 0, 0, self.out_channels - x.shape[1]))


class PlanarSqueezeExcitation(nn.Module):
    """`SqueezeExcitation` of frames in the batch.

    Args:
        excitation: of clips.
        frames: T of what it takes.
    """

    def __init__(self, excitation: SqueezeExcitation, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.squeeze = StackedConv(excitation.squeeze, 1)
        self.relu = nn.ReLU(inplace=True)
        self.excite = StackedConv(excitation.excite, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (T N, C, H, W) to the same shape."""
        average = x.mean(dim=(2, 3)).view(self.frames, -1, x.shape[1]).mean(dim=0)
        squeezed = self.relu(self.squeeze(average[:, :, None, None]))
        scale: Tensor = self.sigmoid(self.excite(squeezed))
        return x * scale.repeat(self.frames, 1, 1, 1)


class PlanarSlidingAverage(nn.Module):
    """`SlidingAverage` of frames in the batch.

    Args:
        average: of clips.
        frames: T of what it takes.
    """

    def __init__(self, average: SlidingAverage, frames: int) -> None:
        super().__init__()
        length, *self.sides = average.window
        self.taps = Taps(frames, min(length or frames, frames), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (T N, C, H, W) to (T' N, C, H', W')."""
        sizes = x.shape[2:]
        kernel = [min(part or size, size) for part, size in zip(self.sides, sizes, strict=True)]
        if kernel == list(sizes):
            x = x.mean(dim=(2, 3), keepdim=True)
        else:
            x = functional.avg_pool2d(x, kernel, stride=1)
        taps = self.taps.of(x)
        return functools.reduce(torch.add, taps) / len(taps)


class PlanarSlowFrames(nn.Module):
    """`SlowFrames` of frames in the batch.

    Args:
        slow: of clips.
        frames: T of what it takes.
    """

    def __init__(self, slow: SlowFrames, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.chosen = slow.chosen(frames)

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (T N, C, H, W) to (T' N, C, H, W)."""
        rows = x.reshape(self.frames, -1)[self.chosen]
        return rows.reshape(-1, *x.shape[1:])


class PlanarHead(AveragePoolHead):
    """`AveragePoolHead` of frames in the batch; its classifier is that of the other.

    Args:
        head: of clips.
        frames: T of what it takes.
    """

    def __init__(self, head: AveragePoolHead, frames: int) -> None:
        nn.Module.__init__(self)  # no second classifier
        self.window, self.window_side = head.window, head.window_side
        self.dropout, self.classifier = head.dropout, head.classifier
        self.frames = frames

    def forward(self, features: Tensor) -> Tensor:
        """Map frames (t N, C, h, w) to logits (N, K)."""
        frames = pooled_over_space(features, self.window_side)
        frames = frames.view(self.frames, -1, features.shape[1])
        if 0 < self.window < self.frames:
            count = self.frames - self.window + 1
            sums = (frames[tap : tap + count] for tap in range(self.window))
            frames = functools.reduce(torch.add, sums) / self.window
        logits: Tensor = self.classifier(self.dropout(frames.mean(dim=0)))
        return logits


def pooled_over_space(features: Tensor, window_side: int) -> Tensor:
    """Average features over space, as `AveragePoolHead` does.

    Args:
        features: (N, C, h, w).
        window_side: of squares that are averaged at a time; 0 for all at once.

    Returns:
        (N, C).
    """
    if 0 < window_side < max(features.shape[2:]):
        sides = [min(window_side, size) for size in features.shape[2:]]
        features = functional.avg_pool2d(features, sides, stride=1)
    return features.mean(dim=(2, 3))


def taps_of(conv: nn.Conv3d, frames: int) -> Taps:
    """What a convolution sees in time, of clips of so many frames."""
    length, stride, padding = conv.kernel_size[0], conv.stride[0], _padding_of(conv)[0]
    if isinstance(conv, CausalConv3d):
        return Taps(frames, length, stride, conv.frames_before, edges=True)
    return Taps(frames, length, stride, padding, padding)


def _padding_of(conv: nn.Conv3d) -> Size3:
    """Zeros on either side of (T, H, W).

    Raises:
        SpecError: a kind of convolution that `conv_norm` does not make.
    """
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros" or set(conv.dilation) != {1}:
        raise SpecError(f"no planar form is known of {conv}; export the usual form: --form conv3d")
    return three(conv.padding)


def three(size: int | tuple[int, ...]) -> Size3:
    """A size along (T, H, W), of which one number may stand for all three."""
    if isinstance(size, int):
        return size, size, size
    first, second, third = size
    return first, second, third
