"""Training on a GPU: it learns in every precision, and deterministic runs go on exactly."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.errors import TrainingError
from stdeploy.models.checkpoint import load_model
from stdeploy.train.augment import Augmentation, Draw
from stdeploy.train.batches import DeviceBatches
from stdeploy.train.clips import Batch
from stdeploy.train.determinism import deterministic_algorithms
from stdeploy.train.device_augment import UncutClips
from stdeploy.train.processes import Machine
from stdeploy.train.progress import Report
from stdeploy.train.recipe import Recipe
from stdeploy.train.trainer import train
from tests.gpu.conftest import REHEARSAL, Gpu
from tests.train import test_compiled_training as compiled
from tests.train.test_device_augment import CLIP, COLOURS, SIZES, SPATIAL, scene, uncut
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


def clips_of(augmentation: Augmentation, seed: int = 0) -> UncutClips:
    rng = np.random.default_rng(seed)
    return UncutClips.of([uncut(scene(*s), Draw.of(augmentation, CLIP, rng)) for s in SIZES])


@pytest.mark.parametrize("deterministic", [False, True])
def test_clips_that_a_gpu_augments_are_those_of_the_cpu(gpu: Gpu, deterministic: bool) -> None:
    table = {"brightness": 0.4, "contrast": 0.4}
    for changes, most, share in (
        *(({}, 0, 0.0), (table, 0, 0.0), ({"hue": 0.5}, 1, 1e-3), (COLOURS, 1, 1e-3)),
        ({**COLOURS, "hue": 0.5}, 6, 1e-2),
    ):
        clips = clips_of(SPATIAL.model_copy(update=changes))
        expected = clips.finished().int()
        with deterministic_algorithms(deterministic):
            found = clips.to(torch.device(gpu.device)).finished().cpu().int()
        difference = (found - expected).abs()
        assert difference.max() <= most, changes
        assert (difference > 0).double().mean() <= share, changes


def test_batches_are_whole_when_they_are_fetched_ahead(gpu: Gpu) -> None:
    device = torch.device(gpu.device)
    made = [
        Batch(clips_of(SPATIAL, number), torch.full((len(SIZES),), number), ())
        for number in range(8)
    ]
    expected = [batch.on(torch.device("cpu")).finished for batch in made]
    if not REHEARSAL:
        made = [batch.pin_memory() for batch in made]
        assert all(part.is_pinned() for batch in made for part in (batch.labels, pixels_of(batch)))
    batches = DeviceBatches(iter(made), device, ahead=True)
    matrix = torch.rand(512 if REHEARSAL else 4096, 512 if REHEARSAL else 4096, device=device)
    for number, frames in enumerate(expected):
        batch = batches.next()
        assert isinstance(batch, Batch)
        for _ in range(3):
            matrix = (matrix @ matrix).tanh()  # the device has work of its own meanwhile
        batches.fetch()
        assert torch.equal(batch.finished.cpu(), frames), number
        assert batch.labels.tolist() == [number] * len(SIZES)
        del batch  # its memory may be given away now
    assert batches.waited_seconds() >= 0.0


def pixels_of(batch: Batch) -> torch.Tensor:
    assert isinstance(batch.frames, UncutClips)
    return batch.frames.pixels


@pytest.mark.parametrize("layout", ["yes", "no"])
def test_the_layout_in_memory_decides_about_rounding_alone(
    folder: Path, tmp_path: Path, gpu: Gpu, layout: str
) -> None:
    recipes = [recipe_of("fp32", gpu, epochs=1, channels_last=how) for how in ("auto", layout)]
    one, other = (
        run(folder, tmp_path / str(number), recipe, gpu) for number, recipe in enumerate(recipes)
    )
    assert other[0] == pytest.approx(one[0], rel=1e-2)
    assert other == pytest.approx(one, rel=0.2)


def test_compiled_training_is_near_training_without(folder: Path, tmp_path: Path, gpu: Gpu) -> None:
    expected, found = (
        compiled.run(
            folder, tmp_path / str(how), compiled.plain_recipe(compile=how, epochs=1), gpu.device
        )[0]
        for how in (False, True)
    )
    assert found == pytest.approx(expected, rel=2e-2)
