"""Training on a GPU: it learns in every precision, and goes on after a break."""

from pathlib import Path

import pytest
import torch

from stdeploy.errors import TrainingError
from stdeploy.train.data.something import read_something
from stdeploy.train.loop import train
from stdeploy.train.processes import Machine
from stdeploy.train.report import Report
from stdeploy.train.synthetic import make_dataset
from tests.train.test_loop import small_recipe
from tests.train.test_resume import losses

pytestmark = pytest.mark.needs_cuda


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=40, validation=10, seed=1)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_broken_run_on_a_gpu_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, precision: str
) -> None:
    data = read_something(folder, "train")
    recipe = small_recipe(epochs=5, warmup_epochs=1.0, precision=precision, workers=2)
    machine = Machine(accelerator="cuda", save_minutes=0.0)

    def break_off(report: Report) -> None:
        if (report.epoch, report.step) == (3, 3):
            raise TrainingError("broken off")

    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    train(recipe, data, tmp_path / "whole" / "a.pt", run=tmp_path / "whole" / "run")
    broken = tmp_path / "broken"
    with pytest.raises(TrainingError, match="broken off"):
        train(
            recipe,
            data,
            broken / "a.pt",
            run=broken / "run",
            machine=machine,
            report=break_off,
        )
    train(recipe, data, broken / "a.pt", run=broken / "run", machine=machine, resume=True)
    whole, resumed = losses(tmp_path / "whole"), losses(broken)
    assert sum(whole[-5:]) < 0.95 * sum(whole[:5])
    # Convolutions of a GPU add up in no fixed order; 1e-6 is for a CPU.
    assert resumed == pytest.approx(whole, rel=0.1)
    assert torch.cuda.max_memory_allocated() > 0
