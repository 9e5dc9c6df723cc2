import json
from pathlib import Path

import pytest

from stdeploy.errors import SpecError
from stdeploy.train.recipe import Recipe, Start, changed_fields, packaged_recipes


def test_starter_is_packaged_and_multi_branch() -> None:
    spec = Recipe.load("starter").model_spec(10)
    assert (spec.architecture, spec.branches, spec.eta) == ("i3d-resnet18", "multi", 2.0)
    assert spec.temporal_lengths == (1, 1, 3, 3, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("eta = 2.0", "eta = 0.5"), r"eta = 0\.5"),
        (("epochs = 7", "epochs = 0"), r"optimisation\.epochs = 0"),
        (("epochs = 7", "epoch = 7"), r"optimisation\.epoch = 7: .* did you mean 'epochs'"),
        (("num_frames = 8", "frames = 8"), r"frames = 8: .* did you mean 'num_frames'"),
        (('branches = "multi"', 'branch = "multi"'), r"branch = .* did you mean 'branches'"),
        (("[clip]", "[clips]"), r"clips = .* did you mean 'clip'"),
        (("[1, 1, 3, 3, 5]", "[1, 1, 3, 3, 4]"), "t5 is 4"),
        (("[model]", "[model"), "is no TOML"),
        (("epochs = 7", "epochs = " + "9" * 5000), "is no TOML: a number in it has more digits"),
        (("epochs = 7", "epochs = " + "[" * 9000), "is no TOML: its lists or tables are nested"),
    ],
)
def test_bad_recipes_are_refused_in_one_line(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    import importlib.resources

    text = importlib.resources.files("stdeploy.train").joinpath("recipes/starter.toml").read_text()
    assert change[0] in text
    (tmp_path / "mine.toml").write_text(text.replace(*change))
    with pytest.raises(SpecError, match=message) as caught:
        Recipe.load(str(tmp_path / "mine.toml"))
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"no recipe 'best'; .* one of: .*starter"):
        Recipe.load("best")
    with pytest.raises(SpecError, match=r"did you mean 'ssv2-i3d-r50-ours'"):
        Recipe.load("ssv2-i3d-50-ours")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mine.toml",
            r"^recipe 'mine\.toml' does not exist; name a \.toml file or one of: .*starter",
        ),
        ("mine/best", r"^recipe 'mine/best' does not exist; "),
        ("./", r"^recipe '\./' is a folder; "),
        ("starter.toml", r"'starter\.toml' does not exist; .*; did you mean 'starter'\?$"),
    ],
)
def test_a_file_that_is_not_there_is_said_not_to_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=message):
        Recipe.load(name)


def test_any_field_can_be_set() -> None:
    recipe = Recipe.load(
        "starter",
        [
            "model.temporal_lengths=[1,1,1,1,1]",
            "optimisation.learning_rate = 1e-3",
            "optimisation.precision=bf16",
            "augmentation.frame_strides=[1,2]",
            "start.weights=a b.pth",
        ],
    )
    assert recipe.model_spec(10).temporal_lengths == (1, 1, 1, 1, 1)
    assert recipe.optimisation.learning_rate == 1e-3
    assert recipe.optimisation.precision == "bf16"
    assert recipe.augmentation.frame_strides == (1, 2)
    assert recipe.start.weights == "a b.pth"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=3", r"write TABLE\.FIELD=VALUE"),
        ("optimisation.epochs", r"write TABLE\.FIELD=VALUE"),
        ("optimisation.epochs=many", r"optimisation\.epochs = 'many': a whole number is allowed$"),
        ("optimisation=3", r"write TABLE\.FIELD=VALUE"),
        (
            "start.freeze=['conv9']",
            r"start\.freeze\.0 = 'conv9': 'conv1', .* or 'conv5' is allowed$",
        ),
        ("optimisation.epoch=3", "did you mean 'epochs'"),
        ("optimization.epochs=3", "did you mean 'optimisation'"),
        ("model.temporal_lengths=[1,3]", "temporal_lengths"),
        ("optimisation.epochs=" + "9" * 5000, r"optimisation\.epochs = '9+ \.\.\. 9+': a"),
        ("optimisation.epochs=" + "[" * 9000, "is no TOML"),
    ],
)
def test_bad_settings_are_refused_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        Recipe.load("starter", [setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_describe_networks_and_open_with_their_command(name: str) -> None:
    from importlib.resources import files

    text = files("stdeploy.train").joinpath(f"recipes/{name}.toml").read_text()
    lines = text.splitlines()
    command = "stdeploy ablate" if name == "ablation" else f"stdeploy train --recipe {name}"
    assert any(command in line for line in lines[:2])
    settings = ["start.weights=a.pt"] if name.startswith("finetune") else []
    recipe = Recipe.load(name, settings)
    if name.startswith(("ssv2", "kinetics")):
        spec, how = recipe.model_spec(174), recipe.optimisation
        assert (how.epochs, how.batch_size, how.learning_rate) == (100, 32, 0.01)
        clip = recipe.clip_spec()
        assert (clip.num_frames, clip.frame_stride, clip.crop_px) == (32, 2, 224)
        assert clip.short_video == "stretch"
        ours = name.endswith("-ours")
        assert spec.temporal_lengths == ((1, 1, 3, 3, 5) if ours else (3,) * 5)
        assert (spec.branches, spec.eta) == (("multi", 2.0) if ours else ("single", 1.0))
        augmentation = recipe.augmentation
        assert augmentation.frame_strides == ((1, 2, 3, 4) if ours else ())
        assert augmentation.ego_motion_sigma_px == (2.0 if ours else 0.0)
        # Networks of section 2.2 start by the classic inflation, in any case.
        assert recipe.start.inflation == (Start().inflation if ours else "filter")


def test_fields_that_are_left_out_are_the_parents() -> None:
    recipe = Recipe.load("finetune", ["start.weights=a.pt"])
    parent = Recipe.load("ssv2-i3d-r50-ours")
    spec = recipe.model_spec(5, parent.model_spec(174))
    assert spec == parent.model_spec(5)
    clip = recipe.clip_spec(parent.clip_spec())
    assert (clip.fps, clip.crop_px, clip.num_frames, clip.frame_stride) == (12.0, 224, 32, 1)


def test_a_recipe_without_a_network_asks_for_a_checkpoint() -> None:
    with pytest.raises(SpecError, match="takes its network from a checkpoint, and there is none;"):
        Recipe.load("finetune")
    with pytest.raises(SpecError, match="there is none in 'imagenet'"):
        Recipe.load("finetune", ["start.weights=imagenet"])


@pytest.mark.parametrize(
    ("weights", "way"),
    [
        ("x3d m.pyth", r"is made by: stdeploy import 'x3d m\.pyth'\)"),
        ("net.safetensors", r"is made by: stdeploy import net\.safetensors\)"),
        ("a.fused.safetensors", r"made from: what is fused or exported is not trained on\)"),
        ("a.int8.onnx", r"made from: what is fused or exported is not trained on\)"),
        ("imagenet", r"CKPT\.pt, or set model\.architecture$"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_told_the_way_to_one(weights: str, way: str) -> None:
    with pytest.raises(SpecError, match=way):
        Recipe.load("finetune-imported", [f"start.weights={weights}"])


def test_changed_fields_are_those_that_decide_about_numbers() -> None:
    before = Recipe.load("starter", ["model.eta=inf"])
    again = Recipe.parse(json.loads(before.model_dump_json()))  # as a run's folder keeps it
    assert changed_fields(again, before) == []
    faster = Recipe.load("starter", ["model.eta=2", "optimisation.workers=7"])
    assert changed_fields(again, faster) == ['model.eta was "Infinity", is 2']
    assert len(changed_fields(before, Recipe.load("starter", ["optimisation.epochs=99"]))) == 2
