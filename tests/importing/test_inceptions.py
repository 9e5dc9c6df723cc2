"""Inceptions of other projects, made narrow, with random norms."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stdeploy.artifacts.layouts import InceptionLayout
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.errors import ArtifactError
from stdeploy.importing.checkpoint import recognise
from stdeploy.importing.families import FAMILIES
from stdeploy.importing.inceptions import (
    AssumedOfInception,
    InceptionNames,
    pairs_of_inception,
)
from stdeploy.models.base import ActionModel
from stdeploy.models.i3d_inception import I3DInception
from stdeploy.models.registry import build
from tests.helpers.models import randomise_norms
from tests.helpers.source_weights import (
    check_fused_exported_counted,
    check_same_and_folded,
    under_their_names,
)

NAMES = ["piergiaj/i3d", "torchvision/s3d", "kylemin/s3d"]
# What each calls the same convolution, as its code spells it.
LITERAL = {
    "piergiaj/i3d": ("Mixed_4c.b2b.conv3d.weight", "Mixed_4c.b2b.bn.running_var"),
    "torchvision/s3d": ("features.9.branch2.1.1.0.weight", "features.9.branch2.1.1.1.running_var"),
    "kylemin/s3d": ("base.9.branch2.1.conv_t.weight", "base.9.branch2.1.bn_t.running_var"),
}


def keywords(name: str) -> tuple[InceptionNames, AssumedOfInception]:
    read = FAMILIES[name].read
    assert isinstance(read, partial)
    return read.keywords["names"], read.keywords["assumed"]


def network(name: str) -> ActionModel:
    names, assumed = keywords(name)
    mixed = (3, 4, 5, 2, 6, 3)
    layout = InceptionLayout(
        channels=(6, 5, 7),
        mixed=((mixed,) * 2, (mixed,) * 5, (mixed,) * 2),
        separable=names.parts is not None,
        padding=assumed.padding,
        window_side=assumed.window_side,
    )
    torch.manual_seed(2)
    spec = ModelSpec(
        architecture="inception3d",
        temporal_lengths=layout.temporal_lengths,
        branches="single",
        eta=1.0,
        num_classes=3,
        layout=layout,
    )
    model = build(spec)
    randomise_norms(model)
    return model


def weights_of(model: ActionModel, name: str) -> dict[str, Tensor]:
    names, _ = keywords(name)
    tensors = under_their_names(model, pairs_of_inception(names), names.classifier)
    kernel = tensors[f"{names.classifier}.weight"]
    return {**tensors, f"{names.classifier}.weight": kernel[:, :, None, None, None]}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_computes_the_same_and_folds(name: str) -> None:
    model = network(name)
    tensors = weights_of(model, name)
    assert set(LITERAL[name]) <= set(tensors)
    taken, found = recognise(tensors, source="a.pt")
    assert taken.name == name
    assert found.spec == model.spec
    ours = build(found.spec)
    ours.load_state_dict(found.tensors, strict=False)
    check_same_and_folded(model, ours.eval(), frames=16, side=64)


def test_separable_filters_are_two_with_a_norm_and_a_relu_each() -> None:
    layers = network("kylemin/s3d").get_submodule("conv2.2")
    assert [type(layer).__name__ for layer in layers.children()] == [
        "TemporalFilter",
        "ReLU",
        "TemporalFilter",
        "ReLU",
    ]


def test_the_default_layout_is_the_network_of_the_kinetics_weights() -> None:
    with torch.device("meta"):
        plain = I3DInception(ModelSpec(architecture="i3d-inception", num_classes=3))
        layout = InceptionLayout(lengths=plain.spec.temporal_lengths)
        other = I3DInception(plain.spec, layout)
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in other.state_dict().items()}


def test_a_head_that_slides_counts_inner_features_more_often() -> None:
    model = network("torchvision/s3d")
    features = torch.randn(1, model.head.classifier.in_features, 1, 8, 8)
    pooled = nn.AvgPool3d((1, 7, 7), stride=1)(features).mean(dim=(2, 3, 4))
    torch.testing.assert_close(model.head(features), model.head.classifier(pooled))


def test_a_network_of_optical_flow_is_refused() -> None:
    tensors = weights_of(network("piergiaj/i3d"), "piergiaj/i3d")
    tensors["Conv3d_1a_7x7.conv3d.weight"] = torch.zeros(6, 2, 7, 7, 7)
    with pytest.raises(ArtifactError, match=r"takes 2 channels, not 3 colours$"):
        recognise(tensors, source="flow.pt", family="piergiaj/i3d")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"extra.weight": torch.zeros(2)}, r"1 tensors would be left over: extra\.weight$"),
        (
            {"Mixed_4c.b0.conv3d.weight": torch.zeros(3, 20, 1, 1, 1)},
            r"conv4\.2\.point\.0\.branches\.0\.coefficients would have shape \(3, 20, 1, 1, 1\), "
            r"not \(3, 17, 1, 1, 1\)$",
        ),
        ({"Mixed_4c.b2b.conv3d.weight": torch.zeros(6, 2, 5, 3, 3)}, "differ in length"),
        ({"Mixed_4c.b2b.conv3d.weight": torch.zeros(6, 2, 2, 3, 3)}, "extends over 2 frames$"),
        ({"Mixed_4c.b1a.conv3d.weight": torch.zeros(4, 17, 3, 3, 3)}, r"not 1x1x1$"),
        ({"Mixed_4c.b2b.conv3d.weight": torch.zeros(6, 2)}, "which is no 3D convolution$"),
        ({"logits.conv3d.weight": torch.zeros(3, 17, 2, 1, 1)}, r"\(K, C\) is wanted$"),
    ],
)
def test_other_weights_are_refused(change: dict[str, Tensor], error: str) -> None:
    tensors = weights_of(network("piergiaj/i3d"), "piergiaj/i3d") | change
    with pytest.raises(ArtifactError, match=error):
        recognise(tensors, source="a.pt", family="piergiaj/i3d")
    with pytest.raises(ArtifactError, match="of no network that is known"):
        recognise(tensors, source="a.pt")


def test_missing_weights_are_refused() -> None:
    tensors = weights_of(network("torchvision/s3d"), "torchvision/s3d")
    del tensors["features.9.branch2.1.1.1.running_var"]
    with pytest.raises(ArtifactError, match=r"features\.9\.branch2\.1\.1\.1\.running_var is miss"):
        recognise(tensors, source="a.pt", family="torchvision/s3d")


def test_fusing_exporting_and_counting(tmp_path: Path) -> None:
    """With a head that slides over 2 x 2 features, as the real one does over 8 x 8."""
    model = network("torchvision/s3d")
    layout = model.spec.layout
    assert isinstance(layout, InceptionLayout)
    spec = model.spec.model_copy(
        update={"layout": layout.model_copy(update={"window": 1, "window_side": 1})}
    )
    other = build(spec)
    other.load_state_dict(model.state_dict())
    other.eval()
    clip = ClipSpec(num_frames=16, frame_stride=1, fps=10.0, short_side_px=64, crop_px=64)
    check_fused_exported_counted(other, clip, tmp_path)
