"""S3D-ResNet-50 (paper, Table 5): the t x 3 x 3 filters of I3D taken apart in space and time."""

from torch import nn

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.models.base import conv_norm
from stdeploy.models.resnet import RESNET50_URL, Bottleneck, ResNet3d


def _conv(spec: ModelSpec, c_in: int, c_out: int, length: int, stride: int) -> nn.Module:
    """1x3x3 with the stride and, where t > 1, a t x 1 x 1 after a ReLU.

    NOTE: the stem stays one t1 x 7 x 7 filter; the paper's GFLOPs come out only so.
    """
    spatial = conv_norm(spec, c_in, c_out, (1, 3, 3), stride=stride)
    if length == 1:
        return spatial
    temporal = conv_norm(spec, c_out, c_out, (length, 1, 1))
    return nn.Sequential(spatial, nn.ReLU(inplace=True), temporal)


def s3d_resnet50(spec: ModelSpec) -> ResNet3d:
    """Build S3D-ResNet-50."""
    return ResNet3d(
        spec, block=Bottleneck, depths=(3, 4, 6, 3), conv=_conv, imagenet_url=RESNET50_URL
    )
