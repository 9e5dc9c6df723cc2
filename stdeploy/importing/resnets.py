"""Residual networks of other projects: kernels and depths from the weights, the rest assumed."""

import dataclasses
import itertools
from collections.abc import Container, Mapping
from typing import Literal

from stdeploy.artifacts.layouts import ResNetLayout, Size3, StageLayout, StemLayout
from stdeploy.importing.family import Found
from stdeploy.importing.source_weights import (
    ConvNorm,
    MismatchError,
    SourceWeights,
    Tensors,
    classifier_weights,
    filter_weights,
)

_STAGES = 4


@dataclasses.dataclass(frozen=True)
class ResNetNames:
    """What a project calls the weights of its residual networks.

    In patterns {stage} stands for a name of `stages`, {block} for a block's own name, {n} for the
    number of a convolution and {abc} for its letter.

    Attributes:
        stem: the first convolution; two where it is separable.
        block: a block's name.
        joint: a convolution of a block.
        middle: that of a bottleneck, where its name is another.
        parts: the two parts of a separable one, in the order in which they are applied.
        shortcut: of a block that changes the shape; two where it is separable.
        classifier: the linear layer.
        stages: names of conv2 to conv5.
    """

    stem: tuple[ConvNorm, ...]
    block: str
    joint: ConvNorm
    shortcut: tuple[ConvNorm, ...]
    classifier: str
    middle: ConvNorm | None = None
    parts: tuple[ConvNorm, ConvNorm] | None = None
    stages: tuple[str, str, str, str] = ("1", "2", "3", "4")


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What the weights of a residual network do not say.

    Attributes:
        stem_stride: (sT, sH, sW).
        pool_kernel: after the stem; None for no pool.
        pool_stride: likewise.
        pool_padded: see `StemLayout`.
        time_strides: of conv2 to conv5.
        space_strides: likewise.
        convolution: see `ResNetLayout`, as are the following.
        temporal: likewise.
        shortcut: likewise.
        pool_in_time: likewise.
        eps: likewise.
        middle_eps: likewise.
        depthwise: likewise.
        window_side: likewise.
        stem_lengths: temporal lengths of the stem that such networks have.
        lengths: of conv2 to conv5 likewise; every one where it is empty.
    """

    stem_lengths: tuple[int, ...]
    stem_stride: Size3 = (1, 2, 2)
    pool_kernel: Size3 | None = (1, 3, 3)
    pool_stride: Size3 = (1, 2, 2)
    pool_padded: bool = True
    time_strides: tuple[int, int, int, int] = (1, 1, 1, 1)
    space_strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    convolution: Literal["joint", "space-time", "time-space"] = "joint"
    temporal: Literal["first", "middle"] = "middle"
    shortcut: Literal["convolution", "padding", "separable"] = "convolution"
    pool_in_time: bool = False
    eps: float = 1e-5
    middle_eps: float = 1e-5
    depthwise: bool = False
    window_side: int = 0
    lengths: tuple[tuple[int, ...], ...] = ()


def read_resnet(weights: SourceWeights, names: ResNetNames, assumed: Assumed) -> Found:
    """Read a residual network.

    Args:
        weights: of the other project.
        names: in it.
        assumed: of such networks.

    Raises:
        MismatchError: these are not the weights of such a network.
    """
    layout = read_layout(weights, names, assumed)
    tensors: Tensors = {}
    for ours, theirs in filter_pairs(weights, names, layout).items():
        tensors |= filter_weights(weights, ours, theirs)
    tensors |= classifier_weights(weights, names.classifier)
    return Found.of("resnet3d", layout, tensors)


def read_layout(weights: SourceWeights, names: ResNetNames, assumed: Assumed) -> ResNetLayout:
    """What kernels, channels and depths the weights have, with what is assumed.

    Raises:
        MismatchError: these are not the weights of such a network.
    """
    separable = assumed.convolution != "joint"
    bottleneck = f"{_named(names.joint, names, 1, 0, 3).conv}.weight" in weights
    stages = []
    for number in range(1, _STAGES + 1):
        depth = _depth(weights, names, number)
        lengths, middles, channels = [], [], 0
        for index in range(depth):
            length, middle, channels = _block_shape(
                weights, names, assumed, number, index, bottleneck=bottleneck
            )
            lengths.append(length)
            middles.append(middle)
        allowed = assumed.lengths[number - 1] if assumed.lengths else ()
        if allowed and not set(lengths) <= set(allowed):
            raise MismatchError(
                f"{_block(names, number, 0)} has filters of temporal lengths {sorted(set(lengths))}"
            )
        stages.append(
            StageLayout(
                channels=channels,
                lengths=tuple(lengths),
                stride=(assumed.time_strides[number - 1], assumed.space_strides[number - 1]),
                middles=tuple(middles) if separable else (),
                shortcut_middle=_shortcut_middle(weights, names, number),
            )
        )
    return ResNetLayout(
        block="bottleneck" if bottleneck else "basic",
        stem=_stem(weights, names, assumed),
        stages=(stages[0], stages[1], stages[2], stages[3]),
        convolution=assumed.convolution,
        temporal=assumed.temporal if bottleneck else "middle",
        shortcut=assumed.shortcut,
        depthwise=assumed.depthwise,
        pool_in_time=assumed.pool_in_time,
        eps=assumed.eps,
        middle_eps=assumed.middle_eps,
        window_side=assumed.window_side,
    )


def _stem(weights: SourceWeights, names: ResNetNames, assumed: Assumed) -> StemLayout:
    shapes = [weights.kernel_shape(part.conv) for part in names.stem]
    length = max(shape[2] for shape in shapes)
    if length not in assumed.stem_lengths:
        raise MismatchError(f"the first filter has temporal length {length}")
    if shapes[0][1] != 3:
        raise MismatchError(f"the first convolution takes {shapes[0][1]} channels, not 3 colours")
    return StemLayout(
        channels=shapes[-1][0],
        kernel=(length, *shapes[0][3:]),
        stride=assumed.stem_stride,
        middle=shapes[0][0] if len(shapes) > 1 else None,
        pool_kernel=assumed.pool_kernel,
        pool_stride=assumed.pool_stride,
        pool_padded=assumed.pool_padded,
    )


def _shortcut_middle(weights: SourceWeights, names: ResNetNames, stage: int) -> int | None:
    """Channels between the two parts of a stage's separable shortcut; None for another or none."""
    first = _named(names.shortcut[0], names, stage, 0).conv
    if len(names.shortcut) == 1 or f"{first}.weight" not in weights:
        return None
    return weights.kernel_shape(first)[0]


def _depth(weights: SourceWeights, names: ResNetNames, stage: int) -> int:
    for index in itertools.count():
        parts = (names.joint, *(names.parts or ()))
        candidates = (_named(part, names, stage, index, 1).conv for part in parts)
        if not any(f"{conv}.weight" in weights for conv in candidates):
            if index == 0:
                raise MismatchError(f"there is no block {_block(names, stage, 0)}")
            return index
    raise AssertionError


def _block_shape(
    weights: SourceWeights,
    names: ResNetNames,
    assumed: Assumed,
    stage: int,
    index: int,
    *,
    bottleneck: bool,
) -> tuple[int, tuple[int, ...], int]:
    """Temporal length, channels between the parts of separable filters, channels of a block."""
    length, channels = 1, 0
    middles: list[int] = []
    for number in (1, 2, 3) if bottleneck else (1, 2):
        parts = _parts(names, assumed.convolution, number, bottleneck=bottleneck)
        shapes = [
            weights.kernel_shape(_named(part, names, stage, index, number).conv) for part in parts
        ]
        if len(parts) > 1:
            middles.append(shapes[0][0])
        found = max(shape[2] for shape in shapes)
        extends = not bottleneck or number == (1 if assumed.temporal == "first" else 2)
        if not extends and found != 1:
            raise MismatchError(
                f"convolution {number} of {_block(names, stage, index)} extends over {found} frames"
            )
        if number == 2:
            channels = shapes[-1][0]
            sides = {max(shape[3] for shape in shapes), max(shape[4] for shape in shapes)}
            if sides != {3}:
                raise MismatchError(f"{_block(names, stage, index)} has no 3 x 3 convolution")
            if assumed.depthwise != (shapes[0][1] == 1 and channels > 1):
                raise MismatchError(f"groups of {_block(names, stage, index)} are others")
        if not bottleneck and number == 2 and found != length:
            raise MismatchError(f"filters of {_block(names, stage, index)} differ in length")
        length = max(length, found)
    return length, tuple(middles), channels


def filter_pairs(
    weights: Container[str], names: ResNetNames, layout: ResNetLayout
) -> Mapping[str, ConvNorm]:
    """Our filters with the names of what they take.

    Args:
        weights: names of those of the other project, which say where shortcuts are.
        names: in it.
        layout: of the network.
    """
    pairs: dict[str, ConvNorm] = {}

    def add(ours: str, theirs: tuple[ConvNorm, ...]) -> None:
        if len(theirs) == 1:
            pairs[ours] = theirs[0]
        else:  # Sequential(first part, ReLU, second part)
            pairs.update({f"{ours}.0": theirs[0], f"{ours}.2": theirs[1]})

    add("conv1", names.stem)
    bottleneck = layout.block == "bottleneck"
    for stage, content in enumerate(layout.stages, start=1):
        for index in range(len(content.lengths)):
            ours = f"conv{stage + 1}.{index}"
            for number in (1, 2, 3) if bottleneck else (1, 2):
                parts = _parts(names, layout.convolution, number, bottleneck=bottleneck)
                add(
                    f"{ours}.conv{number}",
                    tuple(_named(part, names, stage, index, number) for part in parts),
                )
            shortcut = tuple(_named(part, names, stage, index) for part in names.shortcut)
            if layout.shortcut != "padding" and f"{shortcut[0].conv}.weight" in weights:
                add(f"{ours}.downsample", shortcut)
    return pairs


def _parts(
    names: ResNetNames, convolution: str, number: int, *, bottleneck: bool
) -> tuple[ConvNorm, ...]:
    """The patterns of a convolution of a block: two where it is separable."""
    middle = number == 2 if bottleneck else True
    if names.parts and convolution != "joint" and middle:
        return names.parts
    return (names.middle if bottleneck and middle and names.middle else names.joint,)


def _block(names: ResNetNames, stage: int, index: int) -> str:
    return names.block.format(stage=names.stages[stage - 1], index=index)


def _named(part: ConvNorm, names: ResNetNames, stage: int, index: int, number: int = 1) -> ConvNorm:
    """A pattern with its block and convolution put in."""
    fields = {"block": _block(names, stage, index), "n": number, "abc": "abc"[number - 1]}
    return part.named(**fields)
