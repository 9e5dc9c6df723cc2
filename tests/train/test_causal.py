"""Training networks that look back only."""

from pathlib import Path

import pytest
import torch

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.errors import SpecError
from stdeploy.fusion import fuse_checkpoint
from stdeploy.models.checkpoint import load_model, save_checkpoint
from stdeploy.train.determinism import replace_max_pools
from stdeploy.train.initialisation import start
from stdeploy.train.processes import Machine
from stdeploy.train.progress import Report
from stdeploy.train.recipe import Recipe
from stdeploy.train.trainer import train
from tests.helpers.models import card_of, tiny_model
from tests.models.test_causal import laid_out

LABELS = tuple(f"class {number}" for number in range(5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=20, validation=10, seed=1)
    return folder


def small_recipe() -> Recipe:
    settings = ("model.width=0.125", "optimisation.epochs=2", "optimisation.batch_size=8")
    return Recipe.load("starter-causal", [*settings, "optimisation.workers=0"])


class _StoppedError(Exception):
    pass


def test_a_run_that_was_broken_off_goes_on_with_the_same_numbers(
    folder: Path, tmp_path: Path
) -> None:
    data = read_something(folder, "train")
    on_cpu = Machine(accelerator="cpu", save_minutes=0.0)
    torch.set_num_threads(1)  # one sum, one order
    whole = train(small_recipe(), data, tmp_path / "a.pt", run=tmp_path / "a", machine=on_cpu)

    def stop(report: Report) -> None:
        if (report.epoch, report.step) == (2, 1):
            raise _StoppedError

    run = tmp_path / "b"
    with pytest.raises(_StoppedError):
        train(small_recipe(), data, tmp_path / "b.pt", run=run, machine=on_cpu, report=stop)
    train(small_recipe(), data, tmp_path / "b.pt", run=run, machine=on_cpu, resume=True)
    first, second = (load_model(tmp_path / name)[0].state_dict() for name in ("a.pt", "b.pt"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole is not None
    assert whole.model.causal
    fused = read_card(fuse_checkpoint(tmp_path / "a.pt").path)
    assert fused.model.causal


def test_the_recipe_is_that_of_starter_but_for_this() -> None:
    fields = Recipe.load("starter-causal").model_dump()
    assert fields["model"].pop("causal") is True
    assert fields == Recipe.load("starter").model_dump()


def test_cards_of_other_networks_stay_as_they_were() -> None:
    ordinary, causal = (card_of(tiny_model("plain", causal=causal)) for causal in (False, True))
    assert "causal" not in ordinary.to_json()
    assert '"causal":true' in causal.to_json().replace(" ", "")
    assert ModelCard.from_json(causal.to_json(), source="a") == causal
    assert not ModelCard.from_json(ordinary.to_json(), source="a").model.causal


def test_a_checkpoint_passes_it_on(tmp_path: Path) -> None:
    model = tiny_model(causal=True)
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    weights = f"start.weights={tmp_path / 'a.pt'}"
    started = start(Recipe.load("finetune", [weights]), LABELS)
    assert started.model.spec.causal
    assert not started.notes


@pytest.mark.parametrize("causal", [False, True])
def test_weights_of_the_other_kind_are_taken_with_a_note(causal: bool, tmp_path: Path) -> None:
    model = tiny_model(causal=not causal)
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    settings = [f"start.weights={tmp_path / 'a.pt'}", f"model.causal={str(causal).lower()}"]
    started = start(Recipe.load("finetune", settings), LABELS)
    name = "conv5.0.conv1.branches.2.coefficients"
    assert torch.equal(started.model.state_dict()[name], model.state_dict()[name])
    now, before = "look back only", "were centred"
    if not causal:
        now, before = "are centred", "looked back only"
    (note,) = started.notes
    assert note.startswith(f"filters {now} here, as model.causal says, and {before} in a.pt: ")


def test_a_value_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match=r"causal = 'perhaps': true or false is allowed"):
        Recipe.load("starter", ["model.causal=perhaps"])


def test_pools_of_deterministic_runs_look_back_only_too() -> None:
    model = laid_out("resnet3d")
    x = torch.randn(1, 3, 16, 32, 32)
    before = model.forward_features(x)
    replace_max_pools(model)
    assert torch.equal(model.forward_features(x), before)
