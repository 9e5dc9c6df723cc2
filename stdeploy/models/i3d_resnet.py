"""I3D-ResNet-18 and I3D-ResNet-50 (paper, Table 1): every 3x3 inflated to t x 3 x 3."""

from torch import nn

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.models.base import conv_norm
from stdeploy.models.resnet import RESNET18_URL, RESNET50_URL, BasicBlock, Bottleneck, ResNet3d


def _conv(spec: ModelSpec, c_in: int, c_out: int, length: int, stride: int) -> nn.Module:
    return conv_norm(spec, c_in, c_out, (length, 3, 3), stride=stride)


def i3d_resnet18(spec: ModelSpec) -> ResNet3d:
    """Build I3D-ResNet-18."""
    return ResNet3d(
        spec, block=BasicBlock, depths=(2, 2, 2, 2), conv=_conv, imagenet_url=RESNET18_URL
    )


def i3d_resnet50(spec: ModelSpec) -> ResNet3d:
    """Build I3D-ResNet-50."""
    return ResNet3d(
        spec, block=Bottleneck, depths=(3, 4, 6, 3), conv=_conv, imagenet_url=RESNET50_URL
    )
