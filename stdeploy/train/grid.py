"""The runs of a grid: each is trained, measured and kept once, one or several at a time."""

import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import torch

from stdeploy.artifacts.files import whole_file
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.errors import SpecError, StdeployError, TrainingError
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.inference.evaluation import evaluate
from stdeploy.train.processes import Machine
from stdeploy.train.recipe import Recipe
from stdeploy.train.run_directory import STATE
from stdeploy.train.trainer import train
from stdeploy.video.opencv import limit_threads

RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a grid.

    Attributes:
        recipe: all of its settings, the seed too.
        folder: what the run leaves, its checkpoint and its result.
    """

    recipe: Recipe
    folder: Path


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all runs of a grid have in common.

    Attributes:
        training: videos to train on.
        held_out: videos that the results are measured on.
        machine: devices of each run.
        views: clips averaged per video; None for as many as the recipe says.
    """

    training: LabelledVideos
    held_out: LabelledVideos
    machine: Machine
    views: int | None = None


def run(job: Job, setting: Setting) -> float:
    """Top-1 of one run, which is not made again if it is there and is gone on with if begun.

    Raises:
        SpecError: the folder holds the result of another recipe or of other videos.
    """
    done = job.folder / RESULT
    made_from = {
        "recipe": json.loads(job.recipe.model_dump_json()),
        "views": setting.views,
        "training": setting.training.digest(),
        "held_out": setting.held_out.digest(),
    }
    if done.is_file():
        content = json.loads(done.read_text())
        if any(content.get(name) != value for name, value in made_from.items()):
            raise SpecError(
                f"{str(job.folder)!r} holds a run with other settings or other videos; give "
                "another --output"
            )
        return float(content["top1"])
    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = job.folder / "last.pt"
    state = job.folder / STATE
    train(
        job.recipe,
        setting.training,
        checkpoint,
        run=job.folder,
        machine=setting.machine,
        resume=state.is_file(),
    )
    with Classifier.open(checkpoint, options=ClassifyOptions(views=setting.views)) as classifier:
        top1 = evaluate(classifier, setting.held_out).top1
    with whole_file(done) as temporary:
        temporary.write_text(json.dumps({"top1": top1, **made_from}) + "\n")
    state.unlink()  # twice the size of the network, and of no use any more
    return top1


def run_all(jobs: Sequence[Job], setting: Setting, *, at_once: int = 1) -> Iterator[float]:
    """Top-1 of every run, in the order of the jobs, as soon as it and those before are done.

    Small networks leave most of a GPU, and half of two processors, waiting; several runs at once,
    each in a process of its own with its share of the processors, use them.

    Args:
        jobs: the runs.
        setting: of all of them.
        at_once: 1 or more.

    Raises:
        SpecError: a folder holds the result of another recipe.
        TrainingError: a run has failed, or its process has died.
    """
    if at_once == 1:
        yield from (run(job, setting) for job in jobs)
        return
    waiting, running = list(enumerate(jobs)), dict[int, tuple[int, _Process]]()
    results: dict[int, float] = {}
    told = 0
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, job = waiting.pop(0)
                process = _Process(job, setting, at_once)
                running[process.sentinel] = number, process
            for sentinel in multiprocessing.connection.wait(list(running)):
                number, process = running.pop(cast(int, sentinel))
                results[number] = process.result()
            while told in results:
                yield results[told]
                told += 1
    finally:
        # If this process was told to stop or a run failed, the others save their states and end.
        for _, process in running.values():
            process.stop()
        for _, process in running.values():
            process.join()


class _Process:
    """One run in a process of its own, with its share of the processors."""

    def __init__(self, job: Job, setting: Setting, at_once: int) -> None:
        # A new process, not a fork: this one may hold threads of torch.
        context = multiprocessing.get_context("spawn")
        self._job = job
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(job, setting, at_once, sender))
        self._process.start()
        sender.close()

    @property
    def sentinel(self) -> int:
        """Becomes ready when the process ends."""
        return self._process.sentinel

    def result(self) -> float:
        """Top-1 of the run, once the process has ended.

        Raises:
            StdeployError: what the run raised.
            TrainingError: the process has died.
        """
        self.join()
        try:
            outcome = self._receiver.recv()
        except EOFError as error:
            raise TrainingError(
                f"the run in {str(self._job.folder)!r} has died with status "
                f"{self._process.exitcode}; the same command goes on with it"
            ) from error
        if isinstance(outcome, StdeployError):
            raise outcome
        return float(outcome)

    def stop(self) -> None:
        """Ask the run to save its state and end."""
        self._process.terminate()

    def join(self) -> None:
        """Wait for the end of the process."""
        self._process.join()


def _work(job: Job, setting: Setting, at_once: int, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the first process decides
    threads = max(1, (os.cpu_count() or 1) // at_once)
    torch.set_num_threads(threads)
    limit_threads(threads)
    try:
        sender.send(run(job, setting))
    except StdeployError as error:
        sender.send(error)
    except OSError as error:  # a disk that is full
        sender.send(TrainingError(str(error)))
