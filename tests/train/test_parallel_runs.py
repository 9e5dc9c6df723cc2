import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from stdeploy.errors import SpecError, TrainingError
from stdeploy.train.parallel_runs import Run, run_all


def number_of(process: int, seconds: float, text: str) -> tuple[bool, str]:
    time.sleep(seconds)
    return os.getpid() == process, text


def refuse() -> tuple[bool, str]:
    raise SpecError("not so")


def die() -> tuple[bool, str]:
    os._exit(7)


def sleeping(seconds: float, text: str) -> Run[tuple[bool, str]]:
    return Run(text, partial(number_of, os.getpid(), seconds, text))


def test_results_come_in_the_order_of_the_runs_from_other_processes() -> None:
    long = "a" * 300_000  # more than a pipe holds
    results = list(run_all([sleeping(1.0, long), sleeping(0.0, "b")], at_once=2))
    assert results == [(False, long), (False, "b")]


def test_one_at_a_time_needs_no_other_process() -> None:
    assert list(run_all([sleeping(0.0, "a")])) == [(True, "a")]


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [(refuse, SpecError, "not so"), (die, TrainingError, r"run x has died with status 7")],
)
def test_a_run_that_fails_ends_the_others(
    work: partial[tuple[bool, str]], error: type[Exception], message: str
) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=message):
        list(run_all([sleeping(600.0, "a"), Run("x", work)], at_once=2))
    assert time.monotonic() - began < 300  # or it waited for the other


def note_and_sleep(path: Path) -> tuple[bool, str]:
    path.write_text(str(os.getpid()))
    time.sleep(600)
    return False, ""


def run_both(folder: Path) -> None:
    list(run_all([Run(n, partial(note_and_sleep, folder / n)) for n in ("a", "b")], at_once=2))


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not (stat.is_file() and ") Z " in stat.read_text())


def test_runs_end_with_a_first_process_that_is_killed(tmp_path: Path) -> None:
    first = multiprocessing.get_context("spawn").Process(target=run_both, args=(tmp_path,))
    first.start()
    files = [tmp_path / "a", tmp_path / "b"]
    while not all(file.is_file() and file.read_text() for file in files):
        time.sleep(0.1)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    numbers = [int(file.read_text()) for file in files]
    deadline = time.monotonic() + 60
    while any(map(lives, numbers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(lives, numbers))
