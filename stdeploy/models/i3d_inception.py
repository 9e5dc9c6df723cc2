"""I3D-Inception-v1 (Carreira and Zisserman, CVPR 2017): the network of the Kinetics weights.

It comes from TensorFlow, whose "SAME" padding puts the odd zero of a strided layer behind,
not before. Only layers with a stride feel it: the stem and four of the pools. A layout describes
its kin, among them S3D (Xie et al., ECCV 2018), whose filters are separable. If it is causal, all
zeros in time come before the clip, of pools too; at a stride of s, output i sees frames up to i s.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stdeploy.artifacts.layouts import InceptionLayout, MixedChannels, Size3
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.layers.convolution import Padding, first_frame_before, max_pool
from stdeploy.models.base import (
    ActionModel,
    AveragePoolHead,
    conv_norm,
    scaled,
    wrong_layout,
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis under TensorFlow's "SAME".

    >>> same_padding(224, kernel=7, stride=2), same_padding(112, kernel=3, stride=2)
    ((2, 3), (0, 1))

    Args:
        size: of the axis.
        kernel: extent of the kernel.
        stride: of the kernel.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SamePadding(nn.Module):
    """Zeros around (T, H, W) as TensorFlow's "SAME" puts them for a kernel and stride.

    Args:
        kernel_size: (t, kH, kW).
        stride: (sT, sH, sW).
        causal: in time the first frame comes t - 1 times before the clip instead, and none behind.
    """

    def __init__(self, kernel_size: Size3, stride: Size3, *, causal: bool = False) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        """Pad (N, C, T, H, W)."""
        pads: list[int] = []
        for axis in (2, 1):  # functional.pad starts with the last axis
            size = x.shape[2 + axis]
            pads.extend(same_padding(size, self.kernel_size[axis], self.stride[axis]))
        if self.causal:
            return first_frame_before(functional.pad(x, pads), self.kernel_size[0] - 1)
        return functional.pad(x, [*pads, *self.in_time(x.shape[2])])

    def in_time(self, num_frames: int) -> tuple[int, int]:
        """Frames before and after T frames; of zeros, unless it is causal."""
        if self.causal:
            return self.kernel_size[0] - 1, 0
        return same_padding(num_frames, self.kernel_size[0], self.stride[0])


class MaxPoolSame(nn.Module):
    """Max pooling with "SAME" padding.

    Padding with zeros is right here, because what it pools comes out of a ReLU.

    Args:
        kernel_size: (t, kH, kW).
        stride: (sT, sH, sW).
        causal: see `SamePadding`.
    """

    def __init__(self, kernel_size: Size3, stride: Size3, *, causal: bool = False) -> None:
        super().__init__()
        self.pad = SamePadding(kernel_size, stride, causal=causal)
        self.pool = nn.MaxPool3d(kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, T, H, W) to (N, C, T / sT, H / sH, W / sW), rounded up."""
        pooled: Tensor = self.pool(self.pad(x))
        return pooled


class Mixed(nn.Module):
    """Four parallel paths, concatenated over channels.

    Args:
        spec: the network.
        layout: likewise.
        in_channels: C_in.
        channels: of the paths, already scaled.
        length: temporal length of the two 3x3 filters.
    """

    def __init__(
        self,
        spec: ModelSpec,
        layout: InceptionLayout,
        in_channels: int,
        channels: MixedChannels,
        length: int,
    ) -> None:
        super().__init__()
        point, reduce_a, out_a, reduce_b, out_b, pooled = channels
        self.point = _unit(spec, layout, in_channels, point, (1, 1, 1))
        self.path_a = nn.Sequential(
            _unit(spec, layout, in_channels, reduce_a, (1, 1, 1)),
            _unit(spec, layout, reduce_a, out_a, (length, 3, 3)),
        )
        self.path_b = nn.Sequential(
            _unit(spec, layout, in_channels, reduce_b, (1, 1, 1)),
            _unit(spec, layout, reduce_b, out_b, (length, 3, 3)),
        )
        self.pooled = nn.Sequential(
            max_pool((3, 3, 3), (1, 1, 1), padding=(1, 1, 1), causal=spec.causal),
            _unit(spec, layout, in_channels, pooled, (1, 1, 1)),
        )
        self.out_channels = point + out_a + out_b + pooled

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C_out, T, H, W)."""
        return torch.cat([self.point(x), self.path_a(x), self.path_b(x), self.pooled(x)], dim=1)


class I3DInception(ActionModel):
    """I3D-Inception-v1. The original has temporal lengths (7, 3, 3, 3, 3) and one branch.

    It strides in time: 64 frames give features of 8. Pools keep their temporal extent whatever
    the temporal lengths of the filters are.

    Args:
        spec: the network.
        layout: likewise; None for the network of the Kinetics weights.
    """

    looks_ahead = ""

    def __init__(self, spec: ModelSpec, layout: InceptionLayout | None = None) -> None:
        super().__init__(spec)
        layout = layout or InceptionLayout(lengths=spec.temporal_lengths)
        t1, t2, t3, t4, t5 = layout.lengths
        c1, point, c2 = (scaled(channels, spec.width) for channels in layout.channels)
        self.conv1 = _stem(spec, layout, c1, (t1, 7, 7), (2, 2, 2))
        self.conv2 = nn.Sequential(
            _pool(spec, layout, (1, 3, 3), (1, 2, 2)),
            _unit(spec, layout, c1, point, (1, 1, 1)),
            _unit(spec, layout, point, c2, (t2, 3, 3)),
        )
        mixed3, mixed4, mixed5 = layout.mixed
        pool3 = _pool(spec, layout, (1, 3, 3), (1, 2, 2))
        self.conv3, channels = _stage(spec, layout, c2, mixed3, t3, pool3)
        pool4 = _pool(spec, layout, (3, 3, 3), (2, 2, 2))
        self.conv4, channels = _stage(spec, layout, channels, mixed4, t4, pool4)
        pool5 = _pool(spec, layout, (2, 2, 2), (2, 2, 2))
        self.conv5, channels = _stage(spec, layout, channels, mixed5, t5, pool5)
        self.head = AveragePoolHead(
            channels, spec.num_classes, window=layout.window, window_side=layout.window_side
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, C, T / 8, H / 32, W / 32), rounded up.

        Where padding is "centred", an odd number before the last pool loses its last one.
        """
        for stage in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = stage(x)
        return x


def inception3d(spec: ModelSpec) -> I3DInception:
    """Build the Inception of another project that the layout of `spec` describes.

    Raises:
        SpecError: it describes none.
    """
    if not isinstance(spec.layout, InceptionLayout):
        raise wrong_layout(spec)
    return I3DInception(spec, spec.layout)


def _stem(
    spec: ModelSpec, layout: InceptionLayout, channels: int, kernel: Size3, stride: Size3
) -> nn.Sequential:
    """The first convolution, and before it the padding that differs between the sides."""
    same = layout.padding == "same"
    pad = SamePadding(kernel, stride, causal=spec.causal) if same else nn.Identity()
    unit = _unit(spec, layout, 3, channels, kernel, stride=stride, padded=same)
    return nn.Sequential(pad, *unit)


def _pool(spec: ModelSpec, layout: InceptionLayout, kernel: Size3, stride: Size3) -> nn.Module:
    if layout.padding == "same":
        return MaxPoolSame(kernel, stride, causal=spec.causal)
    length, height, width = ((size - 1) // 2 for size in kernel)
    return max_pool(kernel, stride, padding=(length, height, width), causal=spec.causal)


def _unit(
    spec: ModelSpec,
    layout: InceptionLayout,
    in_channels: int,
    out_channels: int,
    kernel: Size3,
    *,
    stride: Size3 = (1, 1, 1),
    padded: bool = False,
) -> nn.Sequential:
    """A convolution, its norm and a ReLU; twice where it is separable."""
    length, *sides = kernel
    parts = [(kernel, stride)]
    if layout.separable and kernel != (1, 1, 1):
        parts = [((1, sides[0], sides[1]), (1, *stride[1:])), ((length, 1, 1), (stride[0], 1, 1))]
    layers: list[nn.Module] = []
    for size, step in parts:
        padding: Padding = "valid" if padded else "centred"
        layers += [
            conv_norm(
                spec,
                in_channels,
                out_channels,
                size,
                stride=step,
                padding=padding,
                eps=layout.eps,
            ),
            nn.ReLU(inplace=True),
        ]
        in_channels = out_channels
    return nn.Sequential(*layers)


def _stage(
    spec: ModelSpec,
    layout: InceptionLayout,
    in_channels: int,
    modules: tuple[MixedChannels, ...],
    length: int,
    pool: nn.Module,
) -> tuple[nn.Sequential, int]:
    """A pool and mixed modules, and how many channels come out."""
    layers: list[nn.Module] = [pool]
    for paper_channels in modules:
        a, b, c, d, e, f = (scaled(channels, spec.width) for channels in paper_channels)
        mixed = Mixed(spec, layout, in_channels, (a, b, c, d, e, f), length)
        layers.append(mixed)
        in_channels = mixed.out_channels
    return nn.Sequential(*layers), in_channels
