"""Inceptions of other projects: kernels and channels from the weights, the rest assumed."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

from stdeploy.artifacts.layouts import InceptionLayout, MixedChannels
from stdeploy.importing.family import TORCHVISION, Family, Found, clip_of
from stdeploy.importing.source_weights import (
    ConvNorm,
    MismatchError,
    SourceWeights,
    Tensors,
    classifier_weights,
    filter_weights,
)

# The convolutions of a mixed module, as `Mixed` calls them, in the order of `MixedChannels`.
_PATHS = ("point", "path_a.0", "path_a.1", "path_b.0", "path_b.1", "pooled.1")
_WIDE = ("path_a.1", "path_b.1")


@dataclasses.dataclass(frozen=True)
class InceptionNames:
    """What a project calls the weights of its Inception.

    In patterns {unit} stands for the name of a unit: a convolution with its norm and ReLU, or the
    two of them that a separable one has. {module} stands for a mixed module.

    Attributes:
        stem: the first unit.
        point: the 1x1x1 one of conv2.
        wide: the other one of conv2.
        mixed: the mixed modules of conv3 to conv5.
        paths: units of a mixed module, in the order of `MixedChannels`.
        plain: of a unit.
        parts: of a separable unit, in space and in time; None where nothing is separable.
        classifier: the last 1x1x1 convolution.
    """

    stem: str
    point: str
    wide: str
    mixed: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    paths: tuple[str, str, str, str, str, str]
    plain: ConvNorm
    parts: tuple[ConvNorm, ConvNorm] | None
    classifier: str


@dataclasses.dataclass(frozen=True)
class AssumedOfInception:
    """What the weights of an Inception do not say; see `InceptionLayout`."""

    padding: Literal["same", "centred"]
    window_side: int


def read_inception(
    weights: SourceWeights, names: InceptionNames, assumed: AssumedOfInception
) -> Found:
    """Read an Inception.

    Args:
        weights: of the other project.
        names: in it.
        assumed: of such networks.

    Raises:
        MismatchError: these are not the weights of such a network.
    """
    layout = _layout(weights, names, assumed)
    tensors: Tensors = {}
    for ours, theirs in pairs_of_inception(names).items():
        tensors |= filter_weights(weights, ours, theirs)
    tensors |= classifier_weights(weights, names.classifier)
    return Found.of("inception3d", layout, tensors)


def pairs_of_inception(names: InceptionNames) -> Mapping[str, ConvNorm]:
    """Our filters with the names of what they take."""
    pairs: dict[str, ConvNorm] = {}
    for ours, unit, wide in _units(names):
        first = 1 if ours == "conv1" else 0  # the first layer of conv1 pads
        parts = names.parts if wide and names.parts else (names.plain,)
        for number, part in enumerate(parts):  # with a ReLU between them
            pairs[f"{ours}.{first + 2 * number}"] = part.named(unit=unit)
    return pairs


def _units(names: InceptionNames) -> Iterator[tuple[str, str, bool]]:
    """Our name of each unit, theirs, and whether it is more than 1x1x1."""
    yield "conv1", names.stem, True
    yield "conv2.1", names.point, False
    yield "conv2.2", names.wide, True
    for stage, modules in enumerate(names.mixed, start=3):
        for number, module in enumerate(modules, start=1):  # a pool comes first
            for path, theirs in zip(_PATHS, names.paths, strict=True):
                unit = theirs.format(module=module)
                yield f"conv{stage}.{number}.{path}", unit, path in _WIDE


def _layout(
    weights: SourceWeights, names: InceptionNames, assumed: AssumedOfInception
) -> InceptionLayout:
    stem, wide = _shape(weights, names, names.stem), _shape(weights, names, names.wide)
    if stem.takes != 3:
        raise MismatchError(f"the first convolution takes {stem.takes} channels, not 3 colours")
    mixed: list[tuple[MixedChannels, ...]] = []
    lengths = [stem.length, wide.length]
    for modules in names.mixed:
        found, longest = [], set()
        for module in modules:
            a, b, c, d, e, f = (
                _shape(weights, names, path.format(module=module), wide=ours in _WIDE)
                for ours, path in zip(_PATHS, names.paths, strict=True)
            )
            found.append((a.gives, b.gives, c.gives, d.gives, e.gives, f.gives))
            longest |= {c.length, e.length}
        if len(longest) > 1:
            raise MismatchError(f"filters of {modules[0]} and its kin differ in length: {longest}")
        mixed.append(tuple(found))
        lengths.append(longest.pop())
    t1, t2, t3, t4, t5 = lengths
    point = _shape(weights, names, names.point, wide=False)
    return InceptionLayout(
        lengths=(t1, t2, t3, t4, t5),
        channels=(stem.gives, point.gives, wide.gives),
        mixed=(mixed[0], mixed[1], mixed[2]),
        separable=names.parts is not None,
        padding=assumed.padding,
        window_side=assumed.window_side,
    )


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Of a unit: channels in and out, and its extent in time."""

    takes: int
    gives: int
    length: int


def _shape(
    weights: SourceWeights, names: InceptionNames, unit: str, *, wide: bool = True
) -> _Shape:
    separable = wide and names.parts is not None
    parts = (names.parts or ()) if separable else (names.plain,)
    shapes = [weights.kernel_shape(part.named(unit=unit).conv) for part in parts]
    length = shapes[-1][2]
    if not wide and shapes[0][2:] != (1, 1, 1):
        raise MismatchError(f"{unit} extends over {shapes[0][2:]}, not 1x1x1")
    if length % 2 == 0:
        raise MismatchError(f"{unit} extends over {length} frames")
    return _Shape(takes=shapes[0][1], gives=shapes[-1][0], length=length)


_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PIERGIAJ = InceptionNames(
    stem="Conv3d_1a_7x7",
    point="Conv3d_2b_1x1",
    wide="Conv3d_2c_3x3",
    mixed=(
        ("Mixed_3b", "Mixed_3c"),
        ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
        ("Mixed_5b", "Mixed_5c"),
    ),
    paths=(
        "{module}.b0",
        "{module}.b1a",
        "{module}.b1b",
        "{module}.b2a",
        "{module}.b2b",
        "{module}.b3b",
    ),
    plain=ConvNorm("{unit}.conv3d", "{unit}.bn"),
    parts=None,
    classifier="logits.conv3d",
)


def _numbered(trunk: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Mixed modules of a Sequential in which pools stand before and between them."""
    return (
        tuple(f"{trunk}.{number}" for number in (5, 6)),
        tuple(f"{trunk}.{number}" for number in (8, 9, 10, 11, 12)),
        tuple(f"{trunk}.{number}" for number in (14, 15)),
    )


_TORCHVISION_S3D = InceptionNames(
    stem="features.0",
    point="features.2",
    wide="features.3",
    mixed=_numbered("features"),
    paths=(
        "{module}.branch0",
        "{module}.branch1.0",
        "{module}.branch1.1",
        "{module}.branch2.0",
        "{module}.branch2.1",
        "{module}.branch3.1",
    ),
    plain=ConvNorm("{unit}.0", "{unit}.1"),
    parts=(ConvNorm("{unit}.0.0", "{unit}.0.1"), ConvNorm("{unit}.1.0", "{unit}.1.1")),
    classifier="classifier.1",
)
_KYLEMIN = InceptionNames(
    stem="base.0",
    point="base.2",
    wide="base.3",
    mixed=_numbered("base"),
    paths=("{module}.branch0.0", *_TORCHVISION_S3D.paths[1:]),
    plain=ConvNorm("{unit}.conv", "{unit}.bn"),
    parts=(ConvNorm("{unit}.conv_s", "{unit}.bn_s"), ConvNorm("{unit}.conv_t", "{unit}.bn_t")),
    classifier="fc.0",
)
_STRIDES = "stride 2 in the stem, pools between the stages, the last two of them in time too"
INCEPTIONS = (
    Family(
        name="piergiaj/i3d",
        source="piergiaj/pytorch-i3d (Apache-2.0)",
        assumed=f"{_STRIDES}; padding as TensorFlow's SAME; averages over 2 x 7 x 7 features, then "
        "over time; eps 1e-3",
        clip=clip_of(_HALF, 64, fps=25.0),
        read=partial(
            read_inception, names=_PIERGIAJ, assumed=AssumedOfInception("same", window_side=7)
        ),
    ),
    Family(
        name="torchvision/s3d",
        source="torchvision.models.video (BSD-3)",
        assumed=f"{_STRIDES}; padding on both sides; averages over 2 x 7 x 7 features, then over "
        "all; eps 1e-3; frames are 256 px high, which torchvision also makes them wide",
        clip=clip_of(TORCHVISION, 128, fps=15.0),
        read=partial(
            read_inception,
            names=_TORCHVISION_S3D,
            assumed=AssumedOfInception("centred", window_side=7),
        ),
    ),
    Family(
        name="kylemin/s3d",
        source="kylemin/S3D (MIT)",
        assumed=f"{_STRIDES}; padding on both sides; averages over 2 frames of features, then over "
        "time; eps 1e-3; frames of 25 per second, 256 px high, of which the project says nothing",
        clip=clip_of(_HALF, 64, fps=25.0),
        read=partial(
            read_inception, names=_KYLEMIN, assumed=AssumedOfInception("centred", window_side=0)
        ),
    ),
)
