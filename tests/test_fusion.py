import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.golden import GOLDEN_SEED, golden_clip
from stdeploy.artifacts.parity import FUSION_TOLERANCE
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.errors import ArtifactError, FusionError, ParityError
from stdeploy.fusion import filters_of, fuse_checkpoint, fuse_model, rounding, verify
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model, save_checkpoint, save_fused
from stdeploy.models.frames_to_logits import FrameNormalisation, logits_and_magnitude, logits_of
from stdeploy.models.registry import ARCHITECTURES, build
from tests.helpers.models import TINY_CLIP, cancelling_model, card_of, randomise_norms, tiny_model


def relative_error(expected: torch.Tensor, actual: torch.Tensor) -> float:
    return float((expected - actual).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("architecture", "length", "eta"),
    list(itertools.product(ARCHITECTURES, (1, 3, 5), (1.0, 2.0, math.inf))),
)
def test_fused_network_gives_the_same_logits(architecture: str, length: int, eta: float) -> None:
    check_fusing(
        ModelSpec(
            architecture=architecture,
            temporal_lengths=(length,) * 5,
            eta=eta,
            num_classes=20,
            width=0.5,
        )
    )


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_fused_network_gives_the_same_logits_at_full_width(architecture: str) -> None:
    check_fusing(ModelSpec(architecture=architecture, num_classes=87))


def check_fusing(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    model = randomise_norms(build(spec))
    fused = fuse_model(model)
    x = torch.randn(1, 3, 8, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(x)
        double = relative_error(model.double()(x.double()), fused(x.double()))
        single = relative_error(expected, fused.float()(x))
    assert double <= 1e-10
    assert single <= 1e-5


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("branches", ["single", "multi"])
def test_fused_network_is_the_single_filter_network_with_biases(
    architecture: str, branches: str
) -> None:
    lengths = (3, 1, 3, 5, 5)
    model = tiny_model(architecture, temporal_lengths=lengths, branches=branches)
    fused = fuse_model(model)
    single = tiny_model(architecture, temporal_lengths=lengths, branches="single")
    kernels = sum(layer.branches[0].coefficients.numel() for _, layer in filters_of(single))
    biases = sum(layer.branches[0].norm.num_features for _, layer in filters_of(single))
    classifier = sum(parameter.numel() for parameter in single.head.parameters())
    assert not any(isinstance(m, nn.BatchNorm3d | TemporalFilter) for m in fused.modules())
    assert sum(p.numel() for p in fused.parameters()) == kernels + biases + classifier
    # The same keys and shapes as a network that is built fused from its spec.
    expected = build(single.spec.model_copy(update={"fused": True})).state_dict()
    assert {k: v.shape for k, v in fused.state_dict().items()} == {
        k: v.shape for k, v in expected.items()
    }


def test_fusing_leaves_the_original_alone() -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fuse_model(model)
    assert model.spec.fused is False
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_fusing_in_training_mode_is_refused() -> None:
    with pytest.raises(FusionError, match=r"training mode.*model\.eval\(\)"):
        fuse_model(tiny_model().train())


@pytest.mark.parametrize("damage", ["kernel", "bias"])
def test_verification_sees_one_damaged_number(damage: str) -> None:
    model = tiny_model("s3d-resnet50", temporal_lengths=(1, 1, 3, 3, 5))
    fused = fuse_model(model)
    layer = fused.get_submodule("conv4.2.conv2.2")
    assert isinstance(layer, nn.Conv3d)
    with torch.no_grad():
        (layer.weight if damage == "kernel" else layer.bias).view(-1)[0] += 1e-3
    failed = {
        (r.check, r.precision) for r in verify(model, fused, TINY_CLIP, seed=1) if not r.passed
    }
    assert ("conv4.2.conv2.2", "fp64") in failed
    assert ("conv4.2.conv2.2", "fp32") in failed
    assert ("network, golden clip", "fp64") in failed


def test_logits_near_zero_do_not_make_rounding_an_error() -> None:
    model = cancelling_model()
    frames = golden_clip(GOLDEN_SEED, TINY_CLIP.frames_shape)[None]
    expected, magnitude = logits_and_magnitude(model, TINY_CLIP, frames)
    actual = logits_of(fuse_model(model).float(), TINY_CLIP, frames)
    assert abs(expected - actual).max() / abs(expected).max() > 1e-5, "the logits cancel too little"
    assert magnitude > 1000 * abs(expected).max()
    assert all(row.passed for row in verify(model, fuse_model(model), TINY_CLIP, seed=GOLDEN_SEED))


def test_a_wrong_fold_is_seen_where_logits_cancel() -> None:
    model = cancelling_model()
    fused = fuse_model(model)
    layer = fused.get_submodule("conv4.0.conv1")
    assert isinstance(layer, nn.Conv3d)
    with torch.no_grad():
        layer.bias.zero_()
    failed = {
        (r.check, r.precision)
        for r in verify(model, fused, TINY_CLIP, seed=GOLDEN_SEED)
        if not r.passed
    }
    assert {("network, golden clip", "fp64"), ("network, golden clip", "fp32")} <= failed


def test_magnitude_is_the_sum_of_the_terms_of_the_classifier() -> None:
    model = tiny_model(num_classes=3)
    frames = golden_clip(3, TINY_CLIP.frames_shape)[None].repeat(2, axis=0)
    logits, magnitude = logits_and_magnitude(model, TINY_CLIP, frames)
    assert (logits == logits_of(model, TINY_CLIP, frames)).all()
    with torch.inference_mode():
        x = FrameNormalisation(TINY_CLIP)(torch.from_numpy(frames))
        features = model.forward_features(x).mean(dim=(2, 3, 4))[0]
        classifier = model.head.classifier
        by_class = [
            float(sum(abs(w * f) for w, f in zip(row, features, strict=True)) + abs(b))
            for row, b in zip(classifier.weight, classifier.bias, strict=True)
        ]
    assert magnitude == pytest.approx(max(by_class), rel=1e-5)


def test_fuse_checkpoint_writes_weights_card_and_parity(tmp_path: Path) -> None:
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5))
    card = card_of(model)
    save_checkpoint(tmp_path / "ckpt.pt", model, card)
    result = fuse_checkpoint(tmp_path / "ckpt.pt")
    assert result.path == tmp_path / "ckpt.fused.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt.fused.safetensors", "ckpt.pt"]
    written = read_card(result.path)
    assert written == result.card
    assert written.model.fused
    assert written.golden == card.golden
    assert written.lineage.parent == "ckpt.pt"
    checks = {row.check for row in written.parity}
    assert {name for name, _ in filters_of(model)} <= checks
    assert {"network, noise", "network, golden clip"} <= checks
    fused, _ = load_model(result.path)
    x = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        assert relative_error(model(x), fused(x)) <= 1e-5


def test_fuse_checkpoint_writes_nothing_where_the_outputs_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    save_checkpoint(tmp_path / "ckpt.pt", model, card_of(model))
    fold = TemporalFilter.fold

    def forgetful(self: TemporalFilter) -> nn.Conv3d:
        conv = fold(self)
        nn.init.zeros_(conv.bias)
        return conv

    monkeypatch.setattr(TemporalFilter, "fold", forgetful)
    with pytest.raises(ParityError, match="nothing was written"):
        fuse_checkpoint(tmp_path / "ckpt.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt.pt"]


def model_with_means_far_from_0(deviations: float) -> ActionModel:
    """Norms of one layer subtract a mean that their bias brings back: numbers that cancel."""
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5), branches="multi")
    layer = dict(filters_of(model))["conv3.0.conv2"]
    with torch.no_grad():
        for branch in layer.typed_branches():
            norm = branch.norm
            deviation = (norm.running_var + norm.eps).sqrt()
            norm.running_mean += deviations * deviation
            norm.bias += deviations * norm.weight
    return model


def test_refusing_says_that_the_rounding_is_the_originals_own(tmp_path: Path) -> None:
    model = model_with_means_far_from_0(5e3)
    save_checkpoint(tmp_path / "ckpt.pt", model, card_of(model))
    error = r"\d\.\de-\d\d"
    message = (
        r"in fp32: relative error .* nothing was written\. Against float64 the original is off by "
        rf"{error} in fp32, the fused network by {error}: the original's own rounding is as large, "
        r"so folding is not at fault; conv3\.0\.conv2\.branches\.[01]\.norm subtracts a mean of "
        r"500\d standard deviations"
    )
    with pytest.raises(ParityError, match=message) as caught:
        fuse_checkpoint(tmp_path / "ckpt.pt")
    assert "\n" not in str(caught.value)
    found = rounding(model, fuse_model(model), TINY_CLIP, "conv3.0.conv2", seed=GOLDEN_SEED)
    assert not found.by_folding
    assert found.original > 1e-5


@pytest.mark.parametrize(
    ("allowed_in_fp64", "words"),
    [(1e-10, "in fp64 too, so it is wrong"), (1.0, "by rounding alone, since all agree in fp64$")],
)
def test_refusing_says_that_folding_adds_to_the_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed_in_fp64: float, words: str
) -> None:
    model = tiny_model()
    save_checkpoint(tmp_path / "ckpt.pt", model, card_of(model))
    fold = TemporalFilter.fold

    def coarse(self: TemporalFilter) -> nn.Conv3d:
        conv = fold(self)
        conv.weight.data = conv.weight.data.half().double()
        return conv

    monkeypatch.setattr(TemporalFilter, "fold", coarse)
    monkeypatch.setitem(FUSION_TOLERANCE, "fp64", allowed_in_fp64)
    with pytest.raises(ParityError, match=f"folding adds to it, {words}"):
        fuse_checkpoint(tmp_path / "ckpt.pt")
    for check in ("conv4.0.conv1", "network, noise"):
        found = rounding(model, fuse_model(model), TINY_CLIP, check, seed=GOLDEN_SEED)
        assert found.by_folding
        assert found.original < 1e-5 < found.fused


def test_rounding_of_a_right_fold_is_like_the_originals() -> None:
    model = tiny_model()
    for check in ("conv4.0.conv1", "network, golden clip"):
        found = rounding(model, fuse_model(model), TINY_CLIP, check, seed=GOLDEN_SEED)
        assert 0.0 < found.original < 1e-6
        assert 0.0 < found.fused < 1e-6


def test_fuse_checkpoint_refuses_a_checkpoint_that_does_not_answer_its_golden_clip(
    tmp_path: Path,
) -> None:
    model = tiny_model()
    card = card_of(model)
    with torch.no_grad():
        model.head.classifier.bias[0] += 1.0
    save_checkpoint(tmp_path / "ckpt.pt", model, card)
    with pytest.raises(ParityError, match="golden clip"):
        fuse_checkpoint(tmp_path / "ckpt.pt")


def test_fuse_checkpoint_refuses_fused_weights(tmp_path: Path) -> None:
    fused = fuse_model(tiny_model()).float()
    save_fused(tmp_path / "a.fused.safetensors", fused, card_of(fused))
    with pytest.raises(ArtifactError, match="fused already"):
        fuse_checkpoint(tmp_path / "a.fused.safetensors")
