from pathlib import Path

import pytest

from stdeploy.errors import SpecError
from stdeploy.train.recipe import Recipe


def test_starter_is_packaged_and_multi_branch() -> None:
    spec = Recipe.load("starter").model.to_spec(10)
    assert (spec.architecture, spec.branches, spec.eta) == ("i3d-resnet18", "multi", 2.0)
    assert spec.temporal_lengths == (1, 1, 3, 3, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("eta = 2.0", "eta = 0.5"), r"eta = 0\.5"),
        (("epochs = 7", "epochs = 0"), r"optimisation\.epochs = 0"),
        (("epochs = 7", "epoch = 7"), r"optimisation\.epoch"),
        (("[1, 1, 3, 3, 5]", "[1, 1, 3, 3, 4]"), "t5 is 4"),
        (("[model]", "[model"), "is no TOML"),
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
    with pytest.raises(SpecError, match=r"no recipe 'best'; .* one of: starter"):
        Recipe.load("best")


def test_temporal_lengths_can_be_replaced() -> None:
    recipe = Recipe.load("starter").with_temporal_lengths((1, 1, 1, 1, 1))
    assert recipe.model.to_spec(10).temporal_lengths == (1, 1, 1, 1, 1)
    with pytest.raises(SpecError, match="temporal_lengths"):
        recipe.with_temporal_lengths((1, 3))
