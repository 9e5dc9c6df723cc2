import pytest
import torch

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.errors import SpecError
from stdeploy.models.i3d_inception import same_padding
from stdeploy.models.registry import ARCHITECTURES, build
from tests.helpers.models import tiny_model


@pytest.mark.parametrize(
    ("architecture", "features"),
    [
        ("i3d-resnet18", (2, 64, 8, 2, 2)),
        ("i3d-resnet50", (2, 256, 8, 2, 2)),
        ("s3d-resnet50", (2, 256, 8, 2, 2)),
        ("i3d-inception", (2, 128, 1, 2, 2)),
    ],
)
def test_features_and_head_make_the_logits(architecture: str, features: tuple[int, ...]) -> None:
    model = tiny_model(architecture, num_classes=7)
    x = torch.randn(2, 3, 8, 64, 64)
    with torch.inference_mode():
        found = model.forward_features(x)
        assert tuple(found.shape) == features
        assert torch.equal(model.head(found), model(x))
        assert tuple(model(x).shape) == (2, 7)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_stages_have_the_temporal_lengths_of_the_spec(architecture: str) -> None:
    lengths = (1, 3, 5, 7, 9)
    model = tiny_model(architecture, temporal_lengths=lengths, branches="single", fused=True)
    for stage, length in enumerate(lengths, start=1):
        weights = model.get_submodule(f"conv{stage}").state_dict()
        found = {w.shape[2] for name, w in weights.items() if name.endswith("weight")}
        assert found - {1} == {length} - {1}


def test_a_network_of_length_one_does_not_know_the_order_of_frames() -> None:
    model = tiny_model(temporal_lengths=(1, 1, 1, 1, 1))
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), model(x.flip(2)))


def test_a_network_with_temporal_filters_does() -> None:
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5))
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        assert not torch.allclose(model(x), model(x.flip(2)), rtol=1e-2, atol=1e-2)


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(SpecError, match="'i3d-resnet19' is not known; choose one of i3d-resnet18"):
        build(ModelSpec(architecture="i3d-resnet19", num_classes=3))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [  # as TensorFlow pads with "SAME"
        (224, 7, 2, (2, 3)),
        (64, 1, 2, (0, 0)),
        (64, 5, 2, (1, 2)),
        (112, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (8, 2, 2, (0, 0)),
        (7, 2, 2, (0, 1)),
        (28, 3, 1, (1, 1)),
    ],
)
def test_same_padding(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


def test_kinetics_head_counts_inner_frames_twice() -> None:
    head = tiny_model("i3d-inception", num_classes=3).head
    features = torch.randn(1, head.classifier.in_features, 4, 1, 1)
    weights = torch.tensor([1, 2, 2, 1]) / 6
    pooled = (features[..., 0, 0] * weights).sum(dim=2)
    with torch.inference_mode():
        torch.testing.assert_close(head(features), head.classifier(pooled))
