"""What `stdeploy train` says, in a process of its own."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stdeploy.cli.train import bar_texts, epoch_line
from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.train.progress import Progress, report_of
from stdeploy.train.recipe import Recipe
from stdeploy.train.validation import Accuracy
from tests.helpers.program import stdeploy

SETTINGS = (
    *("model.width=0.125", "model.branches=single", "optimisation.workers=0"),
    *("optimisation.batch_size=8", "optimisation.epochs=2"),
)
TRAIN = ("train", "--data", "lists", *(f"--set={setting}" for setting in SETTINGS))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder after a run, and what that said: a result, and notes."""
    folder = tmp_path_factory.mktemp("finished")
    make_dataset(folder / "set", train=20, validation=10, seed=1)
    names = ["fight"] * 8 + ["fihgt"] * 2 + ["walking"] * 5 + ["talking"] * 5
    (folder / "lists").mkdir()
    for split, labels in (("train", names), ("validation", ["fight", "walking"] * 4)):
        samples = read_something(folder / "set", split).samples
        videos = [samples[number % len(samples)].video for number in range(len(labels))]
        rows = [f"{video},{label}" for video, label in zip(videos, labels, strict=True)]
        (folder / "lists" / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
    result = stdeploy(*TRAIN, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout, result.stderr


def test_a_run_says_what_is_doubtful_then_a_line_an_epoch(
    finished: tuple[Path, str, str],
) -> None:
    _, result, notes = finished
    first, unmeasured, alike, *epochs = notes.splitlines()
    if re.match(r"it is the last epoch's; after epoch 1 validation was \d+\.\d%, not", epochs[-1]):
        assert epochs.pop().endswith(": runs/starter/best.pt")
    assert first == "logs, curves and state: runs/starter"
    assert unmeasured == (
        "no validation video of 'fihgt' (nor of 1 more class): those classes are not measured"
    )
    assert alike == "'fight' and 'fihgt' may be one class; run stdeploy data check lists"
    assert len(epochs) == 2
    for number, line in enumerate(epochs, start=1):
        assert re.fullmatch(
            rf"epoch {number}/2  loss \d\.\d{{3}}  training accuracy \d+\.\d%  "
            r"validation \d+\.\d%  \d+\.\d clips/s, \d+% of the time waiting for data",
            line,
        )
    assert result.startswith("starter.pt: top-1 ")


def test_a_finished_run_says_so_and_what_was_measured(finished: tuple[Path, str, str]) -> None:
    folder, result, _ = finished
    kept = folder / "runs/starter/evaluation.json"
    record = json.loads(kept.read_text())
    said, *classes = result.splitlines()
    assert said == f"starter.pt: {record['summary']}"
    # Few classes are told one by one, the lowest first, as evaluate --per-class does.
    measured = {label: rate for label, rate in record["classes"].items() if rate is not None}
    assert sorted(classes) == sorted(f"  {r:6.1%}  {label}" for label, r in measured.items())
    assert classes == sorted(classes)
    kept.write_text(json.dumps(record | {"summary": "as it was"}))
    known = stdeploy(*TRAIN, "--resume", cwd=folder)
    assert known.stdout.splitlines() == ["starter.pt: as it was", *classes]
    assert "written again from it; to train longer" in known.stderr
    kept.unlink()
    (folder / "starter.pt").unlink()
    again = stdeploy(*TRAIN, "--resume", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout == result
    assert (folder / "starter.pt").is_file()
    assert again.stderr.splitlines()[0] == (
        "the run in runs/starter is finished already, after 2 epochs; starter.pt is written again "
        "from it and measured; to train longer, begin a new run, without --resume and with more "
        "optimisation.epochs"
    )
    longer = stdeploy(*TRAIN, "--set", "optimisation.epochs=3", "--resume", cwd=folder)
    assert longer.returncode == 2
    (line,) = longer.stderr.splitlines()
    assert (
        "'runs/starter' holds a run with another recipe (optimisation.epochs was 2, is 3)" in line
    )


def test_files_are_named_after_the_recipe_and_temporal_lengths(tmp_path: Path) -> None:
    lengths = "--temporal-lengths=1,1,3,3,5"
    sizes = (f"--set=synthetic.{split}_videos=10" for split in ("train", "validation"))
    batch = ("--set=optimisation.batch_size=11", *sizes)  # more than there are: nothing is trained
    (tmp_path / "starter-1-1-3-3-5.pt").mkdir()
    taken = stdeploy("train", lengths, *batch, cwd=tmp_path)
    assert "cannot write 'starter-1-1-3-3-5.pt': it is a folder" in taken.stderr
    named = stdeploy("train", lengths, *batch, "-o", "a.pt", cwd=tmp_path)
    assert named.stderr.splitlines()[0] == "10 + 10 synthetic videos in starter-data"
    assert "10 training videos make no batch of 11" in named.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"starter-1-1-3-3-5.pt", "starter-data"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_measuring_says_what_is_there(
    finished: tuple[Path, str, str], tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    curve = folder / "runs" / "starter" / "curve.png"
    curve.unlink()
    (folder / "runs" / "starter" / "evaluation.json").unlink()
    process = subprocess.Popen(
        [sys.executable, "-m", "stdeploy", *TRAIN, "--resume"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not curve.is_file() and time.monotonic() < deadline:  # the last thing before measuring
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(number)
    result, notes = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert result == ""
    assert notes.splitlines()[-1] == (
        "starter.pt is written, but not measured; the same command with --resume measures it"
    )


def test_the_bar_says_what_is_being_done() -> None:
    how = Recipe.load("starter").optimisation
    progress = Progress(step=5, loss_sum=10.0, right=20, seconds=2.0, wait_seconds=0.5)
    assert bar_texts(report_of(progress, how, 6, to_validate=36)) == (
        "epoch 1/7 loss 2.000",
        "40.0 clips/s, 25% waiting for data",
    )
    assert bar_texts(report_of(progress, how, 5, seen=16, to_validate=36)) == (
        "epoch 1/7 validating",
        "16 of 36 videos",
    )
    assert bar_texts(report_of(progress, how, 5, seen=36, to_validate=36))[0].endswith("2.000")


def test_an_epoch_names_what_could_not_be_read() -> None:
    how = Recipe.load("starter").optimisation
    progress = Progress(step=5, seconds=2.0, broken={"a.mp4": "is empty", "b.mp4": "is empty"})
    accuracy = Accuracy(35, 0.5, None, {"c.mp4": "is empty"})
    report = report_of(progress, how, 5, seen=36, to_validate=36, validation=accuracy)
    assert epoch_line(report, Path("runs/a/log.txt")).endswith(
        "2 broken videos replaced (a.mp4, ...), 1 validation video unreadable (c.mp4), "
        "see runs/a/log.txt"
    )


@pytest.mark.parametrize(
    ("readable", "said"),
    [
        (1, r"exit status 1: 2 validation videos could not be read; bad\.pt is whole$"),
        (
            0,
            r"none of the 2 videos could be read; .*; bad\.pt is whole, but not measured \(exit",
        ),
    ],
)
def test_unreadable_validation_videos_leave_the_checkpoint_whole_and_the_status_is_told(
    finished: tuple[Path, str, str], tmp_path: Path, readable: int, said: str
) -> None:
    lists = finished[0] / "lists"
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    whole = (lists / "validation.csv").read_text().splitlines()[1 : 1 + readable]
    rows = ["path,label", "a.mp4,fight", "b.mp4,walking", *whole]
    (tmp_path / "bad.csv").write_text("\n".join(rows))
    settings = ("--set=optimisation.epochs=1", "--data", lists, "--validation", "bad.csv")
    result = stdeploy(*TRAIN, *settings, "-o", "bad.pt", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert re.search(said, result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    shown = stdeploy("card", "bad.pt", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
