"""X3Ds of other projects: channels and depths from the weights, the rest assumed."""

import dataclasses
import itertools
from collections.abc import Container, Mapping
from functools import partial

from stdeploy.artifacts.layouts import X3DLayout, X3DStageLayout
from stdeploy.importing.family import GREY, Family, Found, clip_of
from stdeploy.importing.source_weights import (
    ConvNorm,
    MismatchError,
    SourceWeights,
    Tensors,
    classifier_weights,
    filter_weights,
)


@dataclasses.dataclass(frozen=True)
class X3DNames:
    """What a project calls the weights of its X3D.

    In patterns {stage} is 1 to 4 for conv2 to conv5, {block} stands for a block's own name.

    Attributes:
        stem: the first convolution, and the depthwise one after it.
        block: a block's name.
        convolutions: the three of a block.
        excitation: its two 1x1x1 convolutions, without ".weight".
        shortcut: of a block that changes the shape; in some projects its norm is not always there.
        project: the 1x1x1 convolution before the average.
        expand: the one after it, without a norm.
        classifier: the linear layer.
    """

    stem: tuple[ConvNorm, ConvNorm]
    block: str
    convolutions: tuple[ConvNorm, ConvNorm, ConvNorm]
    excitation: tuple[str, str]
    shortcut: ConvNorm
    project: ConvNorm
    expand: ConvNorm
    classifier: str


def read_x3d(weights: SourceWeights, names: X3DNames, window: tuple[int, int] = (0, 0)) -> Found:
    """Read an X3D.

    Args:
        weights: of the other project.
        names: in it.
        window: (t, side) of what such networks average at a time; 0 for all.

    Raises:
        MismatchError: these are not the weights of such a network.
    """
    layout = _layout(weights, names, window)
    tensors: Tensors = {}
    for ours, theirs in pairs_of_x3d(weights, names, layout).items():
        tensors |= filter_weights(weights, ours, theirs, eps=layout.eps)
    for ours, plain in excitations_of_x3d(names, layout).items():
        for kind in ("weight", "bias"):
            tensors[f"{ours}.{kind}"] = weights.take(f"{plain}.{kind}")
    tensors |= classifier_weights(weights, names.classifier)
    return Found.of("x3d", layout, tensors)


def pairs_of_x3d(
    weights: Container[str], names: X3DNames, layout: X3DLayout
) -> Mapping[str, ConvNorm]:
    """Our filters with the names of what they take.

    Args:
        weights: names of those of the other project, which say where shortcuts and norms are.
        names: in it.
        layout: of the network.
    """
    pairs = {"conv1.0": names.stem[0], "conv1.1": names.stem[1]}
    for number, stage in enumerate(layout.stages, start=1):
        for index in range(len(stage.excitations)):
            ours, block = f"conv{number + 1}.{index}", _block(names, number, index)
            for n, each in enumerate(names.convolutions, start=1):
                pairs[f"{ours}.conv{n}"] = each.named(block=block)
            shortcut = names.shortcut.named(block=block)
            if f"{shortcut.conv}.weight" in weights:
                if f"{shortcut.norm}.weight" not in weights:
                    shortcut = ConvNorm(shortcut.conv, None)
                pairs[f"{ours}.downsample"] = shortcut
    last = f"conv5.{len(layout.stages[-1].excitations)}"
    return {**pairs, f"{last}.project": names.project, f"{last}.expand": names.expand}


def excitations_of_x3d(names: X3DNames, layout: X3DLayout) -> Mapping[str, str]:
    """The convolutions of our squeeze-excitations with the names of theirs."""
    pairs: dict[str, str] = {}
    for number, stage in enumerate(layout.stages, start=1):
        for index, squeezed in enumerate(stage.excitations):
            if squeezed:
                ours, block = f"conv{number + 1}.{index}.excitation", _block(names, number, index)
                squeeze, excite = (name.format(block=block) for name in names.excitation)
                pairs |= {f"{ours}.squeeze": squeeze, f"{ours}.excite": excite}
    return pairs


def _layout(weights: SourceWeights, names: X3DNames, window: tuple[int, int]) -> X3DLayout:
    stem, depthwise = (weights.kernel_shape(part.conv) for part in names.stem)
    if stem[1:] != (3, 1, 3, 3):
        raise MismatchError(f"{names.stem[0].conv} has shape {stem}, not (C, 3, 1, 3, 3)")
    if depthwise[2] % 2 == 0 or depthwise[1:] != (1, depthwise[2], 1, 1):
        raise MismatchError(f"{names.stem[1].conv} has shape {depthwise}, not (C, 1, t, 1, 1)")
    stages = [_stage(weights, names, number) for number in (1, 2, 3, 4)]
    return X3DLayout(
        channels=stem[0],
        length=depthwise[2],
        stages=(stages[0], stages[1], stages[2], stages[3]),
        projected=weights.kernel_shape(names.project.conv)[0],
        features=weights.out_channels(names.expand.conv),
        window=window,
    )


def _stage(weights: SourceWeights, names: X3DNames, number: int) -> X3DStageLayout:
    excitations: list[int] = []
    lengths: set[int] = set()
    inner = channels = 0
    for index in itertools.count():
        block = _block(names, number, index)
        _, middle, last = (part.named(block=block).conv for part in names.convolutions)
        if f"{middle}.weight" not in weights:
            break
        inner, groups, length, *sides = weights.kernel_shape(middle)
        if groups != 1 or sides != [3, 3] or length % 2 == 0:
            raise MismatchError(f"{middle} is no depthwise t x 3 x 3 convolution")
        lengths.add(length)
        channels = weights.kernel_shape(last)[0]
        squeeze = names.excitation[0].format(block=block)
        squeezed = f"{squeeze}.weight" in weights
        excitations.append(weights.kernel_shape(squeeze)[0] if squeezed else 0)
    if len(lengths) != 1:
        raise MismatchError(
            f"filters of {_block(names, number, 0)} and its kin have lengths {sorted(lengths)}"
        )
    return X3DStageLayout(
        channels=channels, inner=inner, excitations=tuple(excitations), length=lengths.pop()
    )


def _block(names: X3DNames, number: int, index: int) -> str:
    return names.block.format(stage=number, index=index)


_PYTORCHVIDEO = X3DNames(
    # NOTE: "conv_t" there is the convolution in space, and "conv_xy" that in time.
    stem=(
        ConvNorm("blocks.0.conv.conv_t", None),
        ConvNorm("blocks.0.conv.conv_xy", "blocks.0.norm"),
    ),
    block="blocks.{stage}.res_blocks.{index}",
    convolutions=(
        ConvNorm("{block}.branch2.conv_a", "{block}.branch2.norm_a"),
        ConvNorm("{block}.branch2.conv_b", "{block}.branch2.norm_b.0"),
        ConvNorm("{block}.branch2.conv_c", "{block}.branch2.norm_c"),
    ),
    excitation=("{block}.branch2.norm_b.1.block.0", "{block}.branch2.norm_b.1.block.2"),
    shortcut=ConvNorm("{block}.branch1_conv", "{block}.branch1_norm"),
    project=ConvNorm("blocks.5.pool.pre_conv", "blocks.5.pool.pre_norm"),
    expand=ConvNorm("blocks.5.pool.post_conv", None),
    classifier="blocks.5.proj",
)
_MMACTION = X3DNames(
    stem=(
        ConvNorm("backbone.conv1_s.conv", None),
        ConvNorm("backbone.conv1_t.conv", "backbone.conv1_t.bn"),
    ),
    block="backbone.layer{stage}.{index}",
    convolutions=(
        ConvNorm("{block}.conv1.conv", "{block}.conv1.bn"),
        ConvNorm("{block}.conv2.conv", "{block}.conv2.bn"),
        ConvNorm("{block}.conv3.conv", "{block}.conv3.bn"),
    ),
    excitation=("{block}.se_module.fc1", "{block}.se_module.fc2"),
    shortcut=ConvNorm("{block}.downsample.conv", "{block}.downsample.bn"),
    project=ConvNorm("backbone.conv5.conv", "backbone.conv5.bn"),
    expand=ConvNorm("cls_head.fc1", None),
    classifier="cls_head.fc2",
)
_STRIDES = "stride 2 in space in the stem and in conv2 to conv5; eps 1e-5"
_STD = 57.38 / 255


def _pytorchvideo(
    size: str, depths: tuple[int, ...], frames: int, stride: int, side: int, window: int
) -> Family:
    def read(weights: SourceWeights) -> Found:
        return _of_depths(read_x3d(weights, _PYTORCHVIDEO, (frames, window)), depths)

    return Family(
        name=f"pytorchvideo/x3d-{size}",
        source="facebookresearch/pytorchvideo (Apache-2.0)",
        assumed=f"{_STRIDES}; averages over {frames} x {window} x {window} features; the softmax "
        "that may follow is left out",
        clip=clip_of(GREY, frames, stride, sides=(side, side)),
        read=read,
    )


def _of_depths(found: Found, depths: tuple[int, ...]) -> Found:
    assert isinstance(found.spec.layout, X3DLayout)
    own = tuple(len(stage.excitations) for stage in found.spec.layout.stages)
    if own != depths:
        raise MismatchError(f"conv2 to conv5 have {own} blocks, not {depths}")
    return found


_SHALLOW, _DEEP = (3, 5, 11, 7), (5, 10, 25, 15)
X3DS = (
    _pytorchvideo("xs", _SHALLOW, 4, 12, 182, 5),
    _pytorchvideo("s", _SHALLOW, 13, 6, 182, 5),
    _pytorchvideo("m", _SHALLOW, 16, 5, 256, 7),
    _pytorchvideo("l", _DEEP, 16, 5, 312, 10),
    Family(
        name="mmaction2/x3d",
        source="open-mmlab/mmaction2 (Apache-2.0)",
        assumed=f"{_STRIDES}; the clip is that of X3D-S, while X3D-M sees 16 frames, every 5th, of "
        "256 px",
        clip=clip_of(((0.45, 0.45, 0.45), (_STD, _STD, _STD)), 13, 6, sides=(192, 192)),
        read=partial(read_x3d, names=_MMACTION),
    ),
)
