"""Batches come in their order, ahead of time or not; runs go on as they were begun."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.errors import SpecError, TrainingError
from stdeploy.models.checkpoint import load_model
from stdeploy.train.batches import DeviceBatches
from stdeploy.train.clips import Batch, BrokenVideo
from stdeploy.train.processes import Machine, decoders_of
from stdeploy.train.progress import Progress, Report, rate_in_words, report_of
from stdeploy.train.recipe import Recipe
from stdeploy.train.trainer import train
from tests.train.test_trainer import small_recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=24, validation=10, seed=1)
    return folder


def numbered(count: int, seconds: float = 0.0) -> Iterator[Batch | BrokenVideo]:
    for number in range(count):
        time.sleep(seconds)
        yield Batch(torch.full((1, 1, 2, 2, 3), number), torch.tensor([number]), ())


def test_batches_keep_their_order_ahead_of_time() -> None:
    for ahead in (False, True):
        batches = DeviceBatches(numbered(4), CPU, ahead=ahead)
        found = []
        for _ in range(4):
            batch = batches.next()
            assert isinstance(batch, Batch)
            batches.fetch()
            batches.fetch()  # nothing is lost
            found.append(int(batch.labels))
        assert found == [0, 1, 2, 3]
        with pytest.raises(StopIteration):
            batches.next()


def test_waiting_is_measured_once_wherever_it_was() -> None:
    for ahead in (False, True):
        batches = DeviceBatches(numbered(2, seconds=0.05), CPU, ahead=ahead)
        batches.next()
        batches.fetch()
        assert 0.05 <= batches.waited_seconds() < (0.15 if ahead else 0.1)
        assert batches.waited_seconds() == 0.0
        batches.next()
        assert (batches.waited_seconds() >= 0.05) != ahead


def test_a_video_that_cannot_be_read_comes_in_its_turn() -> None:
    broken = BrokenVideo(Path("a.mp4"), "is broken")
    batches = DeviceBatches(iter([*numbered(1), broken]), CPU, ahead=True)
    assert isinstance(batches.next(), Batch)
    batches.fetch()
    assert batches.next() is broken


def test_the_loader_of_torch_pins_whole_batches() -> None:
    """It asks a value for its method, and leaves one without as it is."""
    pinned = []

    class Noted(torch.Tensor):
        def pin_memory(self, *_: object) -> torch.Tensor:  # there is no pinned memory without a GPU
            pinned.append(tuple(self.shape))
            return self

    (batch,) = numbered(1)
    assert isinstance(batch, Batch)
    frames, labels = (part.as_subclass(Noted) for part in (batch.finished, batch.labels))
    torch.utils.data._utils.pin_memory.pin_memory(Batch(frames, labels, ()))
    assert pinned == [(1, 1, 2, 2, 3), (1,)]


def recipe_of(**changes: object) -> Recipe:
    fields = small_recipe(workers=1, **changes).model_dump()
    fields["augmentation"] = {"ego_motion_sigma_px": 2.0, "flip": True, "brightness": 0.2}
    return Recipe.parse(fields)


def run(
    folder: Path, place: Path, recipe: Recipe, *, resume: bool = False, stop_at: int | None = None
) -> dict[str, torch.Tensor]:
    place.mkdir(exist_ok=True)

    def break_off(report: Report) -> None:
        if stop_at is not None and (report.epoch - 1) * report.steps + report.step == stop_at:
            raise TrainingError("broken off")

    train(
        recipe,
        read_something(folder, "train"),
        place / "a.pt",
        run=place / "run",
        validation=read_something(folder, "validation"),
        machine=Machine(accelerator="cpu", save_minutes=0.0),
        resume=resume,
        report=break_off,
    )
    return load_model(place / "a.pt")[0].state_dict()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_run_augmented_on_the_device_has_its_weights_and_goes_on_exactly(
    folder: Path, tmp_path: Path
) -> None:
    usual = run(folder, tmp_path / "cpu", recipe_of())
    log = (tmp_path / "cpu" / "run" / "log.txt").read_text()
    assert " epoch 1: " in log
    assert " of the time waiting for data" in log
    there = recipe_of(augment_on="device")
    assert_same(run(folder, tmp_path / "device", there), usual)  # without saturation and hue
    with pytest.raises(TrainingError, match="broken off"):
        run(folder, tmp_path / "broken", there, stop_at=4)
    with pytest.raises(TrainingError, match=r"augment_on = 'device', not 'cpu'; leave .* out"):
        run(folder, tmp_path / "broken", recipe_of(augment_on="cpu"), resume=True)
    # "auto" is as it was begun, though on a CPU a new run would be augmented there.
    assert_same(run(folder, tmp_path / "broken", recipe_of(), resume=True), usual)


def test_recipes_of_earlier_runs_are_the_same_text() -> None:
    before = (
        '{"epochs":2,"batch_size":8,"accumulate":1,"learning_rate":0.05,'
        '"head_learning_rate_factor":1.0,"warmup_epochs":2.0,"momentum":0.9,"nesterov":true,'
        '"weight_decay":0.0005,"label_smoothing":0.1,"dropout":0.0,"clip_gradient_norm":0.0,'
        '"ema_decay":0.0,"precision":"fp32","sync_batch_norm":false,"deterministic":false,'
        '"seed":0,"workers":0}'
    )
    assert small_recipe().optimisation.model_dump_json() == before
    changed = small_recipe(compile=True, channels_last="no").optimisation.model_dump_json()
    assert '"channels_last":"no","compile":true' in changed


def test_as_many_processes_decode_as_there_are_processors_to_spare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    how, gpu = small_recipe(workers="auto").optimisation, torch.device("cuda")
    for processors, devices, on_gpu, on_cpu in (
        *((2, 1, 1, 1), (8, 1, 7, 2), (16, 1, 15, 4), (64, 1, 16, 16)),
        *((16, 4, 3, 1), (1, 1, 1, 1)),
    ):
        monkeypatch.setattr("stdeploy.train.processes.cpu_count", lambda n=processors: n)
        machine = Machine(devices=devices)
        assert decoders_of(how, machine, gpu) == on_gpu
        assert decoders_of(how, machine, CPU) == on_cpu
    assert decoders_of(small_recipe(workers=0).optimisation, Machine(), gpu) == 0


def test_compiled_networks_cannot_be_promised_to_repeat() -> None:
    with pytest.raises(SpecError, match="deterministic and compile exclude each other"):
        small_recipe(deterministic=True, compile=True)


def test_a_run_that_waits_is_told_what_to_do() -> None:
    how = small_recipe().optimisation
    few = report_of(Progress(step=5, seconds=10.0, wait_seconds=1.0), how, 5)
    much = report_of(Progress(step=5, seconds=10.0, wait_seconds=6.0), how, 5)
    there = {"workers": 1, "processors": 16, "short_side_px": 256}
    assert rate_in_words(few, **there) == "epoch 1: 4 clips/s, 10% of the time waiting for data"
    assert "raise optimisation.workers (now 1, and there are 16" in rate_in_words(much, **there)
    assert "raise" not in rate_in_words(much, **{**there, "workers": 16})
    assert "short side of 256 px" in rate_in_words(much, **{**there, "workers": 16})
