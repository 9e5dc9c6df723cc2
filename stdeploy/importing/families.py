"""The networks of other projects that are known by their weights: a line in FAMILIES each.

What stands under `assumed` was read in the code of the projects; none of it can be seen in weights.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial

from stdeploy.importing.family import (
    GREY,
    IMAGENET,
    TORCHVISION,
    Family,
    Found,
    clip_of,
)
from stdeploy.importing.inceptions import INCEPTIONS
from stdeploy.importing.resnets import Assumed, ResNetNames, read_resnet
from stdeploy.importing.slowfast import SLOWFASTS
from stdeploy.importing.source_weights import ConvNorm, MismatchError, SourceWeights
from stdeploy.importing.x3d import X3DS

_HARA = ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))
_CUBE = (2, 2, 2)

# --- IBM/action-recognition-pytorch

_IBM_NAMES = ResNetNames(
    stem=(ConvNorm("conv1", "bn1"),),
    block="layer{stage}.{index}",
    joint=ConvNorm("{block}.conv{n}", "{block}.bn{n}"),
    shortcut=(ConvNorm("{block}.downsample.0", "{block}.downsample.1"),),
    classifier="fc",
)
_IBM_S3D_NAMES = dataclasses.replace(
    _IBM_NAMES,
    parts=(_IBM_NAMES.joint, ConvNorm("{block}.conv{n}_t", "{block}.bn{n}_t")),
)
_IBM = Assumed(stem_lengths=(3, 5))
_IBM_S3D = dataclasses.replace(_IBM, convolution="space-time")
_IBM_STRIDED = (1, 2, 2, 2)


def _ibm(name: str, names: ResNetNames, assumed: Assumed) -> Family:
    strides = "no stride in time" if assumed.time_strides == (1, 1, 1, 1) else "stride 2 in time"
    return Family(
        name=name,
        source="IBM/action-recognition-pytorch (Apache-2.0)",
        assumed=f"{strides} in conv3 to conv5; pool 1x3x3 after the stem; eps 1e-5",
        clip=clip_of(IMAGENET, 32, 2),
        read=partial(read_resnet, names=names, assumed=assumed),
    )


# --- kenshohara/3D-ResNets-PyTorch

_HARA_ASSUMED = Assumed(
    stem_lengths=(7,), pool_kernel=(3, 3, 3), pool_stride=_CUBE, time_strides=(1, 2, 2, 2)
)
_HARA_R2P1D_NAMES = dataclasses.replace(
    _IBM_NAMES,
    stem=(ConvNorm("conv1_s", "bn1_s"), ConvNorm("conv1_t", "bn1_t")),
    parts=(
        ConvNorm("{block}.conv{n}_s", "{block}.bn{n}_s"),
        ConvNorm("{block}.conv{n}_t", "{block}.bn{n}_t"),
    ),
)


def _read_hara(weights: SourceWeights, names: ResNetNames, assumed: Assumed) -> Found:
    """Which shortcut it has, the weights say: A has none."""
    if "layer2.0.downsample.0.weight" not in weights:
        assumed = dataclasses.replace(assumed, shortcut="padding")
    return read_resnet(weights, names, assumed)


def _hara(name: str, names: ResNetNames, assumed: Assumed) -> Family:
    return Family(
        name=name,
        source="kenshohara/3D-ResNets-PyTorch (MIT)",
        assumed="stride (1, 2, 2) and a pool 3x3x3 of stride 2 in the stem, stride 2 in time in "
        "conv3 to conv5; eps 1e-5",
        clip=clip_of(_HARA, 16, sides=(112, 112)),
        read=partial(_read_hara, names=names, assumed=assumed),
    )


# --- torchvision.models.video

_TV_NAMES = ResNetNames(
    stem=(ConvNorm("stem.0", "stem.1"),),
    block="layer{stage}.{index}",
    joint=ConvNorm("{block}.conv{n}.0", "{block}.conv{n}.1"),
    shortcut=(ConvNorm("{block}.downsample.0", "{block}.downsample.1"),),
    classifier="fc",
)
_TV_R2P1D_NAMES = dataclasses.replace(
    _TV_NAMES,
    stem=(ConvNorm("stem.0", "stem.1"), ConvNorm("stem.3", "stem.4")),
    parts=(
        ConvNorm("{block}.conv{n}.0.0", "{block}.conv{n}.0.1"),
        ConvNorm("{block}.conv{n}.0.3", "{block}.conv{n}.1"),
    ),
)
_TV = Assumed(stem_lengths=(3,), pool_kernel=None, time_strides=(1, 2, 2, 2))
_THREE, _ONE = (3,), (1,)


def _torchvision(name: str, names: ResNetNames, assumed: Assumed) -> Family:
    strides = "1" if assumed.time_strides == (1, 1, 1, 1) else "2"
    return Family(
        name=name,
        source="torchvision.models.video (BSD-3)",
        assumed=f"stride {strides} in time in conv3 to conv5; no pool; eps 1e-5",
        clip=clip_of(TORCHVISION, 16, fps=15.0, sides=(128, 112)),
        read=partial(read_resnet, names=names, assumed=assumed),
    )


# --- open-mmlab/mmaction2

_MM_NAMES = ResNetNames(
    stem=(ConvNorm("backbone.conv1.conv", "backbone.conv1.bn"),),
    block="backbone.layer{stage}.{index}",
    joint=ConvNorm("{block}.conv{n}.conv", "{block}.conv{n}.bn"),
    shortcut=(ConvNorm("{block}.downsample.conv", "{block}.downsample.bn"),),
    classifier="cls_head.fc_cls",
)
_MM_R2P1D_NAMES = dataclasses.replace(
    _MM_NAMES,
    stem=(
        ConvNorm("backbone.conv1.conv.conv_s", "backbone.conv1.conv.bn_s"),
        ConvNorm("backbone.conv1.conv.conv_t", "backbone.conv1.bn"),
    ),
    parts=(
        ConvNorm("{block}.conv{n}.conv.conv_s", "{block}.conv{n}.conv.bn_s"),
        ConvNorm("{block}.conv{n}.conv.conv_t", "{block}.conv{n}.bn"),
    ),
    shortcut=(
        ConvNorm("{block}.downsample.conv.conv_s", "{block}.downsample.conv.bn_s"),
        ConvNorm("{block}.downsample.conv.conv_t", "{block}.downsample.bn"),
    ),
)


def _mmaction(
    name: str, names: ResNetNames, assumed: Assumed, words: str, frames: int, stride: int
) -> Family:
    return Family(
        name=name,
        source="open-mmlab/mmaction2 (Apache-2.0)",
        assumed=words,
        clip=clip_of(IMAGENET, frames, stride),
        read=partial(read_resnet, names=names, assumed=assumed),
    )


def _read_csn(weights: SourceWeights, names: ResNetNames, assumed: Assumed) -> Found:
    """The middle convolution is one of a list, which in ir-CSN has one part."""
    if "backbone.layer1.0.conv2.1.conv.weight" in weights:
        raise MismatchError("backbone.layer1.0.conv2.1 is that of an ip-CSN")
    return read_resnet(weights, names, assumed)


# --- facebookresearch/pytorchvideo

_PTV_NAMES = ResNetNames(
    stem=(ConvNorm("blocks.0.conv", "blocks.0.norm"),),
    block="blocks.{stage}.res_blocks.{index}",
    joint=ConvNorm("{block}.branch2.conv_{abc}", "{block}.branch2.norm_{abc}"),
    shortcut=(ConvNorm("{block}.branch1_conv", "{block}.branch1_norm"),),
    classifier="blocks.5.proj",
)
# A pool is a block too, and has no weights.
_PTV_POOLED_NAMES = dataclasses.replace(
    _PTV_NAMES, stages=("1", "3", "4", "5"), classifier="blocks.6.proj"
)
_PTV_R2P1D_NAMES = dataclasses.replace(
    _PTV_NAMES,
    parts=(
        ConvNorm("{block}.branch2.conv_b.conv_t", "{block}.branch2.conv_b.norm"),
        ConvNorm("{block}.branch2.conv_b.conv_xy", "{block}.branch2.norm_b"),
    ),
)


def _pytorchvideo(
    name: str, names: ResNetNames, assumed: Assumed, words: str, frames: int, stride: int
) -> Family:
    return Family(
        name=name,
        source="facebookresearch/pytorchvideo (Apache-2.0)",
        assumed=f"{words}; averages over 7 x 7 features",
        clip=clip_of(GREY, frames, stride),
        read=partial(read_resnet, names=names, assumed=dataclasses.replace(assumed, window_side=7)),
    )


_KNOWN = (
    _ibm("ibm/i3d-resnet", _IBM_NAMES, _IBM),
    _ibm(
        "ibm/i3d-resnet-time-stride",
        _IBM_NAMES,
        dataclasses.replace(_IBM, time_strides=_IBM_STRIDED),
    ),
    _ibm("ibm/s3d-resnet", _IBM_S3D_NAMES, _IBM_S3D),
    _ibm(
        "ibm/s3d-resnet-time-stride",
        _IBM_S3D_NAMES,
        dataclasses.replace(_IBM_S3D, time_strides=_IBM_STRIDED),
    ),
    _hara("hara/r3d", _IBM_NAMES, _HARA_ASSUMED),
    _hara(
        "hara/r2plus1d",
        _HARA_R2P1D_NAMES,
        dataclasses.replace(_HARA_ASSUMED, convolution="space-time"),
    ),
    _torchvision(
        "torchvision/r3d-18",
        _TV_NAMES,
        dataclasses.replace(_TV, lengths=(_THREE, _THREE, _THREE, _THREE)),
    ),
    _torchvision(
        "torchvision/mc3-18",
        _TV_NAMES,
        dataclasses.replace(_TV, time_strides=(1, 1, 1, 1), lengths=(_THREE, _ONE, _ONE, _ONE)),
    ),
    _torchvision(
        "torchvision/r2plus1d-18",
        _TV_R2P1D_NAMES,
        dataclasses.replace(_TV, convolution="space-time"),
    ),
    _mmaction(
        "mmaction2/slowonly",
        _MM_NAMES,
        Assumed(stem_lengths=(1,), temporal="first"),
        "no stride and no pool in time; eps 1e-5",
        8,
        8,
    ),
    _mmaction(
        "mmaction2/i3d",
        _MM_NAMES,
        Assumed(
            stem_lengths=(5,),
            stem_stride=_CUBE,
            pool_stride=_CUBE,
            temporal="first",
            pool_in_time=True,
        ),
        "stride 2 in time in the stem, in its pool and in a pool after conv2; eps 1e-5",
        32,
        2,
    ),
    _mmaction(
        "mmaction2/r2plus1d",
        _MM_R2P1D_NAMES,
        Assumed(
            stem_lengths=(3,),
            time_strides=(1, 2, 2, 2),
            convolution="space-time",
            shortcut="separable",
            eps=1e-3,
        ),
        "pool 1x3x3 after the stem, stride 2 in time in conv3 to conv5; eps 1e-3, within separable "
        "filters 1e-5",
        8,
        8,
    ),
    Family(
        name="mmaction2/ir-csn",
        source="open-mmlab/mmaction2 (Apache-2.0)",
        assumed="stride 2 in time in conv3 to conv5; pool 1x3x3 after the stem; eps 1e-3",
        clip=clip_of(IMAGENET, 32, 2),
        read=partial(
            _read_csn,
            names=dataclasses.replace(
                _MM_NAMES, middle=ConvNorm("{block}.conv{n}.0.conv", "{block}.conv{n}.0.bn")
            ),
            assumed=Assumed(stem_lengths=(3,), time_strides=(1, 2, 2, 2), depthwise=True, eps=1e-3),
        ),
    ),
    _pytorchvideo(
        "pytorchvideo/slow",
        _PTV_NAMES,
        Assumed(stem_lengths=(1,), temporal="first"),
        "no stride and no pool in time; eps 1e-5",
        8,
        8,
    ),
    _pytorchvideo(
        "pytorchvideo/c2d",
        _PTV_POOLED_NAMES,
        Assumed(stem_lengths=(1,), temporal="first", pool_in_time=True),
        "a pool of 2 in time after conv2; eps 1e-5",
        8,
        8,
    ),
    _pytorchvideo(
        "pytorchvideo/i3d",
        _PTV_POOLED_NAMES,
        Assumed(stem_lengths=(5,), temporal="first", pool_in_time=True),
        "a pool of 2 in time after conv2; eps 1e-5",
        8,
        8,
    ),
    _pytorchvideo(
        "pytorchvideo/csn",
        _PTV_NAMES,
        Assumed(stem_lengths=(3,), time_strides=(1, 2, 2, 2), depthwise=True),
        "stride 2 in time in conv3 to conv5; pool 1x3x3 after the stem; eps 1e-5",
        32,
        2,
    ),
    _pytorchvideo(
        "pytorchvideo/r2plus1d",
        _PTV_R2P1D_NAMES,
        Assumed(
            stem_lengths=(1,),
            pool_kernel=None,
            time_strides=(1, 1, 2, 2),
            space_strides=(2, 2, 2, 2),
            convolution="time-space",
        ),
        "stride 2 in space in conv2 and no pool, stride 2 in time in conv4 and conv5; eps 1e-5",
        16,
        4,
    ),
    *INCEPTIONS,
    *X3DS,
    *SLOWFASTS,
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in _KNOWN}
