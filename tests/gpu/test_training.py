"""Training on a GPU: it learns in every precision, and deterministic runs go on exactly."""

import math
from collections.abc import Callable
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
from tests.gpu.conftest import REHEARSAL, Gpu
from tests.train.test_resume import losses
from tests.train.test_trainer import small_recipe

pytestmark = pytest.mark.needs_cuda
PRECISIONS = ["fp32", "bf16", "fp16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=40, validation=10, seed=1)
    return folder


def recipe_of(precision: str, gpu: Gpu, **changes: object) -> Recipe:
    how = {"warmup_epochs": 1.0, "precision": gpu.precision(precision), "workers": 2}
    return small_recipe(**how, **changes)


def run(
    folder: Path,
    place: Path,
    recipe: Recipe,
    gpu: Gpu,
    *,
    resume: bool = False,
    report: Callable[[Report], None] = lambda _: None,
) -> list[float]:
    place.mkdir(exist_ok=True)
    train(
        recipe,
        read_something(folder, "train"),
        place / "a.pt",
        run=place / "run",
        machine=Machine(accelerator=gpu.device, save_minutes=0.0),
        resume=resume,
        report=report,
    )
    return losses(place)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_learns_on_a_gpu(folder: Path, tmp_path: Path, gpu: Gpu, precision: str) -> None:
    epochs = 1 if REHEARSAL else 5
    found = run(folder, tmp_path, recipe_of(precision, gpu, epochs=epochs), gpu)
    assert len(found) == 5 * epochs
    assert all(map(math.isfinite, found))
    if not REHEARSAL:
        assert sum(found[-5:]) < 0.95 * sum(found[:5])
        assert torch.cuda.max_memory_allocated() > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_deterministic_run_gives_its_numbers_again_and_goes_on_to_them(
    folder: Path, tmp_path: Path, gpu: Gpu, precision: str
) -> None:
    recipe = recipe_of(precision, gpu, deterministic=True, epochs=2, ema_decay=0.9)
    whole = run(folder, tmp_path / "whole", recipe, gpu)
    assert run(folder, tmp_path / "again", recipe, gpu) == whole

    def break_off(report: Report) -> None:
        if (report.epoch, report.step) == (2, 3):
            raise TrainingError("broken off")

    with pytest.raises(TrainingError, match="broken off"):
        run(folder, tmp_path / "broken", recipe, gpu, report=break_off)
    assert run(folder, tmp_path / "broken", recipe, gpu, resume=True) == whole
    tensors = [load_model(tmp_path / n / "a.pt")[0].state_dict() for n in ("whole", "broken")]
    assert [n for n, one in tensors[0].items() if not torch.equal(one, tensors[1][n])] == []
