"""X3D (Feichtenhofer, CVPR 2020): depthwise filters, squeeze-excitation, and 2048 features."""

from torch import Tensor, nn

from stdeploy.artifacts.layouts import X3DLayout, X3DStageLayout
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.models.base import (
    ActionModel,
    AveragePoolHead,
    SlidingAverage,
    conv_norm,
    scaled,
    wrong_layout,
)


class SqueezeExcitation(nn.Module):
    """Weigh channels by what their averages over the clip say (Hu et al., CVPR 2018).

    Args:
        channels: C.
        inner: channels between the two layers.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv3d(channels, inner, 1)
        self.relu = nn.ReLU(inplace=True)
        self.excite = nn.Conv3d(inner, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to the same shape."""
        average = x.mean(dim=(2, 3, 4), keepdim=True)
        scale: Tensor = self.sigmoid(self.excite(self.relu(self.squeeze(average))))
        return x * scale


class X3DBlock(nn.Module):
    """1x1x1, a depthwise t x 3 x 3 with squeeze-excitation and swish, 1x1x1, and a shortcut.

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
        layout: X3DLayout,
        stage: X3DStageLayout,
        index: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        inner = scaled(stage.inner, spec.width)
        self.out_channels = scaled(stage.channels, spec.width)
        stride, eps = (2 if index == 0 else 1), layout.eps
        self.conv1 = conv_norm(spec, in_channels, inner, (1, 1, 1), eps=eps)
        self.conv2 = conv_norm(
            spec, inner, inner, (stage.length, 3, 3), stride=stride, eps=eps, groups=inner
        )
        squeezed = stage.excitations[index]
        self.excitation = (
            SqueezeExcitation(inner, scaled(squeezed, spec.width)) if squeezed else nn.Identity()
        )
        self.swish = nn.SiLU(inplace=True)
        self.conv3 = conv_norm(spec, inner, self.out_channels, (1, 1, 1), eps=eps)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != self.out_channels:
            self.downsample = conv_norm(
                spec, in_channels, self.out_channels, (1, 1, 1), stride=stride, eps=eps
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C_out, T, H / s, W / s), s = 2 in the first block."""
        out = self.conv2(self.relu(self.conv1(x)))
        out = self.conv3(self.swish(self.excitation(out)))
        result: Tensor = self.relu(out + self.downsample(x))
        return result


class ProjectedAverage(nn.Module):
    """1x1x1, average, 1x1x1: the costly last convolution sees one place alone.

    Args:
        spec: the network.
        layout: likewise.
        in_channels: C_in, already scaled.
    """

    def __init__(self, spec: ModelSpec, layout: X3DLayout, in_channels: int) -> None:
        super().__init__()
        projected = scaled(layout.projected, spec.width)
        self.out_channels = scaled(layout.features, spec.width)
        length, side = layout.window
        self.average = SlidingAverage((length, side, side))
        self.project = conv_norm(spec, in_channels, projected, (1, 1, 1), eps=layout.eps)
        self.expand = conv_norm(spec, projected, self.out_channels, (1, 1, 1), eps=layout.eps)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C_out, 1, 1, 1), or more where the window slides."""
        features: Tensor = self.relu(self.expand(self.average(self.relu(self.project(x)))))
        return features


class X3D(ActionModel):
    """Stem, four stages of X3D blocks, a projected average and a linear classifier.

    Args:
        spec: the network; its layout describes it.

    Raises:
        SpecError: the layout is that of another kind of network.
    """

    keeps_places = False
    looks_ahead = "its squeeze-excitation weighs channels by averages over all frames of a clip"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        layout = spec.layout
        if not isinstance(layout, X3DLayout):
            raise wrong_layout(spec)
        channels = scaled(layout.channels, spec.width)
        self.conv1 = nn.Sequential(
            conv_norm(spec, 3, channels, (1, 3, 3), stride=2, eps=layout.eps),
            conv_norm(
                spec, channels, channels, (layout.length, 1, 1), eps=layout.eps, groups=channels
            ),
            nn.ReLU(inplace=True),
        )
        for number, stage in enumerate(layout.stages, start=2):
            layers: list[nn.Module] = []
            for index in range(len(stage.excitations)):
                block = X3DBlock(spec, layout, stage, index, channels)
                layers.append(block)
                channels = block.out_channels
            if number == len(layout.stages) + 1:
                average = ProjectedAverage(spec, layout, channels)
                layers.append(average)
                channels = average.out_channels
            self.add_module(f"conv{number}", nn.Sequential(*layers))
        self.head = AveragePoolHead(channels, spec.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, C, 1, 1, 1), or more where the window slides."""
        for number in (1, 2, 3, 4, 5):
            x = self.get_submodule(f"conv{number}")(x)
        return x
