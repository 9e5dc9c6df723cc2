"""Deterministic runs: what they switch on and off again, cost and refuse."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from typer.testing import CliRunner

from stdeploy.cli.main import app
from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.errors import TrainingError
from stdeploy.models.checkpoint import load_model
from stdeploy.train.determinism import cost_of_determinism, deterministic_algorithms
from stdeploy.train.processes import Machine
from stdeploy.train.progress import Report
from stdeploy.train.trainer import train
from tests.train.test_resume import losses
from tests.train.test_trainer import small_recipe

COST = re.compile(r"deterministic: a step takes \d+\.\d\d times as long, \S+ s in place of \S+ s")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=24, validation=10, seed=1)
    return folder


def test_what_is_switched_on_is_switched_off_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    inside = contextlib.ExitStack()
    inside.enter_context(deterministic_algorithms())
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(ValueError, match="inside"), inside:
        raise ValueError("inside")
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic_algorithms(wanted=False):
        assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic_algorithms():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_deterministic_run_says_its_cost_and_goes_on_exactly(
    folder: Path, tmp_path: Path
) -> None:
    data = read_something(folder, "train")
    recipe = small_recipe(epochs=2, deterministic=True)
    steps, told = [], list[str]()

    def watch(report: Report) -> None:
        steps.append((torch.are_deterministic_algorithms_enabled(), report.epoch, report.step))
        if (tmp_path / "broken" / "run").exists() and steps[-1] == (True, 2, 1):
            raise TrainingError("broken off")

    machine = Machine(accelerator="cpu", save_minutes=0.0)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()

    def run(name: str, *, resume: bool = False, report: bool = True) -> None:
        place = tmp_path / name
        train(
            recipe,
            data,
            place / "a.pt",
            run=place / "run",
            machine=machine,
            resume=resume,
            tell=told.append,
            report=watch if report else lambda _: None,
        )

    run("whole")
    assert steps == [(True, epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]
    assert not torch.are_deterministic_algorithms_enabled()
    assert len(told) == 1
    assert COST.fullmatch(told[0])
    assert told[0] in (tmp_path / "whole" / "run" / "log.txt").read_text()
    with pytest.raises(TrainingError, match="broken off"):
        run("broken")
    assert not torch.are_deterministic_algorithms_enabled()
    run("broken", resume=True, report=False)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    whole, broken = (load_model(tmp_path / n / "a.pt")[0].state_dict() for n in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_deterministic_run_is_not_resumed_as_another(folder: Path, tmp_path: Path) -> None:
    data = read_something(folder, "train")
    train(small_recipe(epochs=1), data, tmp_path / "a.pt", run=tmp_path / "run")
    other = r"another recipe \(optimisation\.deterministic was false, is true\)"
    with pytest.raises(TrainingError, match=other):
        train(
            small_recipe(epochs=1, deterministic=True),
            data,
            tmp_path / "a.pt",
            run=tmp_path / "run",
            resume=True,
        )


def test_the_command_takes_it_and_says_the_cost(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["model.width=0.125", "optimisation.epochs=1", "optimisation.workers=0"]
    command = ["train", "--data", str(folder), "--deterministic", "--accelerator", "cpu"]
    result = CliRunner().invoke(app, [*command, *(p for s in settings for p in ("--set", s))])
    assert result.exit_code == 0, result.output
    assert COST.search(" ".join(result.stderr.split()))


class _Refused(nn.Module):
    """As torch refuses on a GPU what it computes in any order there."""

    def forward(self, _frames: Tensor) -> Tensor:
        raise RuntimeError(
            "avg_pool3d_backward_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for"
        )


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with deterministic_algorithms():
        yield Fabric(accelerator="cpu", devices=1)


def test_a_network_that_cannot_be_is_refused_with_the_operation(fabric: Fabric) -> None:
    message = (
        "this network cannot be trained deterministically on cpu: avg_pool3d_backward_cuda does "
        "not have a deterministic implementation; leave --deterministic out, or train on a CPU"
    )
    with pytest.raises(TrainingError) as caught:
        cost_of_determinism(fabric, _Refused(), (1, 2, 4, 4, 3))
    assert str(caught.value) == message
