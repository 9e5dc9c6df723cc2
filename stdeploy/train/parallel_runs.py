"""Runs side by side, each in a process of its own with its share of the processors."""

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Generic, TypeVar, cast

import torch

from stdeploy.errors import StdeployError, TrainingError
from stdeploy.hardware import cpu_count
from stdeploy.video.opencv import limit_threads

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Run(Generic[T]):
    """Something that takes long.

    Attributes:
        name: in messages.
        work: does it and gives its result; both have to be picklable for another process.
    """

    name: str
    work: Callable[[], T]


def run_all(runs: Sequence[Run[T]], *, at_once: int = 1) -> Iterator[T]:
    """The result of every run, in their order, as soon as it and those before are done.

    Small networks leave most of a GPU, and half of two processors, waiting; several runs at once
    use them.

    Args:
        runs: what to do.
        at_once: 1 or more; 1 does them in this process, with all of its processors.

    Raises:
        StdeployError: what a run raised.
        TrainingError: a process has died.
    """
    if at_once == 1:
        yield from (run.work() for run in runs)
        return
    waiting, running = list(enumerate(runs)), dict[Connection, tuple[int, _Process[T]]]()
    results: dict[int, T] = {}
    told = 0
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, run = waiting.pop(0)
                process = _Process(run, at_once)
                running[process.receiver] = number, process
            for receiver in multiprocessing.connection.wait(list(running)):
                number, process = running.pop(cast(Connection, receiver))
                results[number] = process.result()
            while told in results:
                yield results[told]
                told += 1
    finally:
        # If this process was told to stop or a run failed, the others save what they have and end.
        for _, process in running.values():
            process.stop()
        for _, process in running.values():
            process.join()


class _Process(Generic[T]):
    """One run in a process of its own, with its share of the processors.

    Attributes:
        receiver: becomes ready with the outcome, or when the process has died without one.
    """

    def __init__(self, run: Run[T], at_once: int) -> None:
        # A new process, not a fork: this one may hold threads of torch.
        context = multiprocessing.get_context("spawn")
        self._name = run.name
        self.receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(run.work, at_once, sender))
        self._process.start()
        sender.close()

    def result(self) -> T:
        """What the run gave; waits for it.

        Raises:
            StdeployError: what the run raised.
            TrainingError: the process has died.
        """
        try:
            outcome = self.receiver.recv()
        except EOFError as error:
            self.join()
            raise TrainingError(
                f"the run {self._name} has died with status {self._process.exitcode}; the same "
                "command goes on with it"
            ) from error
        self.join()
        if isinstance(outcome, StdeployError):
            raise outcome
        return cast(T, outcome)

    def stop(self) -> None:
        """Ask the run to save its state and end."""
        self._process.terminate()

    def join(self) -> None:
        """Wait for the end of the process."""
        self._process.join()


def _end_with_the_first_process() -> None:
    """Tell this process to stop when the one that started it is gone, killed perhaps."""
    first = multiprocessing.parent_process()
    if first is not None:
        first.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _work(work: Callable[[], object], at_once: int, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the first process decides
    threading.Thread(target=_end_with_the_first_process, daemon=True).start()
    threads = max(1, cpu_count() // at_once)
    torch.set_num_threads(threads)
    limit_threads(threads)
    try:
        sender.send(work())
    except StdeployError as error:
        sender.send(error)
    except OSError as error:  # a disk that is full
        sender.send(TrainingError(str(error)))
