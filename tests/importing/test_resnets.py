"""Weights under the names of every project, made from small networks with random norms."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.layouts import ResNetLayout, StageLayout
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_checkpoint, fuse_model
from stdeploy.importing import resnets
from stdeploy.importing.checkpoint import import_checkpoint, recognise
from stdeploy.importing.families import FAMILIES
from stdeploy.importing.family import Family
from stdeploy.importing.resnets import Assumed, ResNetNames
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.base import ActionModel
from stdeploy.models.frames_to_logits import logits_of
from stdeploy.models.planar import planar_form
from stdeploy.models.registry import build
from stdeploy.train.initialisation import start
from stdeploy.train.recipe import Recipe

# Depths and temporal lengths that such networks have; width and classes are small.
LENGTHS = {
    "mmaction2/c2d": ((1,), (1,), (1,), (1,)),
    "mmaction2/slowonly": ((1,), (1,), (3, 3), (3,)),
    "mmaction2/i3d": ((3,), (3, 1), (3, 1), (1,)),
    "mmaction2/r2plus1d": ((3,), (3,), (3,), (3,)),
    "pytorchvideo/slow": ((1,), (1,), (3,), (3,)),
    "pytorchvideo/c2d": ((1,), (1,), (1,), (1,)),
    "pytorchvideo/i3d": ((3,), (3,), (3,), (1,)),
    "torchvision/mc3-18": ((3,), (1,), (1,), (1,)),
}
BASIC = {"torchvision/r3d-18", "torchvision/mc3-18", "torchvision/r2plus1d-18"}
BASIC |= {"hara/r2plus1d", "mmaction2/r2plus1d", "ibm/i3d-resnet"}
RESNETS = [
    name
    for name, family in FAMILIES.items()
    if isinstance(family.read, partial) and isinstance(family.read.keywords.get("assumed"), Assumed)
    if not family.twins  # whose weights are 2D
]


def names_and_assumed(family: Family) -> tuple[ResNetNames, Assumed]:
    assert isinstance(family.read, partial)
    return family.read.keywords["names"], family.read.keywords["assumed"]


def layout_of(name: str, *, shortcut: str | None = None) -> ResNetLayout:
    """A narrow network that is of a family."""
    _, assumed = names_and_assumed(FAMILIES[name])
    lengths = LENGTHS.get(name, ((3,), (3,), (3,), (3,)))
    basic = name in BASIC
    separable = assumed.convolution != "joint"
    stages = [
        StageLayout(
            channels=4 * 2**number,
            lengths=each,
            stride=(assumed.time_strides[number], assumed.space_strides[number]),
            middles=((5, 6) if basic else (5,),) * len(each) if separable else (),
            shortcut_middle=3 if assumed.shortcut == "separable" else None,
        )
        for number, each in enumerate(lengths)
    ]
    stem = ResNetLayout.model_fields["stem"].default.model_copy(
        update={
            "channels": 6,
            "kernel": (assumed.stem_lengths[0], 7, 7),
            "stride": assumed.stem_stride,
            "pool_kernel": assumed.pool_kernel,
            "pool_stride": assumed.pool_stride,
            "pool_padded": assumed.pool_padded,
            "middle": 7 if len(names_and_assumed(FAMILIES[name])[0].stem) > 1 else None,
        }
    )
    return ResNetLayout(
        block="basic" if basic else "bottleneck",
        stem=stem,
        stages=(stages[0], stages[1], stages[2], stages[3]),
        convolution=assumed.convolution,
        temporal=assumed.temporal,
        shortcut=shortcut or assumed.shortcut,
        depthwise=assumed.depthwise,
        pool_in_time=assumed.pool_in_time,
        eps=assumed.eps,
        middle_eps=assumed.middle_eps,
        window_side=assumed.window_side,
    )


def network(layout: ResNetLayout) -> ActionModel:
    torch.manual_seed(5)
    model = build(
        ModelSpec(
            architecture="resnet3d",
            temporal_lengths=layout.temporal_lengths,
            branches="single",
            eta=1.0,
            num_classes=3,
            layout=layout,
        )
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def under_their_names(model: ActionModel, names: ResNetNames) -> dict[str, Tensor]:
    """What the project would have saved, counters of batches among it."""
    layout = model.spec.layout
    assert layout is not None
    tensors: dict[str, Tensor] = {}
    every = dict.fromkeys(f"{name}.weight" for name in _their_convolutions(model, names))
    pairs = resnets.filter_pairs(every, names, layout)  # the one place that knows the names
    for ours, theirs in pairs.items():
        layer = model.get_submodule(ours)
        assert isinstance(layer, TemporalFilter)
        (branch,) = layer.typed_branches()
        tensors[f"{theirs.conv}.weight"] = branch.kernel().detach()
        for name, tensor in branch.norm.state_dict().items():
            tensors[f"{theirs.norm}.{name}"] = tensor
    tensors[f"{names.classifier}.weight"] = model.head.classifier.weight.detach()
    tensors[f"{names.classifier}.bias"] = model.head.classifier.bias.detach()
    return tensors


def _their_convolutions(model: ActionModel, names: ResNetNames) -> list[str]:
    """Shortcuts that the network has: what `filter_pairs` asks the weights."""
    found = []
    for stage in range(1, 5):
        for index, block in enumerate(model.get_submodule(f"conv{stage + 1}").children()):
            if not isinstance(block.get_submodule("downsample"), nn.Identity):
                part = names.shortcut[0]
                found.append(resnets._named(part, names, stage, index).conv)
    return found


def logits(model: ActionModel, frames: int = 16) -> Tensor:
    torch.manual_seed(6)
    with torch.no_grad():
        x = torch.randn(2, 3, frames, 32, 32)
        return model(x.to(next(model.parameters()).dtype)).float()


def read_again(name: str, tensors: Mapping[str, Tensor]) -> ActionModel:
    _, found = recognise(tensors, source="x.pth", family=name)
    again = build(found.spec)
    again.load_state_dict(found.tensors, strict=False)
    return again.eval()


@pytest.mark.parametrize("name", RESNETS)
def test_a_network_of_every_family_is_read_and_fused(name: str) -> None:
    model = network(layout_of(name))
    tensors = under_their_names(model, names_and_assumed(FAMILIES[name])[0])
    again = read_again(name, tensors)
    assert again.spec == model.spec
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
    fused = fuse_model(again)
    torch.testing.assert_close(logits(fused), logits(model), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in fused.modules())
    # Both are in float64, and rounded to float32 here.
    torch.testing.assert_close(logits(planar_form(fused, 16)), logits(fused), rtol=1e-6, atol=1e-6)


def test_a_2d_network_with_pools_in_time_is_read_where_it_is_named() -> None:
    name = "mmaction2/c2d"
    model = network(layout_of(name))
    tensors = {
        key: tensor.squeeze(2) if tensor.dim() == 5 else tensor
        for key, tensor in under_their_names(model, names_and_assumed(FAMILIES[name])[0]).items()
    }
    assert tensors["backbone.conv1.conv.weight"].dim() == 4
    again = read_again(name, tensors)
    assert again.spec == model.spec
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
    # A pool that is padded sees other pixels.
    assert not torch.allclose(logits(again), logits(read_padded(model)), rtol=1e-3, atol=1e-3)
    with pytest.raises(
        SpecError, match=r"also of the 2D networks TSN and TSM, .*: --as mmaction2/"
    ):
        recognise(tensors, source="x.pth")
    five = under_their_names(model, names_and_assumed(FAMILIES[name])[0])
    with pytest.raises(ArtifactError, match=r"is no mmaction2/c2d: .* is no 2D convolution"):
        recognise(five, source="x.pth", family=name)


def read_padded(model: ActionModel) -> ActionModel:
    """The same weights with a padded pool, as other residual networks have it."""
    layout = model.spec.layout
    assert isinstance(layout, ResNetLayout)
    stem = layout.stem.model_copy(update={"pool_padded": True})
    spec = model.spec.model_copy(update={"layout": layout.model_copy(update={"stem": stem})})
    padded = build(spec).eval()
    padded.load_state_dict(model.state_dict())
    return padded


@pytest.mark.parametrize("name", RESNETS)
def test_a_tensor_too_few_or_too_many_is_refused(name: str) -> None:
    model = network(layout_of(name))
    tensors = under_their_names(model, names_and_assumed(FAMILIES[name])[0])
    for lacking in [each for each in tensors if not each.endswith("num_batches_tracked")][::7]:
        fewer = {each: tensor for each, tensor in tensors.items() if each != lacking}
        with pytest.raises(ArtifactError, match=f"is no {name}"):
            recognise(fewer, source="x.pth", family=name)
    with pytest.raises(ArtifactError, match=r"1 tensors would be left over: extra\.weight"):
        recognise({**tensors, "extra.weight": torch.ones(3)}, source="x.pth", family=name)


def test_sizes_that_no_network_has_are_one_line() -> None:
    model = network(layout_of("ibm/i3d-resnet"))
    tensors = under_their_names(model, names_and_assumed(FAMILIES["ibm/i3d-resnet"])[0])
    even = {
        name: tensor[:, :, :2] if name.startswith("layer2") and tensor.dim() == 5 else tensor
        for name, tensor in tensors.items()
    }
    with pytest.raises(
        ArtifactError, match=r"temporal length 2: odd numbers from 1 to 255"
    ) as told:
        recognise(even, source="x.pth", family="ibm/i3d-resnet")
    assert "\n" not in str(told.value)
    with pytest.raises(ArtifactError, match="of no network that is known"):
        recognise(even, source="x.pth")


def test_shortcut_a_is_seen_in_the_weights() -> None:
    model = network(layout_of("hara/r3d", shortcut="padding"))
    tensors = under_their_names(model, names_and_assumed(FAMILIES["hara/r3d"])[0])
    assert not any("downsample" in name for name in tensors)
    again = read_again("hara/r3d", tensors)
    assert again.spec == model.spec
    torch.testing.assert_close(logits(again), logits(model))


def test_strides_pools_and_eps_matter() -> None:
    """What no weights say: each changes the logits, so that a wrong assumption is no trifle."""
    layout = layout_of("ibm/i3d-resnet")
    model = network(layout)
    strided = tuple(
        stage.model_copy(update={"stride": (2, stage.stride[1])}) for stage in layout.stages
    )
    others = (
        layout.model_copy(update={"stages": strided}),
        layout.model_copy(update={"pool_in_time": True}),
        layout.model_copy(update={"eps": 1e-1}),
        layout.model_copy(
            update={"stem": layout.stem.model_copy(update={"pool_kernel": (3, 3, 3)})}
        ),
    )
    for other in others:
        changed = network(other)
        changed.load_state_dict(model.state_dict())
        assert (logits(changed) - logits(model)).abs().max() > 1e-3 * logits(model).abs().max()


@pytest.mark.parametrize("name", ["mmaction2/ir-csn", "mmaction2/r2plus1d", "mmaction2/i3d"])
def test_an_imported_checkpoint_goes_through_fusing_and_exporting(
    name: str, tmp_path: Path
) -> None:
    model = network(layout_of(name))
    tensors = under_their_names(model, names_and_assumed(FAMILIES[name])[0])
    torch.save(tensors, tmp_path / "theirs.pth")
    imported = import_checkpoint(
        tmp_path / "theirs.pth",
        labels=("a", "b", "c"),
        clip={"num_frames": 8, "short_side_px": 32, "crop_px": 32},
    )
    assert imported.path == tmp_path / "theirs.pt"
    assert FAMILIES[name].assumed in imported.card.lineage.origin
    fused = fuse_checkpoint(imported.path)
    layers = [m for m in model.modules() if isinstance(m, TemporalFilter)]
    assert len(fused.parity) == 2 * (len(layers) + 2)  # in fp64 and fp32, two of all of it
    exported = export_onnx(fused.path)
    assert read_card(exported.path).model.layout == model.spec.layout
    answer = np.array(read_card(exported.path).golden.logits)
    frames = golden_clip(exported.card.golden.seed, exported.card.clip.frames_shape)
    np.testing.assert_allclose(
        answer, logits_of(model, exported.card.clip, frames[None])[0], rtol=1e-4, atol=1e-5
    )


def test_depthwise_filters_may_have_branches() -> None:
    model = network(layout_of("mmaction2/ir-csn"))
    multi = build(model.spec.model_copy(update={"branches": "multi", "eta": 2.0})).eval()
    out = logits(multi)
    torch.testing.assert_close(logits(fuse_model(multi)), out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["pytorchvideo/slow", "torchvision/r2plus1d-18", "hara/r3d"])
def test_an_imported_network_is_trained_on_with_branches(name: str, tmp_path: Path) -> None:
    model = network(layout_of(name))
    tensors = under_their_names(model, names_and_assumed(FAMILIES[name])[0])
    torch.save({"state_dict": tensors}, tmp_path / "theirs.pth")
    clip = {"num_frames": 8, "short_side_px": 32, "crop_px": 32}
    labels = ("a", "b", "c")
    imported = import_checkpoint(
        tmp_path / "theirs.pth", tmp_path / "ours.pt", labels=labels, clip=clip
    )
    wanted = {"branches": "multi", "eta": 2.0}
    recipe = Recipe.load("finetune-imported", [f"start.weights={imported.path}"])
    recipe = recipe.model_copy(update={"model": wanted})
    started = start(recipe, labels).model
    assert started.spec == model.spec.model_copy(update=wanted)
    torch.testing.assert_close(logits(started.eval()), logits(model), rtol=1e-5, atol=1e-5)
    # It learns: the same batch twenty times, in training mode.
    x, y = torch.randn(6, 3, 8, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    optimiser = torch.optim.SGD(started.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(21):
        started.train()
        started.head.dropout.p = 0.0
        loss = nn.functional.cross_entropy(started(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[20] < losses[0]
    branches = [m for m in started.modules() if isinstance(m, TemporalFilter)]
    grown = [f.typed_branches()[0] for f in branches if len(f.typed_branches()) > 1]
    assert grown
    assert all(branch.norm.weight.abs().max() > 0 for branch in grown)


def test_an_imported_network_keeps_its_temporal_lengths(tmp_path: Path) -> None:
    path = imported_slow(tmp_path)
    recipe = Recipe.load(
        "finetune-imported", [f"start.weights={path}", "model.temporal_lengths=[1,1,3,3,5]"]
    )
    with pytest.raises(
        SpecError, match=r"are 1,1,3,3,5, and the filters .* have 1,1,1,3,3; leave --temporal-l"
    ):
        start(recipe, ("a", "b", "c"))


def test_weights_of_a_project_are_not_trained_on_before_they_are_imported(tmp_path: Path) -> None:
    """A recipe without a network of its own, and a .pt file that another program wrote."""
    imported_slow(tmp_path)
    recipe = Recipe.load("finetune-imported", [f"start.weights={tmp_path / 'theirs.pt'}"])
    with pytest.raises(ArtifactError, match=r"of another project: stdeploy import .*theirs\.pt"):
        start(recipe, ("a", "b", "c"))


def test_our_own_artifacts_are_not_imported_again(tmp_path: Path) -> None:
    path = imported_slow(tmp_path)
    fused = fuse_checkpoint(path).path
    for ours, takes in ((path, "stdeploy fuse or train takes it"), (fused, "stdeploy export")):
        with pytest.raises(ArtifactError, match=f"artifact of stdeploy already, .*{takes}"):
            import_checkpoint(ours, tmp_path / "again.pt", labels=("a", "b", "c"))
    assert not (tmp_path / "again.pt").exists()


def imported_slow(folder: Path) -> Path:
    """A small network of PyTorchVideo, as it was saved there (theirs.pt), and imported."""
    name = "pytorchvideo/slow"
    model = network(layout_of(name))
    tensors = under_their_names(model, names_and_assumed(FAMILIES[name])[0])
    torch.save({"model_state": tensors}, folder / "theirs.pt")
    clip = {"num_frames": 8, "short_side_px": 32, "crop_px": 32}
    labels = ("a", "b", "c")
    ours = folder / "ours.pt"
    return import_checkpoint(folder / "theirs.pt", ours, labels=labels, clip=clip).path


def test_every_family_is_on_the_page() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "bring-your-own-network.md"
    text = page.read_text(encoding="utf-8")
    assert [name for name in FAMILIES if f"`{name}`" not in text] == []
