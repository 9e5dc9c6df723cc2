"""Residual networks: the paper's I3D- and S3D-ResNets, and any other that a layout describes.

NOTE: as the GFLOPs of Tables 2 and 5 imply, in the paper's networks the stride of a bottleneck sits
on its 3x3 convolution, nothing strides in time, and only the convolutions that Table 1 underlines
have a temporal length; 1x1x1 and downsampling convolutions have none.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from stdeploy.artifacts.layouts import ResNetLayout, Size3, StageLayout, StemLayout
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.layers.convolution import max_pool
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.base import (
    ActionModel,
    AveragePoolHead,
    Counterpart,
    conv_norm,
    scaled,
    wrong_layout,
)

# Of torchvision (BSD-3), IMAGENET1K_V1; the digits are the beginning of the file's SHA-256.
RESNET18_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
RESNET50_URL = "https://download.pytorch.org/models/resnet50-0676ba61.pth"


class ResidualBlock(nn.Module):
    """Two spatio-temporal convolutions, or one between two of 1x1x1, and a shortcut.

    Args:
        spec: the network.
        layout: likewise.
        stage: where the block is.
        index: of the block in its stage.
        in_channels: C_in, already scaled.
    """

    def __init__(
        self,
        spec: ModelSpec,
        layout: ResNetLayout,
        stage: StageLayout,
        index: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        channels, length = scaled(stage.channels, spec.width), stage.lengths[index]
        stride = stage.stride if index == 0 else (1, 1)
        middles = stage.middles[index] if stage.middles else (None, None)
        self.bottleneck = layout.block == "bottleneck"
        if self.bottleneck:
            first = length if layout.temporal == "first" else 1
            middle = length if layout.temporal == "middle" else 1
            self.out_channels = 4 * channels
            self.conv1 = conv_norm(spec, in_channels, channels, (first, 1, 1), eps=layout.eps)
            self.conv2 = _convolution(
                spec,
                layout,
                channels,
                channels,
                middle,
                stride,
                middles[0],
                groups=channels if layout.depthwise else 1,
            )
            self.conv3 = conv_norm(spec, channels, self.out_channels, (1, 1, 1), eps=layout.eps)
        else:
            self.out_channels = channels
            self.conv1 = _convolution(
                spec, layout, in_channels, channels, length, stride, middles[0]
            )
            self.conv2 = _convolution(spec, layout, channels, channels, length, (1, 1), middles[1])
        self.downsample = _shortcut(
            spec, layout, in_channels, self.out_channels, stride, stage.shortcut_middle
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C_out, T / sT, H / s, W / s)."""
        out = self.conv2(self.relu(self.conv1(x)))
        if self.bottleneck:
            out = self.conv3(self.relu(out))
        result: Tensor = self.relu(out + self.downsample(x))
        return result


class PaddingShortcut(nn.Module):
    """Every s-th frame and pixel, and channels of zeros: shortcut A of He et al. (CVPR 2016).

    Args:
        out_channels: C_out.
        stride: (sT, s).
    """

    def __init__(self, out_channels: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C_out, T / sT, H / s, W / s)."""
        in_time, in_space = self.stride
        taken = x[:, :, ::in_time, ::in_space, ::in_space]
        return functional.pad(taken, (0, 0, 0, 0, 0, 0, 0, self.out_channels - x.shape[1]))


class ResNet3d(ActionModel):
    """Stem, four stages of residual blocks, average pooling and a linear classifier.

    Args:
        spec: the network.
        layout: likewise, where `spec` has none.
        imagenet_url: of the 2D ResNet with the same blocks; "" where there is none.

    Raises:
        SpecError: neither describes a residual network.
    """

    looks_ahead = ""

    def __init__(
        self, spec: ModelSpec, layout: ResNetLayout | None = None, imagenet_url: str = ""
    ) -> None:
        super().__init__(spec)
        if layout is None:
            if not isinstance(spec.layout, ResNetLayout):
                raise wrong_layout(spec)
            layout = spec.layout
        self.imagenet_url = imagenet_url
        self.conv1, channels = stem_convolution(spec, layout)
        self.relu = nn.ReLU(inplace=True)
        self.pool = stem_pool(layout.stem, causal=spec.causal)
        # A module of its own only where there is one: its number is part of no weight's name.
        self.pool_in_time: nn.Module = nn.Identity()
        if layout.pool_in_time:
            self.pool_in_time = max_pool((2, 1, 1), causal=spec.causal)
        for number, stage in enumerate(layout.stages, start=2):
            blocks, channels = residual_blocks(spec, layout, stage, channels)
            self.add_module(f"conv{number}", blocks)
        self.head = AveragePoolHead(channels, spec.num_classes, window_side=layout.window_side)

    def stages(self) -> list[nn.Module]:
        """conv2 to conv5."""
        return [self.get_submodule(f"conv{number}") for number in (2, 3, 4, 5)]

    def counterparts(self) -> Iterator[Counterpart]:
        """The filters of the 2D ResNet, by the names of torchvision and timm.

        The t x 1 x 1 filters of S3D have no counterpart.
        """
        for name, module in self.named_modules():
            if isinstance(module, TemporalFilter):
                # An S3D convolution is Sequential(1x3x3, ReLU, t x 1 x 1).
                outer, _, last = name.rpartition(".")
                split = isinstance(self.get_submodule(outer), nn.Sequential) and "." in outer
                if not (split and last == "2"):
                    yield Counterpart(module, *_names_in_2d(outer if split else name))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, C, T', H / 32, W / 32)."""
        x = self.pool(self.relu(self.conv1(x)))
        for number, stage in enumerate(self.stages()):
            x = stage(x)
            if number == 0:
                x = self.pool_in_time(x)
        return x


def residual_blocks(
    spec: ModelSpec, layout: ResNetLayout, stage: StageLayout, channels: int
) -> tuple[nn.Sequential, int]:
    """The blocks of a stage, and how many channels come out.

    Args:
        spec: the network.
        layout: of the residual network.
        stage: of `layout`.
        channels: that come in, already scaled.
    """
    blocks = []
    for index in range(len(stage.lengths)):
        block = ResidualBlock(spec, layout, stage, index, channels)
        blocks.append(block)
        channels = block.out_channels
    return nn.Sequential(*blocks), channels


def stem_convolution(spec: ModelSpec, layout: ResNetLayout) -> tuple[nn.Module, int]:
    """The first convolution, and how many channels come out."""
    stem = layout.stem
    channels = scaled(stem.channels, spec.width)
    if stem.middle is None:
        return conv_norm(
            spec, 3, channels, stem.kernel, stride=stem.stride, eps=layout.eps
        ), channels
    return _separable(
        spec, layout, (3, scaled(stem.middle, spec.width), channels), stem.kernel, stem.stride
    ), channels


def stem_pool(stem: StemLayout, *, causal: bool = False) -> nn.Module:
    """The pool after the first convolution; Identity where there is none."""
    if stem.pool_kernel is None:
        return nn.Identity()
    length, height, width = stem.pool_kernel
    padding = (length // 2, height // 2, width // 2) if stem.pool_padded else (0, 0, 0)
    return max_pool(stem.pool_kernel, stem.pool_stride, padding=padding, causal=causal)


def _convolution(
    spec: ModelSpec,
    layout: ResNetLayout,
    in_channels: int,
    out_channels: int,
    length: int,
    stride: tuple[int, int],
    middle: int | None,
    *,
    groups: int = 1,
) -> nn.Module:
    """A spatio-temporal convolution of a block, as the layout wants it."""
    kernel, (in_time, in_space) = (length, 3, 3), stride
    strides = (in_time, in_space, in_space)
    # A separable filter of length 1 has no part in time; the paper's GFLOPs come out only so.
    if middle is None or (length == 1 and in_time == 1):
        return conv_norm(
            spec, in_channels, out_channels, kernel, stride=strides, eps=layout.eps, groups=groups
        )
    channels = (in_channels, scaled(middle, spec.width), out_channels)
    return _separable(spec, layout, channels, kernel, strides)


def _separable(
    spec: ModelSpec, layout: ResNetLayout, channels: Size3, kernel: Size3, stride: Size3
) -> nn.Sequential:
    """1 x kH x kW and t x 1 x 1 with a norm and a ReLU between them, each with its own stride."""
    parts: list[tuple[Size3, Size3]] = [
        ((1, *kernel[1:]), (1, *stride[1:])),
        ((kernel[0], 1, 1), (stride[0], 1, 1)),
    ]
    if layout.convolution == "time-space":
        parts.reverse()
    (first, first_stride), (second, second_stride) = parts
    c_in, middle, c_out = channels
    return nn.Sequential(
        conv_norm(spec, c_in, middle, first, stride=first_stride, eps=layout.middle_eps),
        nn.ReLU(inplace=True),
        conv_norm(spec, middle, c_out, second, stride=second_stride, eps=layout.eps),
    )


def _shortcut(
    spec: ModelSpec,
    layout: ResNetLayout,
    in_channels: int,
    out_channels: int,
    stride: tuple[int, int],
    middle: int | None,
) -> nn.Module:
    if stride == (1, 1) and in_channels == out_channels:
        return nn.Identity()
    if layout.shortcut == "padding":
        return PaddingShortcut(out_channels, stride)
    in_time, in_space = stride
    strides = (in_time, in_space, in_space)
    if layout.shortcut == "separable":
        between = scaled(middle, spec.width) if middle else out_channels
        channels = (in_channels, between, out_channels)
        return _separable(spec, layout, channels, (1, 1, 1), strides)
    return conv_norm(spec, in_channels, out_channels, (1, 1, 1), stride=strides, eps=layout.eps)


def _names_in_2d(name: str) -> tuple[str, str]:
    """conv3.0.conv2 -> layer2.0.conv2 and layer2.0.bn2, as torchvision and timm call them."""
    if name == "conv1":
        return "conv1", "bn1"
    stage, block, kind = name.split(".")
    prefix = f"layer{int(stage.removeprefix('conv')) - 1}.{block}"
    if kind == "downsample":
        return f"{prefix}.downsample.0", f"{prefix}.downsample.1"
    return f"{prefix}.{kind}", f"{prefix}.{kind.replace('conv', 'bn')}"


def _of_the_paper(
    spec: ModelSpec,
    block: Literal["basic", "bottleneck"],
    depths: Sequence[int],
    *,
    separable: bool = False,
) -> ResNetLayout:
    """Table 1: the temporal lengths of `spec`, and no stride in time."""
    stem_length, *lengths = spec.temporal_lengths
    stages = [
        StageLayout(
            channels=64 * 2**number,
            lengths=(length,) * depth,
            stride=(1, 1 if number == 0 else 2),
            middles=((64 * 2**number,),) * depth if separable else (),
        )
        for number, (depth, length) in enumerate(zip(depths, lengths, strict=True))
    ]
    return ResNetLayout(
        block=block,
        stem=StemLayout(kernel=(stem_length, 7, 7)),
        stages=(stages[0], stages[1], stages[2], stages[3]),
        convolution="space-time" if separable else "joint",
    )


def i3d_resnet18(spec: ModelSpec) -> ResNet3d:
    """Build I3D-ResNet-18 (paper, Table 1): every 3x3 inflated to t x 3 x 3."""
    return ResNet3d(spec, _of_the_paper(spec, "basic", (2, 2, 2, 2)), RESNET18_URL)


def i3d_resnet50(spec: ModelSpec) -> ResNet3d:
    """Build I3D-ResNet-50 (paper, Table 1): every 3x3 inflated to t x 3 x 3."""
    return ResNet3d(spec, _of_the_paper(spec, "bottleneck", (3, 4, 6, 3)), RESNET50_URL)


def s3d_resnet50(spec: ModelSpec) -> ResNet3d:
    """Build S3D-ResNet-50 (paper, Table 5): t x 3 x 3 filters taken apart in space and time.

    NOTE: the stem stays one t1 x 7 x 7 filter; the paper's GFLOPs come out only so.
    """
    layout = _of_the_paper(spec, "bottleneck", (3, 4, 6, 3), separable=True)
    return ResNet3d(spec, layout, RESNET50_URL)


def resnet3d(spec: ModelSpec) -> ResNet3d:
    """Build the residual network of another project that the layout of `spec` describes.

    Raises:
        SpecError: it describes none.
    """
    return ResNet3d(spec)
