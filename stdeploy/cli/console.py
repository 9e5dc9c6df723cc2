"""What the verbs share: results go to standard output, progress and notes to standard error."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)
# Rows go to standard output while a bar is shown: rich is not to take them for the bar's terminal.
_BAR: dict[str, Any] = {
    "transient": True,
    "disable": not err.is_terminal,
    "redirect_stdout": False,
    "redirect_stderr": False,
}

_BEAT_SECONDS = 120.0

_Parameters = ParamSpec("_Parameters")


def note(text: str) -> None:
    """Say something on standard error that is no result."""
    err.print(text, style="dim", soft_wrap=True, markup=False)


def announced(text: str, report: Callable[_Parameters, None]) -> Callable[_Parameters, None]:
    """A report of progress that notes `text` first.

    Work reports only when its input has been checked, so nothing is announced that is refused.
    """
    begun = False

    def update(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        nonlocal begun
        if not begun:
            note(text)
            begun = True
        report(*args, **kwargs)

    return update


def counted(count: int, thing: str) -> str:
    """How many there are, in words.

    >>> counted(1, "video"), counted(2, "video"), counted(2, "class")
    ('1 video', '2 videos', '2 classes')
    """
    several = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{count} {thing if count == 1 else several}"


class Beat:
    """A line every two minutes where no bar can be shown: a log is to tell work from a standstill.

    Args:
        told: whether this process says anything.
    """

    def __init__(self, *, told: bool = True) -> None:
        self._told = told and not err.is_terminal
        self._last = time.monotonic()

    def __call__(self, text: str) -> None:
        """Say how far things are, if it is time."""
        if self._told and time.monotonic() - self._last >= _BEAT_SECONDS:
            note(text)
            self._last = time.monotonic()


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float, float], None]]:
    """A bar on standard error; elsewhere than on a terminal a line now and then.

    Yields:
        A function that takes how much is done and how much there is in all.
    """
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    beat = Beat()
    with Progress(*columns, console=err, **_BAR) as progress:
        task = progress.add_task(what, total=None)

        def update(done: float, total: float) -> None:
            progress.update(task, completed=done, total=total)
            beat(f"{what}: {done / max(total, 1e-9):.0%}")

        yield update


@contextlib.contextmanager
def rate_bar(what: str, things: str) -> Iterator[Callable[[float, float], None]]:
    """A bar with how many there are a second, on standard error; see `progress_bar`.

    Yields:
        A function that takes how much is done and how much there is in all.
    """
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    start, beat = time.monotonic(), Beat()
    with Progress(*columns, console=err, **_BAR) as progress:
        task = progress.add_task(what, total=None, rate="")

        def update(done: float, total: float) -> None:
            rate = done / max(time.monotonic() - start, 1e-3)
            progress.update(task, completed=done, total=total, rate=f"{rate:.1f} {things}/s")
            beat(f"{what}: {done:g} of {total:g}, {rate:.1f} {things}/s")

        yield update


@contextlib.contextmanager
def phase_bars(first: str) -> Iterator[Callable[[str, int, int], None]]:
    """One bar at a time on standard error; see `progress_bar`.

    What is done again from its beginning is numbered: "comparing, round 2". Titles that change
    while one count goes on are titles of one bar.

    Args:
        first: what is being done until more is told.

    Yields:
        A function that takes what is being done, how much of it is done and how much there is.
    """
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # of the line, so that no bar jumps
    columns = (
        SpinnerColumn("line"),
        TextColumn("{task.description}", markup=False, table_column=rest),
        BarColumn(bar_width=16),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, expand=True, **_BAR) as progress:
        progress.add_task(first, total=None)
        (task,) = progress.tasks
        last = (0, 0)
        done_of: dict[str, int] = {}
        rounds = collections.Counter[str]()
        beat = Beat()

        def update(what: str, done: int, total: int) -> None:
            nonlocal last
            if done < last[0] or total != last[1]:
                progress.reset(task.id)
            if done < done_of.get(what, 0):
                rounds[what] += 1
            last, done_of[what] = (done, total), done
            number = f", round {rounds[what] + 1}" if rounds[what] else ""
            # Of one step, and of what follows the last, no share is known: the bar only moves.
            task.total = total if max(done, 1) < total else None
            progress.update(task.id, description=what + number, completed=done)
            beat(f"{what}{number}: {done} of {total}")

        yield update
