"""X3Ds of other projects, made narrow, with random norms."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stdeploy.analysis.receptive_field import theoretical_extents
from stdeploy.artifacts.layouts import X3DLayout, X3DStageLayout
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.importing import x3d
from stdeploy.importing.checkpoint import recognise
from stdeploy.models.base import ActionModel, sliding_average
from stdeploy.models.registry import build
from stdeploy.models.x3d import SqueezeExcitation
from tests.helpers.source_weights import (
    check_fused_exported_counted,
    check_refused_by_dense_timelines,
    check_same_and_folded,
    under_their_names,
    without_norms,
)

PROJECTS = {"pytorchvideo": x3d._PYTORCHVIDEO, "mmaction2": x3d._MMACTION}
CLIP = ClipSpec(num_frames=4, frame_stride=2, fps=10.0, short_side_px=40, crop_px=32)


def network(project: str, depths: tuple[int, ...] = (3, 5, 11, 7)) -> ActionModel:
    """Squeeze-excitation stands in every second block."""
    one, two, three, four = (
        X3DStageLayout(
            channels=4 if number < 2 else 6,
            inner=5 + number,
            excitations=tuple((2 if index % 2 == 0 else 0) for index in range(depth)),
        )
        for number, depth in enumerate(depths)
    )
    layout = X3DLayout(
        channels=4, stages=(one, two, three, four), projected=9, features=10, window=(13, 5)
    )
    torch.manual_seed(2)
    spec = ModelSpec(
        architecture="x3d",
        temporal_lengths=layout.temporal_lengths,
        branches="single",
        eta=1.0,
        num_classes=3,
        layout=layout,
    )
    model = build(spec)
    without_norms(model, pairs(model, project), layout.eps)
    return model


def pairs(model: ActionModel, project: str) -> dict[str, x3d.ConvNorm]:
    """With the shortcuts that the network has; where channels stay, pytorchvideo has no norm."""
    names, layout = PROJECTS[project], layout_of(model)
    present = {f"{names.shortcut.conv}.weight", f"{names.shortcut.norm}.weight"}
    weights = set()
    before = layout.channels
    for number, stage in enumerate(layout.stages, start=1):
        block = names.block.format(stage=number, index=0)
        bare = project == "pytorchvideo" and stage.channels == before
        weights |= {each.format(block=block) for each in present if not (bare and "norm" in each)}
        before = stage.channels
    return dict(x3d.pairs_of_x3d(weights, names, layout))


def layout_of(model: ActionModel) -> X3DLayout:
    assert isinstance(model.spec.layout, X3DLayout)
    return model.spec.layout


def weights_of(model: ActionModel, project: str) -> dict[str, Tensor]:
    names = PROJECTS[project]
    plain = x3d.excitations_of_x3d(names, layout_of(model))
    tensors = under_their_names(model, pairs(model, project), names.classifier, plain)
    if project == "mmaction2":  # a linear layer there
        expand = f"{names.expand.conv}.weight"
        tensors[expand] = tensors[expand].flatten(1)
    return tensors


@pytest.mark.parametrize(
    ("project", "family", "literal"),
    [
        ("pytorchvideo", "pytorchvideo/x3d-s", "blocks.4.res_blocks.2.branch2.norm_b.1.block.2"),
        ("mmaction2", "mmaction2/x3d", "backbone.layer4.2.se_module.fc2"),
    ],
)
def test_what_is_read_computes_the_same_and_folds(project: str, family: str, literal: str) -> None:
    model = network(project)
    tensors = weights_of(model, project)
    assert f"{literal}.bias" in tensors
    assert ("blocks.1.res_blocks.0.branch1_norm.weight" in tensors) is False
    taken, found = recognise(tensors, source="a.pyth", family=family)
    assert taken.name == family
    ours = build(found.spec)
    ours.load_state_dict(found.tensors, strict=False)
    check_same_and_folded(model, ours.eval(), frames=4, side=64)


def test_sizes_with_the_same_weights_have_to_be_told() -> None:
    tensors = weights_of(network("pytorchvideo"), "pytorchvideo")
    with pytest.raises(SpecError, match=r"--as pytorchvideo/x3d-xs or .*x3d-s or .*x3d-m$"):
        recognise(tensors, source="a.pyth")
    deep = weights_of(network("pytorchvideo", (5, 10, 25, 15)), "pytorchvideo")
    assert recognise(deep, source="a.pyth")[0].name == "pytorchvideo/x3d-l"
    with pytest.raises(ArtifactError, match=r"conv2 to conv5 have \(5, 10, 25, 15\) blocks"):
        recognise(deep, source="a.pyth", family="pytorchvideo/x3d-m")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"extra.weight": torch.zeros(2)}, r"1 tensors would be left over: extra\.weight$"),
        ({"backbone.conv1_s.conv.weight": torch.zeros(4, 3, 3, 3, 3)}, r"not \(C, 3, 1, 3, 3\)$"),
        ({"backbone.conv1_t.conv.weight": torch.zeros(4, 4, 5, 1, 1)}, r"not \(C, 1, t, 1, 1\)$"),
        (
            {"backbone.layer2.1.conv2.conv.weight": torch.zeros(6, 6, 3, 3, 3)},
            "is no depthwise t x 3 x 3 convolution$",
        ),
        (
            {"backbone.layer2.1.conv2.conv.weight": torch.zeros(6, 1, 5, 3, 3)},
            r"have lengths \[3, 5\]$",
        ),
        ({"cls_head.fc1.weight": torch.tensor(1.0)}, "fc1.weight is a single number$"),
        (
            {"backbone.conv5.conv.bias": torch.zeros(8)},
            r"conv5\.conv\.bias has shape \(8,\), not \(9,\)$",
        ),
        (
            {"backbone.conv5.conv.weight": torch.zeros(9, 6, 1, 1, 1, dtype=torch.int8)},
            r"is torch.int8 \(9, 6, 1, 1, 1\); floating-point numbers are wanted$",
        ),
        (
            {"backbone.layer2.0.conv1.conv.weight": torch.zeros(6, 4, 0, 1, 1)},
            r"is torch.float32 \(6, 4, 0, 1, 1\); floating-point numbers are wanted$",
        ),
        (
            {"cls_head.fc1.weight": torch.zeros(10, 8)},
            r"\(10, 8, 1, 1, 1\), not \(10, 9, 1, 1, 1\)",
        ),
    ],
)
def test_other_weights_are_refused(change: dict[str, Tensor], error: str) -> None:
    tensors = weights_of(network("mmaction2"), "mmaction2") | change
    with pytest.raises(ArtifactError, match=error):
        recognise(tensors, source="a.pth", family="mmaction2/x3d")


def test_squeeze_excitation_weighs_channels_by_their_averages() -> None:
    layer = SqueezeExcitation(2, 1).eval()
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 0.5)
    x = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 2, 2, 2)
    weight = torch.sigmoid(torch.tensor(0.5 * (0.5 * (1 + 3) + 0.5) + 0.5))
    torch.testing.assert_close(layer(x), x * weight)


def test_windows_slide_by_one_and_never_exceed_the_features() -> None:
    x = torch.randn(1, 2, 3, 6, 6)
    found = sliding_average(x, (13, 5, 5))
    assert found.shape == (1, 2, 1, 2, 2)
    torch.testing.assert_close(found[0, 0, 0, 1, 0], x[0, 0, :, 1:6, 0:5].mean())
    torch.testing.assert_close(sliding_average(x, (0, 0, 0))[0, 0, 0, 0, 0], x[0, 0].mean())


def test_another_layout_is_refused() -> None:
    layout = layout_of(network("mmaction2", (1, 1, 1, 1)))
    fields = {"num_classes": 2, "temporal_lengths": layout.temporal_lengths, "layout": layout}
    for architecture in ("resnet3d", "inception3d", "slowfast"):
        spec = ModelSpec(architecture=architecture, **fields)
        with pytest.raises(SpecError, match=r"needs a layout of its kind, not one of kind 'x3d'$"):
            build(spec)


def test_features_without_a_place_have_no_receptive_field() -> None:
    with pytest.raises(SpecError, match=r"none of them has a receptive field$"):
        theoretical_extents(network("mmaction2", (1, 1, 1, 1)).spec)


def test_fusing_exporting_counting_and_what_a_dense_timeline_says(tmp_path: Path) -> None:
    path = check_fused_exported_counted(network("pytorchvideo", (1, 2, 1, 1)), CLIP, tmp_path)
    check_refused_by_dense_timelines(path, "averages over all frames ")
