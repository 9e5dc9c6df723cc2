"""SlowFasts of other projects, made narrow, with random norms."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stdeploy.artifacts.layouts import ResNetLayout, SlowFastLayout, StageLayout, StemLayout
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.importing.checkpoint import recognise
from stdeploy.importing.families import FAMILIES
from stdeploy.importing.slowfast import AssumedOfSlowFast, SlowFastNames, pairs_of_slowfast
from stdeploy.importing.source_weights import ConvNorm
from stdeploy.models.base import ActionModel
from stdeploy.models.registry import build
from stdeploy.models.slowfast import spread_frames
from tests.helpers.source_weights import (
    check_fused_exported_counted,
    check_refused_by_dense_timelines,
    check_same_and_folded,
    noise,
    under_their_names,
    without_norms,
)

NAMES = ["pytorchvideo/slowfast", "mmaction2/slowfast"]
LITERAL = {
    "pytorchvideo/slowfast": "blocks.2.multipathway_fusion.conv_fast_to_slow.weight",
    "mmaction2/slowfast": "backbone.slow_path.layer2_lateral.conv.weight",
}
CLIP = ClipSpec(num_frames=8, frame_stride=2, fps=10.0, short_side_px=40, crop_px=32)


def keywords(name: str) -> tuple[SlowFastNames, AssumedOfSlowFast]:
    read = FAMILIES[name].read
    assert isinstance(read, partial)
    return read.keywords["names"], read.keywords["assumed"]


def path(channels: int, stem: int, lengths: tuple[int, ...], side: int) -> ResNetLayout:
    one, two, three, four = (
        StageLayout(
            channels=channels * 2**number, lengths=(length,), stride=(1, 1 if number == 0 else 2)
        )
        for number, length in enumerate(lengths)
    )
    return ResNetLayout(
        block="bottleneck",
        stem=StemLayout(channels=channels, kernel=(stem, 7, 7)),
        stages=(one, two, three, four),
        temporal="first",
        window_side=side,
    )


def network(name: str, *, lateral_length: int = 7, alpha: int = 4) -> ActionModel:
    _, assumed = keywords(name)
    layout = SlowFastLayout(
        slow=path(4, 1, (1, 1, 3, 3), assumed.slow.window_side),
        fast=path(2, 5, (3, 3, 3, 3), assumed.fast.window_side),
        alpha=alpha,
        slow_frames=assumed.slow_frames,
        lateral=(3, 5, 6, 7),
        lateral_length=lateral_length,
        lateral_relu=assumed.lateral_relu,
        window_side=assumed.window_side,
    )
    torch.manual_seed(2)
    spec = ModelSpec(
        architecture="slowfast",
        temporal_lengths=layout.temporal_lengths,
        branches="single",
        eta=1.0,
        num_classes=3,
        layout=layout,
    )
    model = build(spec)
    without_norms(model, pairs(model, name), layout.slow.eps)
    return model


def pairs(model: ActionModel, name: str) -> dict[str, ConvNorm]:
    """With a shortcut in the first block of every stage."""
    names, _ = keywords(name)
    weights = set()
    for each in (names.slow, names.fast):
        for stage in each.stages:
            block = each.block.format(stage=stage, index=0)
            weights.add(f"{each.shortcut[0].conv.format(block=block)}.weight")
    assert isinstance(model.spec.layout, SlowFastLayout)
    return dict(pairs_of_slowfast(weights, names, model.spec.layout))


def weights_of(model: ActionModel, name: str) -> dict[str, Tensor]:
    names, _ = keywords(name)
    return under_their_names(model, pairs(model, name), names.slow.classifier)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_computes_the_same_and_folds(name: str) -> None:
    model = network(name)
    tensors = weights_of(model, name)
    assert LITERAL[name] in tensors
    taken, found = recognise(tensors, source="a.pyth")
    assert taken.name == name
    assert found.spec == model.spec
    ours = build(found.spec)
    ours.load_state_dict(found.tensors, strict=False)
    check_same_and_folded(model, ours.eval(), frames=16, side=64)


def test_lateral_filters_of_mmaction2_say_how_many_frames_the_slow_path_sees() -> None:
    name = "mmaction2/slowfast"
    for length, alpha in ((5, 8), (7, 4)):
        model = network(name, lateral_length=length, alpha=alpha)
        assert recognise(weights_of(model, name), source="a.pth")[1].spec == model.spec
    model = network(name, lateral_length=3)
    with pytest.raises(ArtifactError, match=r"have lengths \[3\]; 5 or 7 is known$"):
        recognise(weights_of(model, name), source="a.pth", family=name)


@pytest.mark.parametrize("count", [1, 4, 8, 16, 63, 64])
@pytest.mark.parametrize("alpha", [2, 4, 8])
def test_spread_frames_are_those_that_torch_chooses(count: int, alpha: int) -> None:
    frames = count * alpha
    expected = torch.linspace(0, frames - 1, count).long().tolist()
    assert list(spread_frames(frames, count)) == expected


def test_the_slow_path_sees_its_frames_alone() -> None:
    model = network("mmaction2/slowfast").double()
    seen = []
    model.get_submodule("conv1.slow").register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0])
    )
    x = noise(model, 16, 32)
    with torch.inference_mode():
        model(x)
    assert torch.equal(seen[0], x[:, :, [0, 4, 8, 12]])


def test_frames_that_are_no_multiple_are_refused() -> None:
    model = network("pytorchvideo/slowfast")
    with pytest.raises(SpecError, match=r"one of 4 frames, and a clip has 10; a multiple of 4"):
        model(noise(model, 10, 32))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"extra.weight": torch.zeros(2)}, r"1 tensors would be left over: extra\.weight$"),
        (
            {"blocks.1.multipathway_fusion.conv_fast_to_slow.weight": torch.zeros(6, 8, 7, 1, 1)},
            r"would have shape \(6, 8, 7, 1, 1\)|would have shape \(5,\), not \(6,\)",
        ),
        (
            {"blocks.0.multipathway_blocks.1.conv.weight": torch.zeros(2, 3, 1, 7, 7)},
            "the first filter has temporal length 1$",
        ),
        (
            {"blocks.2.multipathway_blocks.0.res_blocks.0.branch2.conv_a.weight": torch.zeros(2)},
            "which is no 3D convolution$",
        ),
    ],
)
def test_other_weights_are_refused(change: dict[str, Tensor], error: str) -> None:
    name = "pytorchvideo/slowfast"
    tensors = weights_of(network(name), name) | change
    with pytest.raises(ArtifactError, match=error):
        recognise(tensors, source="a.pyth", family=name)
    with pytest.raises(ArtifactError, match="of no network that is known"):
        recognise(tensors, source="a.pyth")


def test_fusing_exporting_counting_and_what_a_dense_timeline_says(tmp_path: Path) -> None:
    path = check_fused_exported_counted(network("pytorchvideo/slowfast"), CLIP, tmp_path)
    check_refused_by_dense_timelines(path, "strides in time, ")
