"""Weights before training: inflated from 2D, or from a checkpoint of ours."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from stdeploy.errors import ArtifactError, SpecError
from stdeploy.layers.inflation import inflate
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.checkpoint import load_model, save_checkpoint
from stdeploy.train.initialisation import start
from stdeploy.train.recipe import Recipe
from tests.helpers.models import card_of, randomise_norms, tiny_model

WIDTH = 1 / 16
LABELS = ("a", "b", "c")
FLAT = (1, 1, 1, 1, 1)
CLIP = {"num_frames": 4, "short_side_px": 64, "crop_px": 64}


def recipe(weights: Path, **model: object) -> Recipe:
    fields = Recipe.load("starter").model_dump()
    fields["model"] |= {"width": WIDTH, **model}
    fields["start"]["weights"] = str(weights)
    return Recipe.parse(fields)


def resnet18(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """torchvision's ResNet-18 in evaluation mode up to its pooling, written out by its names."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int, padding: int) -> Tensor:
        x = functional.conv2d(x, tensors[f"{conv}.weight"], stride=stride, padding=padding)
        statistics = (tensors[f"{norm}.{n}"] for n in ("running_mean", "running_var"))
        return functional.batch_norm(
            x, *statistics, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"]
        )

    x = conv_norm(x, "conv1", "bn1", 2, 3).relu()
    x = functional.max_pool2d(x, 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            out = conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride, 1).relu()
            out = conv_norm(out, f"{name}.conv2", f"{name}.bn2", 1, 1)
            if f"{name}.downsample.0.weight" in tensors:
                x = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride, 0)
            x = (out + x).relu()
    return x


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2D weights with random norms, under the names of torchvision's ResNet-18."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}

    def add(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        fan = shape[1] * shape[2] * shape[3]
        tensors[f"{conv}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        for name, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5)):
            tensors[f"{norm}.{name}"] = torch.rand(shape[0], generator=generator) + low
        tensors[f"{norm}.running_var"] = torch.rand(shape[0], generator=generator) + 0.5

    channels = 4
    add("conv1", "bn1", (channels, 3, 7, 7))
    for layer in range(1, 5):
        for block in range(2):
            name, out = f"layer{layer}.{block}", 4 * 2 ** (layer - 1)
            add(f"{name}.conv1", f"{name}.bn1", (out, channels, 3, 3))
            add(f"{name}.conv2", f"{name}.bn2", (out, out, 3, 3))
            if channels != out:
                add(f"{name}.downsample.0", f"{name}.downsample.1", (out, channels, 1, 1))
            channels = out
    tensors["fc.weight"], tensors["fc.bias"] = torch.zeros(1000, channels), torch.zeros(1000)
    path = tmp_path_factory.mktemp("weights") / "resnet18-5c106cde.pth"
    torch.save(tensors, path)
    return path


def test_without_temporal_filters_every_frame_gets_the_answer_of_the_2d_network(
    weights: Path,
) -> None:
    flat = recipe(weights, temporal_lengths=(1,) * 5)
    started = start(flat, LABELS)
    clip = torch.randn(2, 3, 3, 64, 64)
    tensors = torch.load(weights, weights_only=True)
    with torch.no_grad():
        features = started.model.eval().forward_features(clip)
        for frame in range(3):
            expected = resnet18(tensors, clip[:, :, frame])
            torch.testing.assert_close(features[:, :, frame], expected, rtol=1e-4, atol=1e-4)
    assert started.origin == f"inflated from {weights}"
    assert started.model.spec.num_classes == 3


def features_of_a_still_video(
    weights: Path, reading: str, branches: str, eta: float
) -> tuple[Tensor, Tensor]:
    """Features of the middle frame, where the zeros around the video do not reach; and in 2D."""
    network = {"temporal_lengths": (1, 1, 3, 3, 5), "branches": branches, "eta": eta}
    fields = recipe(weights, **network).model_dump()
    fields["start"]["inflation"] = reading
    started = start(Recipe.parse(fields), LABELS)
    picture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        still = picture[:, :, None].expand(-1, -1, 41, -1, -1)
        features = started.model.eval().forward_features(still)[:, :, 20]
        return features, resnet18(torch.load(weights, weights_only=True), picture)


def relative_difference(features: Tensor, expected: Tensor) -> float:
    return float((features - expected).norm() / expected.norm())


EXACT = [(reading, eta) for reading in ("orthonormal", "filter") for eta in (1.0, 2.0, 4.0)]
EXACT += [("coefficients", 1.0)]
EXACT_CASES = [(*case, branches) for case in EXACT for branches in ("single", "multi")]
EXACT_CASES += [("coefficients", 2.0, "multi")]


@pytest.mark.parametrize(("reading", "eta", "branches"), EXACT_CASES)
def test_a_still_video_has_the_features_of_the_2d_network(
    weights: Path, reading: str, eta: float, branches: str
) -> None:
    features, expected = features_of_a_still_video(weights, reading, branches, eta)
    assert relative_difference(features, expected) < 1e-4


@pytest.mark.parametrize(("eta", "branches"), [(2.0, "single"), (4.0, "single"), (4.0, "multi")])
def test_inflated_coefficients_shrink_features_rather_than_magnify_motion(
    weights: Path, eta: float, branches: str
) -> None:
    """Norms that fit a still video would multiply what is not still, layer after layer."""
    features, expected = features_of_a_still_video(weights, "coefficients", branches, eta)
    assert 0.1 < relative_difference(features, expected) < 1.0
    network = {"temporal_lengths": (1, 1, 3, 3, 5), "branches": branches, "eta": eta}
    model = start(recipe(weights, **network), LABELS).model.eval()
    noise = torch.randn(1, 3, 16, 64, 64, generator=torch.Generator().manual_seed(2))
    flat = start(recipe(weights, temporal_lengths=FLAT), LABELS).model.eval()
    with torch.no_grad():
        moving, each_frame = model.forward_features(noise), flat.forward_features(noise)
    assert float(moving.norm() / each_frame.norm()) < 2.0


def test_without_average_a_still_video_has_what_branches_of_one_frame_see(weights: Path) -> None:
    """These hold a half (t = 3) or a third (t = 5) of gamma; without them beta alone is left."""
    multi, expected = features_of_a_still_video(weights, "coefficients", "multi", math.inf)
    single, _ = features_of_a_still_video(weights, "coefficients", "single", math.inf)
    assert 0.1 < relative_difference(multi, expected) < relative_difference(single, expected)
    for branches, features in {"multi": multi, "single": single}.items():
        # Whatever the other branches are: they see no change.
        other, _ = features_of_a_still_video(weights, "orthonormal", branches, math.inf)
        assert relative_difference(other, features) < 1e-4


def test_classic_inflation_into_filters_without_average_is_refused_before_it_begins() -> None:
    settings = ["start.weights=imagenet", "start.inflation=filter", "model.eta=inf"]
    message = r"start\.inflation = 'filter' .* model\.eta = inf excludes; use a finite eta, or"
    with pytest.raises(SpecError, match=message):
        Recipe.load("starter", settings)
    for fine in ("model.temporal_lengths=[1,1,1,1,1]", "start.weights=a.pt", "model.eta=4.0"):
        assert Recipe.load("starter", [*settings, fine]).start.inflation == "filter"


def test_a_reading_that_is_not_known_is_refused() -> None:
    message = r"start\.inflation = 'classic': 'coefficients', 'orthonormal' or 'filter' is allowed"
    with pytest.raises(SpecError, match=message):
        Recipe.load("starter", ["start.inflation=classic"])


@pytest.mark.parametrize("reading", ["coefficients", "orthonormal", "filter"])
def test_a_recipe_says_how_2d_filters_become_coefficients(weights: Path, reading: str) -> None:
    fields = recipe(weights).model_dump()
    fields["start"]["inflation"] = reading
    layer = start(Recipe.parse(fields), LABELS).model.get_submodule("conv5.1.conv2")
    assert isinstance(layer, TemporalFilter)
    kernel = torch.load(weights, weights_only=True)["layer4.1.conv2.weight"]
    for branch, tau in zip(layer.typed_branches(), (1, 3, 5), strict=True):
        assert torch.equal(branch.coefficients, inflate(kernel, tau, 2.0, reading))


def test_safetensors_are_read_as_well(weights: Path, tmp_path: Path) -> None:
    save_file(torch.load(weights, weights_only=True), tmp_path / "timm.safetensors")
    first = start(recipe(weights), LABELS).model.state_dict()
    second = start(recipe(tmp_path / "timm.safetensors"), LABELS).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_gives_all_but_its_classifier(tmp_path: Path) -> None:
    model = randomise_norms(tiny_model())
    card = card_of(model)
    save_checkpoint(tmp_path / "a.pt", model, card)
    fields = Recipe.load("finetune", [f"start.weights={tmp_path / 'a.pt'}"]).model_dump()
    fields["clip"] = CLIP
    started = start(Recipe.parse(fields), LABELS)
    assert started.model.spec == card.model.model_copy(update={"num_classes": 3})
    assert (started.clip.num_frames, started.clip.fps) == (4, card.clip.fps)
    assert started.origin.startswith("started from a.pt")
    trunk, own = model.state_dict(), started.model.state_dict()
    for name in trunk:
        if name.startswith("head.classifier"):
            assert own[name].shape[0] == 3
        else:
            assert torch.equal(own[name], trunk[name])
    same_classes = start(Recipe.parse(fields), card.labels).model.state_dict()
    assert torch.equal(same_classes["head.classifier.weight"], trunk["head.classifier.weight"])


def test_what_does_not_fit_is_named(weights: Path, tmp_path: Path) -> None:
    tensors = torch.load(weights, weights_only=True)
    del tensors["layer3.1.bn2.bias"]
    torch.save(tensors, tmp_path / "lacks.pth")
    with pytest.raises(ArtifactError, match=r"holds no 'layer3\.1\.bn2\.bias'"):
        start(recipe(tmp_path / "lacks.pth"), LABELS)
    with pytest.raises(ArtifactError, match=r"conv1\.weight: 2D filter of shape \(4, 3, 7, 7\)"):
        start(recipe(weights, width=0.125), LABELS)
    with pytest.raises(SpecError, match="'i3d-inception' extends no 2D network"):
        start(recipe(weights, architecture="i3d-inception"), LABELS)
    with pytest.raises(ArtifactError, match=r"none\.pth' does not exist"):
        start(recipe(tmp_path / "none.pth"), LABELS)
    for name in ("garbage.pt", "garbage.pth", "garbage.safetensors"):
        (tmp_path / name).write_bytes(b"garbage")
        with pytest.raises(ArtifactError, match=r"cannot be read|holds more than tensors"):
            start(recipe(tmp_path / name), LABELS)


def test_weights_of_another_programs_3d_network_say_what_they_are(tmp_path: Path) -> None:
    kernels = {"stem.0.weight": (64, 3, 3, 7, 7), "layer1.0.conv1.0.weight": (8, 8, 3, 3, 3)}
    tensors = {name: torch.zeros(shape) for name, shape in kernels.items()}
    torch.save(tensors | {"fc.weight": torch.zeros(400, 8)}, tmp_path / "r3d_18.pt")
    message = (
        r"r3d_18\.pt' is a state_dict of a 3D network of torchvision \(r3d_18, mc3_18, "
        r"r2plus1d_18\) \(2 convolutions over time, layer1\.0\.conv1\.0\.weight is 8x8x3x3x3\).*; "
        r"make a checkpoint of it first \(stdeploy import .*r3d_18\.pt\), or start from a 2D ResNet"
    )
    with pytest.raises(ArtifactError, match=message):
        start(recipe(tmp_path / "r3d_18.pt"), LABELS)


@pytest.mark.parametrize(
    ("parent", "wanted", "way_out"),
    [
        ({}, {"temporal_lengths": FLAT}, r"leave --temporal-lengths or the recipe's field out"),
        ({"temporal_lengths": FLAT}, {}, r"leave --temporal-lengths or the recipe's field out"),
        ({}, {"branches": "single"}, r"model\.branches is 'single', in .* 'multi'; leave the"),
        ({}, {"width": 0.125}, r"model\.width is 0\.125, in the checkpoint 0\.0625; leave the"),
    ],
    ids=["checkpoint has more", "checkpoint has less", "branches", "width"],
)
def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: Path, parent: dict[str, object], wanted: dict[str, object], way_out: str
) -> None:
    model = tiny_model(**{"width": WIDTH, **parent})
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    message = rf"a\.pt' does not fit the network that is asked for: conv.*{way_out}"
    with pytest.raises(ArtifactError, match=message):
        start(recipe(tmp_path / "a.pt", **wanted), LABELS)
    assert load_model(tmp_path / "a.pt")  # left as it was


def test_a_checkpoint_of_another_architecture_says_which_recipe_takes_it(tmp_path: Path) -> None:
    model = tiny_model("s3d-resnet50")
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    message = r"a\.pt' is of 's3d-resnet50', the recipe asks for 'i3d-resnet18'; --recipe finetune"
    with pytest.raises(ArtifactError, match=message):
        start(recipe(tmp_path / "a.pt"), LABELS)
