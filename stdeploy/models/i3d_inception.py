"""I3D-Inception-v1 (Carreira and Zisserman, CVPR 2017): the network of the Kinetics weights.

It comes from TensorFlow, whose "SAME" padding puts the odd zero of a strided layer behind,
not before. Only layers with a stride feel it: the stem and four of the pools.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.layers.temporal import Size3
from stdeploy.models.base import ActionModel, AveragePoolHead, conv_norm, scaled

_EPS = 1e-3

# Output channels of a mixed module: 1x1x1; 1x1x1 and t x 3 x 3; the same again; 1x1x1 after a pool.
_MixedChannels = tuple[int, int, int, int, int, int]
_CONV3: tuple[_MixedChannels, ...] = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
)
_CONV4: tuple[_MixedChannels, ...] = (
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
)
_CONV5: tuple[_MixedChannels, ...] = (
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
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
    """Zeros around (T, H, W) as TensorFlow's "SAME" puts them for a kernel and stride."""

    def __init__(self, kernel_size: Size3, stride: Size3) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Pad (N, C, T, H, W)."""
        pads: list[int] = []
        for axis in (2, 1, 0):  # functional.pad starts with the last axis
            size = x.shape[2 + axis]
            pads.extend(same_padding(size, self.kernel_size[axis], self.stride[axis]))
        return functional.pad(x, pads)


class MaxPoolSame(nn.Module):
    """Max pooling with "SAME" padding.

    Padding with zeros is right here, because what it pools comes out of a ReLU.
    """

    def __init__(self, kernel_size: Size3, stride: Size3) -> None:
        super().__init__()
        self.pad = SamePadding(kernel_size, stride)
        self.pool = nn.MaxPool3d(kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, T, H, W) to (N, C, T / sT, H / sH, W / sW), rounded up."""
        pooled: Tensor = self.pool(self.pad(x))
        return pooled


class Mixed(nn.Module):
    """Four parallel paths, concatenated over channels.

    Args:
        spec: the network.
        in_channels: C_in.
        channels: of the paths, already scaled.
        length: temporal length of the two 3x3 filters.
    """

    def __init__(
        self, spec: ModelSpec, in_channels: int, channels: _MixedChannels, length: int
    ) -> None:
        super().__init__()
        point, reduce_a, out_a, reduce_b, out_b, pooled = channels
        self.point = _unit(spec, in_channels, point, (1, 1, 1))
        self.path_a = nn.Sequential(
            _unit(spec, in_channels, reduce_a, (1, 1, 1)),
            _unit(spec, reduce_a, out_a, (length, 3, 3)),
        )
        self.path_b = nn.Sequential(
            _unit(spec, in_channels, reduce_b, (1, 1, 1)),
            _unit(spec, reduce_b, out_b, (length, 3, 3)),
        )
        self.pooled = nn.Sequential(
            nn.MaxPool3d(3, stride=1, padding=1), _unit(spec, in_channels, pooled, (1, 1, 1))
        )
        self.out_channels = point + out_a + out_b + pooled

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C_out, T, H, W)."""
        return torch.cat([self.point(x), self.path_a(x), self.path_b(x), self.pooled(x)], dim=1)


class I3DInception(ActionModel):
    """I3D-Inception-v1. The original has temporal lengths (7, 3, 3, 3, 3) and one branch.

    It strides in time: 64 frames give features of 8. Pools keep their temporal extent whatever
    the temporal lengths of the filters are.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        t1, t2, t3, t4, t5 = spec.temporal_lengths
        c64, c192 = scaled(64, spec.width), scaled(192, spec.width)
        stem_size, stem_stride = (t1, 7, 7), (2, 2, 2)
        self.conv1 = nn.Sequential(
            SamePadding(stem_size, stem_stride),
            conv_norm(spec, 3, c64, stem_size, stride=stem_stride, padding="valid", eps=_EPS),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            MaxPoolSame((1, 3, 3), (1, 2, 2)),
            _unit(spec, c64, c64, (1, 1, 1)),
            _unit(spec, c64, c192, (t2, 3, 3)),
        )
        self.conv3, channels = _stage(spec, c192, _CONV3, t3, MaxPoolSame((1, 3, 3), (1, 2, 2)))
        self.conv4, channels = _stage(spec, channels, _CONV4, t4, MaxPoolSame((3, 3, 3), (2, 2, 2)))
        self.conv5, channels = _stage(spec, channels, _CONV5, t5, MaxPoolSame((2, 2, 2), (2, 2, 2)))
        self.head = AveragePoolHead(channels, spec.num_classes, window=2)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, C, T / 8, H / 32, W / 32), rounded up."""
        for stage in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = stage(x)
        return x


def _unit(spec: ModelSpec, in_channels: int, out_channels: int, kernel: Size3) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(spec, in_channels, out_channels, kernel, eps=_EPS), nn.ReLU(inplace=True)
    )


def _stage(
    spec: ModelSpec,
    in_channels: int,
    modules: tuple[_MixedChannels, ...],
    length: int,
    pool: MaxPoolSame,
) -> tuple[nn.Sequential, int]:
    """A pool and mixed modules, and how many channels come out."""
    layers: list[nn.Module] = [pool]
    for paper_channels in modules:
        a, b, c, d, e, f = (scaled(channels, spec.width) for channels in paper_channels)
        mixed = Mixed(spec, in_channels, (a, b, c, d, e, f), length)
        layers.append(mixed)
        in_channels = mixed.out_channels
    return nn.Sequential(*layers), in_channels
