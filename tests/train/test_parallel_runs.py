import os
import time
from functools import partial

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
