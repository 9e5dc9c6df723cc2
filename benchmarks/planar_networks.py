"""The networks whose planar form is compared: fused, of random weights and norms."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.layouts import (
    InceptionLayout,
    Layout,
    ResNetLayout,
    SlowFastLayout,
    StageLayout,
    StemLayout,
    X3DLayout,
    X3DStageLayout,
)
from stdeploy.artifacts.spec import ClipSpec, Form, ModelSpec, Precision, TemporalLengths
from stdeploy.export.onnx import save_graph, to_onnx
from stdeploy.export.quantise import Quantiser
from stdeploy.fusion import fuse_model
from stdeploy.models.base import ActionModel
from stdeploy.models.frames_to_logits import golden_of
from stdeploy.models.planar import planar_form
from stdeploy.models.registry import build

OURS = ("i3d-resnet18", "i3d-resnet50", "s3d-resnet50", "i3d-inception")
CLASSES = 51


def _stages(
    channels: tuple[int, int, int, int],
    length: int,
    *,
    time_stride: int = 1,
    separable: bool = False,
) -> tuple[StageLayout, StageLayout, StageLayout, StageLayout]:
    """Two blocks a stage; conv3 to conv5 have stride 2 in space, and `time_stride` in time."""
    first, second, third, fourth = (
        StageLayout(
            channels=count,
            lengths=(length, length),
            stride=(time_stride if number else 1, 2 if number else 1),
            middles=((count, count), (count, count)) if separable else (),
        )
        for number, count in enumerate(channels)
    )
    return first, second, third, fourth


def _resnet(*, separable: bool) -> ResNetLayout:
    """R3D-18 or R(2+1)D-18, with an eighth of the channels."""
    return ResNetLayout(
        block="basic",
        stem=StemLayout(channels=8, middle=6 if separable else None, pool_kernel=None),
        stages=_stages((8, 16, 32, 64), 3, time_stride=2, separable=separable),
        convolution="space-time" if separable else "joint",
    )


def _path(channels: int, stem_length: int, lengths: tuple[int, int, int, int]) -> ResNetLayout:
    """A path of SlowFast: bottlenecks that extend in time in their first convolution."""
    stages = [
        StageLayout(
            channels=channels << number, lengths=(length, length), stride=(1, 2 if number else 1)
        )
        for number, length in enumerate(lengths)
    ]
    return ResNetLayout(
        block="bottleneck",
        stem=StemLayout(channels=channels, kernel=(stem_length, 7, 7)),
        stages=(stages[0], stages[1], stages[2], stages[3]),
        temporal="first",
    )


def _x3d_stage(channels: int) -> X3DStageLayout:
    return X3DStageLayout(channels=channels, inner=2 * channels, excitations=(8, 0))


def _slowfast() -> SlowFastLayout:
    return SlowFastLayout(
        slow=_path(16, 1, (1, 1, 3, 3)),
        fast=_path(4, 5, (3, 3, 3, 3)),
        alpha=4,
        slow_frames="every",
        lateral=(8, 16, 32, 64),
        lateral_length=7,
        lateral_relu=True,
    )


def _x3d() -> X3DLayout:
    return X3DLayout(
        channels=8,
        stages=(_x3d_stage(8), _x3d_stage(16), _x3d_stage(24), _x3d_stage(32)),
        projected=64,
        features=128,
    )


def _s3d() -> InceptionLayout:
    """S3D with one module a stage: what it lacks in depth and width is not of another kind."""
    mixed = ((16, 12, 16, 4, 8, 8),)
    return InceptionLayout(
        channels=(8, 8, 24), mixed=(mixed, mixed, mixed), separable=True, padding="centred"
    )


# Networks of other projects in the layouts that are imported, made narrow: name -> architecture
# and layout. R3D-18, R(2+1)D-18, S3D and SlowFast have strides in time.
_OF_A_LAYOUT: Mapping[str, Callable[[], tuple[str, Layout]]] = {
    "r3d-18": lambda: ("resnet3d", _resnet(separable=False)),
    "r2plus1d-18": lambda: ("resnet3d", _resnet(separable=True)),
    "s3d": lambda: ("inception3d", _s3d()),
    "x3d": lambda: ("x3d", _x3d()),
    "slowfast": lambda: ("slowfast", _slowfast()),
}
OF_OTHERS = tuple(_OF_A_LAYOUT)


def spec_of(name: str, lengths: TemporalLengths, *, width: float = 1.0) -> ModelSpec:
    """The network of a name in OURS, of "plain", or in OF_OTHERS, which has lengths of its own."""
    fields: dict[str, object] = {"num_classes": CLASSES, "branches": "single", "eta": 1.0}
    if name in _OF_A_LAYOUT:
        architecture, layout = _OF_A_LAYOUT[name]()
        lengths, width = layout.temporal_lengths, 1.0
        fields["layout"] = layout
    else:
        architecture = name
    fields |= {"architecture": architecture, "temporal_lengths": lengths, "width": width}
    return ModelSpec.parse(fields)


def fused_network(spec: ModelSpec, *, seed: int = 0) -> ActionModel:
    """A fused network in float64, of random weights and norms."""
    torch.manual_seed(seed)
    model = build(spec)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return fuse_model(model.eval())


def card_of(model: ActionModel, clip: ClipSpec) -> ModelCard:
    """A card of a fused network in float32."""
    labels = tuple(f"class {number}" for number in range(CLASSES))
    return ModelCard(model=model.spec, clip=clip, labels=labels, golden=golden_of(model, clip))


def written(
    path: Path,
    model: ActionModel,
    card: ModelCard,
    *,
    precision: Precision,
    form: Form,
    clips: NDArray[np.uint8],
) -> ModelCard:
    """Write the graph that `export_onnx` makes of a network before its gate; its card.

    Of random weights a gate would judge nothing, and int8 would look long for layers to leave out:
    here all are quantised.

    Args:
        path: of the .onnx file.
        model: fused, in float32; it is not changed.
        card: of it.
        precision: of the file.
        form: of the file.
        clips: uint8 (N, T, H, W, 3), which int8 takes its ranges from.
    """
    network = copy.deepcopy(model)
    if form == "planar":
        network = planar_form(network, card.clip.num_frames)
    card = card.model_copy(update={"precision": precision, "form": form})
    graph = to_onnx(network, card)
    if precision == "int8":
        quantiser = Quantiser(graph, clips)
        graph = quantiser.quantise(tuple(quantiser.layers))
    save_graph(graph, card, path)
    return card
