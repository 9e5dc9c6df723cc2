"""SlowFast networks of other projects: both paths are residual networks, joined by convolutions."""

import dataclasses
from collections.abc import Container, Mapping
from functools import partial
from typing import Literal

from stdeploy.artifacts.layouts import SlowFastLayout
from stdeploy.importing.family import GREY, IMAGENET, Family, Found, clip_of
from stdeploy.importing.resnet_families import MMACTION_NAMES, PYTORCHVIDEO_NAMES
from stdeploy.importing.resnets import Assumed, ResNetNames, filter_pairs, read_layout
from stdeploy.importing.source_weights import (
    ConvNorm,
    MismatchError,
    SourceWeights,
    Tensors,
    classifier_weights,
    filter_weights,
)


@dataclasses.dataclass(frozen=True)
class SlowFastNames:
    """What a project calls the weights of its SlowFast.

    Attributes:
        slow: those of the slow path; its `classifier` is that of the network.
        fast: those of the fast path.
        lateral: the convolutions from the fast to the slow path after conv1 to conv4.
    """

    slow: ResNetNames
    fast: ResNetNames
    lateral: tuple[ConvNorm, ConvNorm, ConvNorm, ConvNorm]


@dataclasses.dataclass(frozen=True)
class AssumedOfSlowFast:
    """What the weights of a SlowFast do not say.

    Attributes:
        slow: of the slow path.
        fast: of the fast path.
        alphas: how many times as many frames the fast path sees, by the length of the lateral
            filters; no other length is known.
        slow_frames: see `SlowFastLayout`, as are the following.
        lateral_relu: likewise.
        window_side: likewise.
    """

    slow: Assumed
    fast: Assumed
    alphas: tuple[tuple[int, int], ...]
    slow_frames: Literal["every", "spread"]
    lateral_relu: bool
    window_side: int = 0


def read_slowfast(
    weights: SourceWeights, names: SlowFastNames, assumed: AssumedOfSlowFast
) -> Found:
    """Read a SlowFast.

    Args:
        weights: of the other project.
        names: in it.
        assumed: of such networks.

    Raises:
        MismatchError: these are not the weights of such a network.
    """
    laterals = [weights.kernel_shape(each.conv) for each in names.lateral]
    lengths = {shape[2] for shape in laterals}
    alphas = dict(assumed.alphas)
    if len(lengths) > 1 or not lengths <= set(alphas):
        raise MismatchError(
            f"convolutions from the fast to the slow path have lengths {sorted(lengths)}; "
            f"{' or '.join(map(str, alphas))} is known"
        )
    length = lengths.pop()
    c1, c2, c3, c4 = (shape[0] for shape in laterals)
    layout = SlowFastLayout(
        slow=read_layout(weights, names.slow, assumed.slow),
        fast=read_layout(weights, names.fast, assumed.fast),
        alpha=alphas[length],
        slow_frames=assumed.slow_frames,
        lateral=(c1, c2, c3, c4),
        lateral_length=length,
        lateral_relu=assumed.lateral_relu,
        window_side=assumed.window_side,
    )
    tensors: Tensors = {}
    for ours, theirs in pairs_of_slowfast(weights, names, layout).items():
        tensors |= filter_weights(weights, ours, theirs, eps=layout.slow.eps)
    tensors |= classifier_weights(weights, names.slow.classifier)
    return Found.of("slowfast", layout, tensors)


def pairs_of_slowfast(
    weights: Container[str], names: SlowFastNames, layout: SlowFastLayout
) -> Mapping[str, ConvNorm]:
    """Our filters with the names of what they take.

    Args:
        weights: names of those of the other project, which say where shortcuts are.
        names: in it.
        layout: of the network.
    """
    pairs = {f"conv{number}.lateral.0": each for number, each in enumerate(names.lateral, start=1)}
    paths = (("slow", names.slow, layout.slow), ("fast", names.fast, layout.fast))
    for path, theirs, own in paths:
        for ours, found in filter_pairs(weights, theirs, own).items():
            stage, _, rest = ours.partition(".")
            # The stem of a path is Sequential(convolution, ReLU, pool).
            place = rest if stage != "conv1" else f"0.{rest}".rstrip(".")
            pairs[f"{stage}.{path}.{place}"] = found
    return pairs


def _pytorchvideo(path: int) -> ResNetNames:
    stem = f"blocks.0.multipathway_blocks.{path}"
    return dataclasses.replace(
        PYTORCHVIDEO_NAMES,
        stem=(ConvNorm(f"{stem}.conv", f"{stem}.norm"),),
        block=f"blocks.{{stage}}.multipathway_blocks.{path}.res_blocks.{{index}}",
        classifier="blocks.6.proj",
    )


def _mmaction(path: str) -> ResNetNames:
    return dataclasses.replace(
        MMACTION_NAMES,
        stem=(ConvNorm(f"backbone.{path}.conv1.conv", f"backbone.{path}.conv1.bn"),),
        block=f"backbone.{path}.layer{{stage}}.{{index}}",
    )


_SLOW, _FAST = (Assumed(stem_lengths=(length,), temporal="first") for length in (1, 5))
_FUSIONS = tuple(f"blocks.{block}.multipathway_fusion" for block in range(4))
_F0, _F1, _F2, _F3 = (ConvNorm(f"{name}.conv_fast_to_slow", f"{name}.norm") for name in _FUSIONS)
_STEPS = ("conv1", "layer1", "layer2", "layer3")
_L0, _L1, _L2, _L3 = (ConvNorm(f"backbone.slow_path.{s}_lateral.conv", None) for s in _STEPS)
SLOWFASTS = (
    Family(
        name="pytorchvideo/slowfast",
        source="facebookresearch/pytorchvideo (Apache-2.0)",
        assumed="the slow path takes a quarter of the frames, evenly from the first to the last; "
        "stride 2 in space in conv3 to conv5, none in time; averages over 7 x 7 features; eps 1e-5",
        clip=clip_of(GREY, 32, 2),
        read=partial(
            read_slowfast,
            names=SlowFastNames(_pytorchvideo(0), _pytorchvideo(1), (_F0, _F1, _F2, _F3)),
            assumed=AssumedOfSlowFast(
                slow=_SLOW,
                fast=_FAST,
                alphas=((7, 4), (5, 4)),
                slow_frames="spread",
                lateral_relu=True,
                window_side=7,
            ),
        ),
    ),
    Family(
        name="mmaction2/slowfast",
        source="open-mmlab/mmaction2 (Apache-2.0)",
        assumed="the slow path takes every 8th frame where filters between the paths have length "
        "5, every 4th where they have 7; stride 2 in space in conv3 to conv5, none in time; eps "
        "1e-5",
        clip=clip_of(IMAGENET, 32, 2),
        read=partial(
            read_slowfast,
            names=SlowFastNames(
                _mmaction("slow_path"), _mmaction("fast_path"), (_L0, _L1, _L2, _L3)
            ),
            assumed=AssumedOfSlowFast(
                slow=_SLOW,
                fast=_FAST,
                alphas=((5, 8), (7, 4)),
                slow_frames="every",
                lateral_relu=False,
            ),
        ),
    ),
)
