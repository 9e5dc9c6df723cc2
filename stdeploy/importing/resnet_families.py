"""Residual networks of other projects that are known by their weights: one of RESNETS each.

What stands under `assumed` was read in the code of the projects; none of it can be seen in weights.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.importing.family import GREY, IMAGENET, TORCHVISION, Colours, Family, Found, clip_of
from stdeploy.importing.resnets import Assumed, ResNetNames, read_resnet
from stdeploy.importing.source_weights import ConvNorm, MismatchError, SourceWeights

_HARA: Colours = ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))
_SOURCES = {
    "ibm": "IBM/action-recognition-pytorch (Apache-2.0)",
    "hara": "kenshohara/3D-ResNets-PyTorch (MIT)",
    "torchvision": "torchvision.models.video (BSD-3)",
    "mmaction2": "open-mmlab/mmaction2 (Apache-2.0)",
    "pytorchvideo": "facebookresearch/pytorchvideo (Apache-2.0)",
}
_CUBE = (2, 2, 2)
_STRIDED = (1, 2, 2, 2)
_TIME_STRIDES = "stride 2 in time in conv3 to conv5"
_IN_SPACE = "pool 1x3x3 after the stem"


def _known(
    name: str,
    names: ResNetNames,
    assumed: Assumed,
    words: str,
    clip: ClipSpec,
    read: Callable[..., Found] = read_resnet,
    twins: str = "",
) -> Family:
    """A residual network of a project of _SOURCES; `words` say what is assumed."""
    source = _SOURCES[name.partition("/")[0]]
    return Family(name, source, words, clip, partial(read, names=names, assumed=assumed), twins)


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
_IBM_STRIDED = Assumed(stem_lengths=(3, 5), time_strides=_STRIDED)


def _ibm() -> tuple[Family, ...]:
    clip = clip_of(IMAGENET, 32, 2)
    plain = f"no stride in time in conv3 to conv5; {_IN_SPACE}; eps 1e-5"
    strided = f"{_TIME_STRIDES}; {_IN_SPACE}; eps 1e-5"
    s3d, s3d_strided = (
        dataclasses.replace(each, convolution="space-time") for each in (_IBM, _IBM_STRIDED)
    )
    return (
        _known("ibm/i3d-resnet", _IBM_NAMES, _IBM, plain, clip),
        _known("ibm/i3d-resnet-time-stride", _IBM_NAMES, _IBM_STRIDED, strided, clip),
        _known("ibm/s3d-resnet", _IBM_S3D_NAMES, s3d, plain, clip),
        _known("ibm/s3d-resnet-time-stride", _IBM_S3D_NAMES, s3d_strided, strided, clip),
    )


# --- kenshohara/3D-ResNets-PyTorch

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


def _hara() -> tuple[Family, ...]:
    clip = clip_of(_HARA, 16, sides=(112, 112))
    words = (
        "stride (1, 2, 2) and a pool 3x3x3 of stride 2 in the stem, stride 2 in time in conv3 to "
        "conv5; eps 1e-5"
    )
    r3d = Assumed(
        stem_lengths=(7,), pool_kernel=(3, 3, 3), pool_stride=_CUBE, time_strides=_STRIDED
    )
    r2plus1d = dataclasses.replace(r3d, convolution="space-time")
    return (
        _known("hara/r3d", _IBM_NAMES, r3d, words, clip, _read_hara),
        _known("hara/r2plus1d", _HARA_R2P1D_NAMES, r2plus1d, words, clip, _read_hara),
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


def _torchvision() -> tuple[Family, ...]:
    clip = clip_of(TORCHVISION, 16, fps=15.0, sides=(128, 112))
    plain, strided = (
        f"stride {stride} in time in conv3 to conv5; no pool; eps 1e-5" for stride in (1, 2)
    )
    three, one = (3,), (1,)
    base = Assumed(stem_lengths=three, pool_kernel=None, time_strides=_STRIDED)
    r3d = dataclasses.replace(base, lengths=(three, three, three, three))
    mc3 = dataclasses.replace(base, lengths=(three, one, one, one), time_strides=(1, 1, 1, 1))
    r2plus1d = dataclasses.replace(base, convolution="space-time")
    return (
        _known("torchvision/r3d-18", _TV_NAMES, r3d, strided, clip),
        _known("torchvision/mc3-18", _TV_NAMES, mc3, plain, clip),
        _known("torchvision/r2plus1d-18", _TV_R2P1D_NAMES, r2plus1d, strided, clip),
    )


# --- open-mmlab/mmaction2

MMACTION_NAMES = ResNetNames(
    stem=(ConvNorm("backbone.conv1.conv", "backbone.conv1.bn"),),
    block="backbone.layer{stage}.{index}",
    joint=ConvNorm("{block}.conv{n}.conv", "{block}.conv{n}.bn"),
    shortcut=(ConvNorm("{block}.downsample.conv", "{block}.downsample.bn"),),
    classifier="cls_head.fc_cls",
)
_MM_R2P1D_NAMES = dataclasses.replace(
    MMACTION_NAMES,
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
_MM_CSN_NAMES = dataclasses.replace(
    MMACTION_NAMES, middle=ConvNorm("{block}.conv{n}.0.conv", "{block}.conv{n}.0.bn")
)


def _read_csn(weights: SourceWeights, names: ResNetNames, assumed: Assumed) -> Found:
    """The middle convolution is one of a list, which in ir-CSN has one part."""
    if "backbone.layer1.0.conv2.1.conv.weight" in weights:
        raise MismatchError("backbone.layer1.0.conv2.1 is that of an ip-CSN")
    return read_resnet(weights, names, assumed)


def _read_2d(weights: SourceWeights, names: ResNetNames, assumed: Assumed) -> Found:
    """Its convolutions are 2D ones, of each frame by itself."""
    if len(weights.shape(f"{names.stem[0].conv}.weight")) != 4:
        raise MismatchError(f"{names.stem[0].conv} is no 2D convolution")
    weights.extend_in_time()
    return read_resnet(weights, names, assumed)


def _mmaction() -> tuple[Family, ...]:
    sparse, dense = clip_of(IMAGENET, 8, 8), clip_of(IMAGENET, 32, 2)
    slow = Assumed(stem_lengths=(1,), temporal="first")
    i3d = Assumed(
        stem_lengths=(5,),
        stem_stride=_CUBE,
        pool_stride=_CUBE,
        temporal="first",
        pool_in_time=True,
    )
    c2d = dataclasses.replace(slow, pool_padded=False, pool_in_time=True)
    r2plus1d = Assumed(
        stem_lengths=(3,),
        time_strides=_STRIDED,
        convolution="space-time",
        shortcut="separable",
        eps=1e-3,
    )
    csn = Assumed(stem_lengths=(3,), time_strides=_STRIDED, depthwise=True, eps=1e-3)
    return (
        _known(
            *("mmaction2/slowonly", MMACTION_NAMES, slow),
            *("no stride and no pool in time; eps 1e-5", sparse),
        ),
        _known(
            *("mmaction2/c2d", MMACTION_NAMES, c2d),
            "a pool 1x3x3 without padding after the stem, a pool of 2 in time after conv2; "
            "eps 1e-5",
            *(sparse, _read_2d, "the 2D networks TSN and TSM"),
        ),
        _known(
            *("mmaction2/i3d", MMACTION_NAMES, i3d),
            "stride 2 in time in the stem, in its pool and in a pool after conv2; eps 1e-5",
            dense,
        ),
        _known(
            *("mmaction2/r2plus1d", _MM_R2P1D_NAMES, r2plus1d),
            f"{_IN_SPACE}, {_TIME_STRIDES}; eps 1e-3, within separable filters 1e-5",
            sparse,
        ),
        _known(
            *("mmaction2/ir-csn", _MM_CSN_NAMES, csn),
            *(f"{_TIME_STRIDES}; {_IN_SPACE}; eps 1e-3", dense, _read_csn),
        ),
    )


# --- facebookresearch/pytorchvideo

PYTORCHVIDEO_NAMES = ResNetNames(
    stem=(ConvNorm("blocks.0.conv", "blocks.0.norm"),),
    block="blocks.{stage}.res_blocks.{index}",
    joint=ConvNorm("{block}.branch2.conv_{abc}", "{block}.branch2.norm_{abc}"),
    shortcut=(ConvNorm("{block}.branch1_conv", "{block}.branch1_norm"),),
    classifier="blocks.5.proj",
)
# A pool is a block too, and has no weights.
_PTV_POOLED_NAMES = dataclasses.replace(
    PYTORCHVIDEO_NAMES, stages=("1", "3", "4", "5"), classifier="blocks.6.proj"
)
_PTV_R2P1D_NAMES = dataclasses.replace(
    PYTORCHVIDEO_NAMES,
    parts=(
        ConvNorm("{block}.branch2.conv_b.conv_t", "{block}.branch2.conv_b.norm"),
        ConvNorm("{block}.branch2.conv_b.conv_xy", "{block}.branch2.norm_b"),
    ),
)


def _pytorchvideo() -> tuple[Family, ...]:
    sparse = clip_of(GREY, 8, 8)
    pooled = "a pool of 2 in time after conv2; eps 1e-5"

    def known(
        name: str, names: ResNetNames, assumed: Assumed, words: str, clip: ClipSpec = sparse
    ) -> Family:
        assumed = dataclasses.replace(assumed, window_side=7)
        words = f"{words}; averages over 7 x 7 features"
        return _known(f"pytorchvideo/{name}", names, assumed, words, clip)

    slow = Assumed(stem_lengths=(1,), temporal="first")
    c2d = dataclasses.replace(slow, pool_in_time=True)
    i3d = dataclasses.replace(c2d, stem_lengths=(5,))
    csn = Assumed(stem_lengths=(3,), time_strides=_STRIDED, depthwise=True)
    r2plus1d = Assumed(
        stem_lengths=(1,),
        pool_kernel=None,
        time_strides=(1, 1, 2, 2),
        space_strides=(2, 2, 2, 2),
        convolution="time-space",
    )
    return (
        known("slow", PYTORCHVIDEO_NAMES, slow, "no stride and no pool in time; eps 1e-5"),
        known("c2d", _PTV_POOLED_NAMES, c2d, pooled),
        known("i3d", _PTV_POOLED_NAMES, i3d, pooled),
        known(
            *("csn", PYTORCHVIDEO_NAMES, csn, f"{_TIME_STRIDES}; {_IN_SPACE}; eps 1e-5"),
            clip_of(GREY, 32, 2),
        ),
        known(
            *("r2plus1d", _PTV_R2P1D_NAMES, r2plus1d),
            "stride 2 in space in conv2 and no pool, stride 2 in time in conv4 and conv5; eps 1e-5",
            clip_of(GREY, 16, 4),
        ),
    )


RESNETS = (*_ibm(), *_hara(), *_torchvision(), *_mmaction(), *_pytorchvideo())
