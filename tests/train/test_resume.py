"""A run that is killed goes on as if it had not been; a run on two processes is that on one."""

import csv
import json
import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from stdeploy.cli.main import app
from stdeploy.datasets.csv_list import read_list, write_list
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.errors import ArtifactError, TrainingError
from stdeploy.models.checkpoint import load_model
from stdeploy.train.processes import InterruptedRunError, Machine
from stdeploy.train.progress import Report, RunState
from stdeploy.train.recipe import Recipe
from stdeploy.train.trainer import train
from tests.train.test_trainer import first_gradients, small_recipe, with_start

pytestmark = pytest.mark.slow

KILLS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=40, validation=10, seed=1)
    return folder


def recipe(workers: int = 0) -> Recipe:
    fields = small_recipe(epochs=4, dropout=0.5, ema_decay=0.9, workers=workers).model_dump()
    fields["augmentation"] = {"frame_strides": (1, 2), "videomix_alpha": 1.0, "brightness": 0.2}
    return Recipe.parse(fields)


def run_once(
    folder: Path,
    place: Path,
    resume: bool,
    *,
    workers: int = 0,
    begin: Callable[[int], None] = lambda _: None,
    report: Callable[[Report], None] = lambda _: None,
) -> None:
    torch.set_num_threads(1)  # one sum, one order
    train(
        recipe(workers),
        read_something(folder, "train"),
        place / "a.pt",
        run=place / "run",
        validation=read_something(folder, "validation"),
        machine=Machine(accelerator="cpu", save_minutes=0.0),
        resume=resume,
        begin=begin,
        report=report,
    )


def losses(place: Path) -> list[float]:
    rows = csv.DictReader((place / "run" / "losses.csv").read_text().splitlines())
    return [float(row["loss"]) for row in rows]


def test_a_run_killed_at_random_times_gives_the_numbers_of_an_unbroken_one(
    folder: Path, tmp_path: Path
) -> None:
    # A server that has everything imported, and no threads yet, forks a process for each try.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["stdeploy.train.trainer", "stdeploy.datasets.something_something"]
    )
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = context.Process(target=run_once, args=(folder, tmp_path / "whole", False))
    start = time.monotonic()
    whole.start()
    whole.join()
    seconds = time.monotonic() - start
    assert whole.exitcode == 0
    chance, kills, place = random.Random(0), 0, tmp_path / "broken"
    while kills < KILLS:
        state = place / "run" / "last.state"
        process = context.Process(target=run_once, args=(folder, place, state.is_file()))
        process.start()
        # Enough to come a few steps further, at most.
        process.join(timeout=chance.uniform(0.05, 0.25) * seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        else:
            assert process.exitcode == 0
            if kills < KILLS:  # done before all the kills: from the beginning again
                compare(tmp_path)
                for path in [*(place / "run").iterdir()]:
                    path.unlink()
        if state.is_file():
            assert RunState.load(state).progress.epoch <= 4
        for name in ("a.pt", "run/best.pt"):
            if (place / name).is_file():
                load_model(place / name)  # never half of one
    last = context.Process(
        target=run_once, args=(folder, place, (place / "run" / "last.state").is_file())
    )
    last.start()
    last.join()
    assert last.exitcode == 0
    compare(tmp_path)
    assert not list((place / "run").glob(".writing-*"))  # what kills had left is cleared away


def compare(folder: Path) -> None:
    whole, broken = losses(folder / "whole"), losses(folder / "broken")
    assert len(whole) == len(broken) == 20
    assert broken == pytest.approx(whole, rel=0, abs=1e-6)
    first, second = (load_model(folder / n / "a.pt")[0].state_dict() for n in ("whole", "broken"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-6)
    metrics = [(folder / n / "run" / "metrics.csv").read_text() for n in ("whole", "broken")]
    kept = [[line.split(",")[:5] for line in text.splitlines()] for text in metrics]
    assert kept[0] == kept[1]


def test_a_signal_while_an_epoch_is_validated_stops_before_the_next_batch(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    run_once(folder, tmp_path / "whole", False)
    broken, begun, seen = tmp_path / "broken", list[int](), list[tuple[str, int, int]]()

    def until(phase: str, epoch: int, videos: int, number: signal.Signals) -> None:
        def report(report: Report) -> None:
            seen.append((report.phase, report.epoch, report.seen))
            if seen[-1] == (phase, epoch, videos):
                signal.raise_signal(number)

        seen.clear()
        resume = (broken / "run").is_dir()
        run_once(folder, broken, resume, workers=1, begin=begun.append, report=report)

    message = (
        "stopped while epoch 2 was validated, state saved; the same command with --resume goes on"
    )
    with pytest.raises(InterruptedRunError, match=message) as caught:
        until("validating", 2, 0, signal.SIGINT)
    assert caught.value.exit_status == 130
    assert seen[-1] == ("validating", 2, 0)
    with pytest.raises(InterruptedRunError, match="while epoch 4 was validated") as caught:
        until("validating", 4, 8, signal.SIGTERM)
    assert caught.value.exit_status == 143
    assert seen[:2] == [("validating", 2, 0), ("validating", 2, 8)]  # again, and no step before
    assert seen[-1] == ("validating", 4, 8)
    assert multiprocessing.active_children() == []  # those that decode
    with pytest.raises(InterruptedRunError, match="stopped after epoch 4, state saved"):
        until("finished", 4, 10, signal.SIGINT)
    assert not (broken / "a.pt").exists()
    run_once(folder, broken, True, begin=begun.append)
    assert begun == [0, 1, 3, 4]
    compare(tmp_path)


def test_an_interruption_comes_whole_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(InterruptedRunError("stopped", signal.SIGINT)))
    assert (str(error), error.exit_status) == ("stopped", 130)


TWO_PROCESSES = """
import dataclasses, os, signal
from pathlib import Path
from stdeploy.datasets.something_something import read_something
from stdeploy.train.trainer import train
from stdeploy.train.processes import InterruptedRunError, Machine
from tests.train.test_resume import recipe

data = read_something(Path("set"), "train")
held_out = read_something(Path("set"), "validation")
# Batches of four in each process: two in the first, one in the second.
held_out = dataclasses.replace(held_out, samples=held_out.samples[:9])

def run(name, resume=False, report=lambda _: None):
    where = Path(name)
    where.mkdir(exist_ok=True)
    train(recipe(), data, where / "a.pt", run=where / "run", validation=held_out,
          machine=Machine(accelerator="cpu"), resume=resume, report=report)

def stop_one(report):
    if (report.phase, report.epoch, report.seen) == ("validating", 2, 8):
        signal.raise_signal(signal.SIGINT)

run("whole")
try:
    run("broken", report=stop_one)
except InterruptedRunError as error:
    Path("said" + os.environ["RANK"]).write_text(f"{error.exit_status} {error}")
run("broken", resume=True)
"""


def test_two_processes_stop_before_the_same_batch_of_validation(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "set").symlink_to(folder)
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "script.py"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said = (
        "stopped while epoch 2 was validated, state saved; the same command with --resume goes on"
    )
    assert (tmp_path / "said0").read_text() == f"130 {said}"  # only it was told, by Ctrl-C
    assert (tmp_path / "said1").read_text() == f"143 {said}"
    compare(tmp_path)


def test_another_recipe_or_no_run_is_refused(folder: Path, tmp_path: Path) -> None:
    data = read_something(folder, "train")
    with pytest.raises(TrainingError, match=r"run' does not exist, so there is nothing"):
        train(small_recipe(), data, tmp_path / "a.pt", run=tmp_path / "run", resume=True)
    (tmp_path / "killed").mkdir()
    with pytest.raises(TrainingError, match=r"killed' was stopped before its first save, so"):
        train(small_recipe(), data, tmp_path / "a.pt", run=tmp_path / "killed", resume=True)
    train(small_recipe(epochs=1), data, tmp_path / "a.pt", run=tmp_path / "run")
    changed = r"a run with another recipe \(optimisation\.epochs was 1, is 2\); a run is resumed"
    with pytest.raises(TrainingError, match=changed):
        train(small_recipe(epochs=2), data, tmp_path / "a.pt", run=tmp_path / "run", resume=True)
    (tmp_path / "run" / "recipe.json").write_text("{")  # what changed cannot be known
    with pytest.raises(TrainingError, match="a run with another recipe, other videos, other"):
        train(small_recipe(epochs=2), data, tmp_path / "a.pt", run=tmp_path / "run", resume=True)
    (tmp_path / "run" / "recipe.json").write_text(small_recipe(epochs=1).model_dump_json())
    with pytest.raises(TrainingError, match="a run with other videos, other labels or another"):
        train(
            small_recipe(epochs=1),
            data,
            tmp_path / "a.pt",
            run=tmp_path / "run",
            validation=read_something(folder, "validation"),
            resume=True,
        )
    other_host = small_recipe(epochs=1, workers=1)
    train(other_host, data, tmp_path / "a.pt", run=tmp_path / "run", resume=True)
    (tmp_path / "run" / "last.state").write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match="is no state of a run, or damaged"):
        train(small_recipe(epochs=1), data, tmp_path / "a.pt", run=tmp_path / "run", resume=True)


def test_resume_goes_on_with_the_newest_run_that_has_a_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused() -> str:
        arguments = ["train", "--data", str(folder), "--set", "optimisation.batch_size=16"]
        return str(CliRunner().invoke(app, [*arguments, "--resume"]).exception)

    assert re.match(r"'runs/starter' does not exist, so there is nothing to resume", refused())
    other = tmp_path / "runs" / "my videos"
    other.mkdir(parents=True)
    (other / "last.state").touch()
    assert refused().endswith(
        "'runs/my videos' can go on, with the settings that it was begun with"
    )
    begun = ["/usr/bin/stdeploy", "train", "--data", "my videos", "-o", "my videos.pt"]
    (other / "environment.json").write_text(json.dumps({"command": begun}))
    command = "`stdeploy train --data 'my videos' -o 'my videos.pt' --resume`"
    assert refused().endswith(f"; 'runs/my videos' can go on: {command}")
    for name in ("starter", "starter-2", "starter-3"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert re.match(r"'runs/starter-3' was stopped before its first save, so", refused())
    for name in ("starter", "starter-2"):
        (tmp_path / "runs" / name / "last.state").write_bytes(b"damaged")
    assert re.match(r"'runs/starter-2/last\.state' is no state of a run, or damaged", refused())


@pytest.mark.parametrize(
    ("number", "batch_size"),
    [
        (signal.SIGTERM, 16),
        (signal.SIGTERM, 40),  # makes epochs of one step
        (signal.SIGINT, 16),  # a terminal sends it to all processes, too
    ],
)
def test_a_signal_to_all_processes_saves_and_exits(
    folder: Path, tmp_path: Path, number: signal.Signals, batch_size: int
) -> None:
    settings = [
        *("model.width=0.125", "optimisation.epochs=500", "optimisation.workers=1"),
        f"optimisation.batch_size={batch_size}",
    ]
    command = [sys.executable, "-m", "stdeploy", "train", "--data", str(folder)]
    command += [part for setting in settings for part in ("--set", setting)]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    losses_file = tmp_path / "runs" / "starter" / "losses.csv"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if losses_file.is_file() and len(losses_file.read_text().splitlines()) > 3:
            break
        time.sleep(0.05)
    start = time.monotonic()
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 25  # the processes that decode were not waited for
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert "state saved; the same command with --resume goes on" in errors.splitlines()[-1]
    log = (tmp_path / "runs" / "starter" / "log.txt").read_text().splitlines()
    assert re.search(
        r" stopped (in epoch \d+ after step \d+ of \d|after epoch|while epoch)", log[-1]
    )
    state = RunState.load(tmp_path / "runs" / "starter" / "last.state")
    done = state.progress.epoch * (40 // batch_size) + state.progress.step
    assert done == len(losses_file.read_text().splitlines()) - 1


def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(
    folder: Path, tmp_path: Path
) -> None:
    data = read_something(folder, "train")
    one_step = LabelledVideos(data.labels, data.samples[:8])
    write_list(tmp_path / "eight.csv", one_step)
    # Norms of a batch would see other clips in half of it.
    alone = with_start(small_recipe(epochs=1), freeze_norms=True)
    settings = [
        *("model.width=0.125", "optimisation.epochs=1", "optimisation.batch_size=8"),
        *("optimisation.workers=0", "start.freeze_norms=true"),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "stdeploy", "train", "--data", "eight.csv"]
    command += ["--accelerator", "cpu"]
    command += [part for setting in settings for part in ("--set", setting)]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("epoch 1/1") == 1  # the first process speaks for all
    train(alone, read_list(tmp_path / "eight.csv"), tmp_path / "one.pt", run=tmp_path / "one")
    both = [first_gradients(tmp_path / run) for run in ("one", "runs/starter")]
    assert len(both[0]) > 20
    for whole, shared in zip(*both, strict=True):
        assert (whole - shared).abs().max() <= 1e-5 * max(1e-3, whole.abs().max())


def test_a_full_disk_is_one_line_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    settings = ["model.width=0.125", "optimisation.epochs=2", "optimisation.workers=0"]
    command = [sys.executable, "-m", "stdeploy", "train", "--data", str(folder)]
    command += [part for setting in settings for part in ("--set", setting)]
    # No file may grow beyond this: the state is larger, everything else is smaller.
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000));"
        f"sys.argv = {command[2:]!r}; from stdeploy.cli.main import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", limited],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert re.match(r"stdeploy: cannot write .*; free some space", result.stderr.splitlines()[-1])
    assert "Traceback" not in result.stderr
    left = {path.name for path in (tmp_path / "runs" / "starter").iterdir()}
    assert not [name for name in left if name.startswith(".writing") or name.endswith(".state")]
