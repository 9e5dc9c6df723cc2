"""I3D-ResNet-18 and -50 and S3D-ResNet-50: one residual trunk, two kinds of 3x3 convolution.

NOTE: as the GFLOPs of Tables 2 and 5 imply, the stride of a bottleneck sits on its 3x3
convolution, nothing strides in time, and only the convolutions that Table 1 underlines have
a temporal length; 1x1x1 and downsampling convolutions have none.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from torch import Tensor, nn

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.base import ActionModel, AveragePoolHead, Counterpart, conv_norm, scaled

# (spec, in_channels, out_channels, temporal length, spatial stride) -> module
SpatioTemporalConv = Callable[[ModelSpec, int, int, int, int], nn.Module]

# Of torchvision (BSD-3), IMAGENET1K_V1; the digits are the beginning of the file's SHA-256.
RESNET18_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
RESNET50_URL = "https://download.pytorch.org/models/resnet50-0676ba61.pth"


class BasicBlock(nn.Module):
    """Two spatio-temporal convolutions and a shortcut (ResNet-18)."""

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        spec: ModelSpec,
        conv: SpatioTemporalConv,
        in_channels: int,
        channels: int,
        length: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.conv1 = conv(spec, in_channels, channels, length, stride)
        self.conv2 = conv(spec, channels, channels, length, 1)
        self.downsample = _shortcut(spec, in_channels, channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C, T, H / stride, W / stride)."""
        out = self.conv2(self.relu(self.conv1(x)))
        result: Tensor = self.relu(out + self.downsample(x))
        return result


class Bottleneck(nn.Module):
    """1x1x1, spatio-temporal convolution, 1x1x1 and a shortcut (ResNet-50)."""

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        spec: ModelSpec,
        conv: SpatioTemporalConv,
        in_channels: int,
        channels: int,
        length: int,
        stride: int,
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = conv_norm(spec, in_channels, channels, (1, 1, 1))
        self.conv2 = conv(spec, channels, channels, length, stride)
        self.conv3 = conv_norm(spec, channels, out_channels, (1, 1, 1))
        self.downsample = _shortcut(spec, in_channels, out_channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, 4 C, T, H / stride, W / stride)."""
        out = self.relu(self.conv2(self.relu(self.conv1(x))))
        result: Tensor = self.relu(self.conv3(out) + self.downsample(x))
        return result


class ResNet3d(ActionModel):
    """Stem, four stages of residual blocks, average pooling and a linear classifier.

    Args:
        spec: the network.
        block: kind of residual block.
        depths: blocks in conv2..conv5.
        conv: makes the spatio-temporal convolutions of the blocks.
        imagenet_url: of the 2D ResNet with the same blocks; "" where there is none.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        conv: SpatioTemporalConv,
        imagenet_url: str = "",
    ) -> None:
        super().__init__(spec)
        self.imagenet_url = imagenet_url
        stem_length, *lengths = spec.temporal_lengths
        channels = scaled(64, spec.width)
        self.conv1 = conv_norm(spec, 3, channels, (stem_length, 7, 7), stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        in_channels = channels
        for stage, (depth, length) in enumerate(zip(depths, lengths, strict=True)):
            channels = scaled(64 * 2**stage, spec.width)
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(spec, conv, in_channels, channels, length, stride))
                in_channels = channels * block.expansion
            self.add_module(f"conv{stage + 2}", nn.Sequential(*blocks))
        self.head = AveragePoolHead(in_channels, spec.num_classes)

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
        """Map (N, 3, T, H, W) to (N, C, T, H / 32, W / 32)."""
        x = self.pool(self.relu(self.conv1(x)))
        for stage in self.stages():
            x = stage(x)
        return x


def _shortcut(spec: ModelSpec, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return conv_norm(spec, in_channels, out_channels, (1, 1, 1), stride=stride)


def _names_in_2d(name: str) -> tuple[str, str]:
    """conv3.0.conv2 -> layer2.0.conv2 and layer2.0.bn2, as torchvision and timm call them."""
    if name == "conv1":
        return "conv1", "bn1"
    stage, block, kind = name.split(".")
    prefix = f"layer{int(stage.removeprefix('conv')) - 1}.{block}"
    if kind == "downsample":
        return f"{prefix}.downsample.0", f"{prefix}.downsample.1"
    return f"{prefix}.{kind}", f"{prefix}.{kind.replace('conv', 'bn')}"


def _inflated_conv(spec: ModelSpec, c_in: int, c_out: int, length: int, stride: int) -> nn.Module:
    return conv_norm(spec, c_in, c_out, (length, 3, 3), stride=stride)


def i3d_resnet18(spec: ModelSpec) -> ResNet3d:
    """Build I3D-ResNet-18 (paper, Table 1): every 3x3 inflated to t x 3 x 3."""
    return ResNet3d(
        spec, block=BasicBlock, depths=(2, 2, 2, 2), conv=_inflated_conv, imagenet_url=RESNET18_URL
    )


def i3d_resnet50(spec: ModelSpec) -> ResNet3d:
    """Build I3D-ResNet-50 (paper, Table 1): every 3x3 inflated to t x 3 x 3."""
    return ResNet3d(
        spec, block=Bottleneck, depths=(3, 4, 6, 3), conv=_inflated_conv, imagenet_url=RESNET50_URL
    )


def _separable_conv(spec: ModelSpec, c_in: int, c_out: int, length: int, stride: int) -> nn.Module:
    """1x3x3 with the stride and, where t > 1, a t x 1 x 1 after a ReLU.

    NOTE: the stem stays one t1 x 7 x 7 filter; the paper's GFLOPs come out only so.
    """
    spatial = conv_norm(spec, c_in, c_out, (1, 3, 3), stride=stride)
    if length == 1:
        return spatial
    temporal = conv_norm(spec, c_out, c_out, (length, 1, 1))
    return nn.Sequential(spatial, nn.ReLU(inplace=True), temporal)


def s3d_resnet50(spec: ModelSpec) -> ResNet3d:
    """Build S3D-ResNet-50 (paper, Table 5): t x 3 x 3 filters taken apart in space and time."""
    return ResNet3d(
        spec, block=Bottleneck, depths=(3, 4, 6, 3), conv=_separable_conv, imagenet_url=RESNET50_URL
    )
