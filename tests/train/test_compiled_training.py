"""What torch compiles trains as what it does not, and its runs go on."""

from pathlib import Path

import pytest
import torch

from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.errors import TrainingError
from stdeploy.models.checkpoint import load_model
from stdeploy.train.processes import Machine
from stdeploy.train.progress import Report
from stdeploy.train.recipe import Recipe
from stdeploy.train.trainer import train
from tests.train.test_resume import losses
from tests.train.test_trainer import small_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=16, validation=10, seed=1)
    return folder


def plain_recipe(**changes: object) -> Recipe:
    """The smallest network with branches of several lengths."""
    how = {"batch_size": 4, "learning_rate": 1e-3, "epochs": 2, **changes}
    fields = small_recipe(**how).model_dump()
    fields["model"] |= {"architecture": "plain", "temporal_lengths": (1, 1, 1, 1, 3)}
    return Recipe.parse(fields)


def run(
    folder: Path,
    place: Path,
    recipe: Recipe,
    device: str = "cpu",
    *,
    resume: bool = False,
    stop_at: int | None = None,
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all steps, and weights."""
    place.mkdir(exist_ok=True)

    def break_off(report: Report) -> None:
        if stop_at is not None and (report.epoch - 1) * report.steps + report.step == stop_at:
            raise TrainingError("broken off")

    train(
        recipe,
        read_something(folder, "train"),
        place / "a.pt",
        run=place / "run",
        machine=Machine(accelerator="cuda" if device == "cuda" else "cpu", save_minutes=0.0),
        resume=resume,
        report=break_off,
    )
    return losses(place), load_model(place / "a.pt")[0].state_dict()


def test_compiled_training_is_training_and_goes_on(folder: Path, tmp_path: Path) -> None:
    expected, weights = run(folder, tmp_path / "eager", plain_recipe())
    with pytest.raises(TrainingError, match="broken off"):
        run(folder, tmp_path / "compiled", plain_recipe(compile=True), stop_at=6)
    found, compiled = run(folder, tmp_path / "compiled", plain_recipe(compile=True), resume=True)
    assert found == pytest.approx(expected, rel=1e-4)
    assert compiled.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(compiled[name], weight, rtol=1e-3, atol=1e-4)
