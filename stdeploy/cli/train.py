"""stdeploy train: from labelled videos to a checkpoint."""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stdeploy.artifacts.card import is_telling
from stdeploy.artifacts.files import CHECKPOINT_SUFFIX
from stdeploy.cli.console import Beat, counted, err, note, out, progress_bar
from stdeploy.cli.evaluate import print_classes, say_unreadable
from stdeploy.errors import DatasetError, SpecError, VideoError

if TYPE_CHECKING:
    from stdeploy.inference.evaluation import Evaluation
    from stdeploy.train.progress import Report
    from stdeploy.train.train_model import TrainingRun, TrainResult


_AN_HOUR_SECONDS = 3600.0
_MUCH_WAITING = 0.1  # of the time; less is of no use to know all the while


class Accelerator(StrEnum):
    """Where to train."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_Recipe = Annotated[
    str, typer.Option("--recipe", help="Name of a packaged recipe, or a .toml file.")
]
_Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data set: a folder in any usual layout, or a .csv list."),
]
_Validation = Annotated[
    Path | None,
    typer.Option("--validation", help="Validation videos, where --data is a list."),
]
_Fold = Annotated[
    int, typer.Option("--fold", min=1, help="Of data sets with several, as UCF101 has.")
]
_Weights = Annotated[
    str | None,
    typer.Option("--weights", help="Start from: a checkpoint, 2D weights, or imagenet."),
]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Default: RECIPE.pt in this folder.")
]
_Run = Annotated[
    Path | None,
    typer.Option(
        "--run",
        help="Folder for logs, curves and state. Default: runs/NAME, as the output is called, "
        "or runs/NAME-2, ... where that is taken.",
    ),
]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="A field of the recipe: optimisation.epochs=3; repeatable."),
]
_TemporalLengths = Annotated[
    str | None,
    typer.Option("--temporal-lengths", help="t1..t5 in place of the recipe's: 1,1,3,3,5."),
]
_Accelerator = Annotated[
    Accelerator, typer.Option("--accelerator", help="auto: a GPU where there is one.")
]
_Devices = Annotated[int, typer.Option("--devices", min=1, help="Processes on a node.")]
_Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Machines.")]
_SaveMinutes = Annotated[
    float, typer.Option("--save-minutes", min=0.0, help="How often the state is saved.")
]
_Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="The same numbers from every run, on a GPU too."),
]
_LogFilters = Annotated[
    bool,
    typer.Option("--log-filters", help="After each epoch, where filters have their energy."),
]


def command(
    recipe: _Recipe = "starter",
    data: _Data = None,
    validation: _Validation = None,
    fold: _Fold = 1,
    weights: _Weights = None,
    output: _Output = None,
    run: _Run = None,
    resume: _Resume = False,
    overrides: _Overrides = None,
    temporal_lengths: _TemporalLengths = None,
    accelerator: _Accelerator = Accelerator.AUTO,
    devices: _Devices = 1,
    nodes: _Nodes = 1,
    save_minutes: _SaveMinutes = 10.0,
    deterministic: _Deterministic = False,
    log_filters: _LogFilters = False,
) -> None:
    """Train a network and measure it on the validation videos.

    The recipe "starter" makes its own small data set, in ./starter-data, whose classes differ
    only in the order of time. On several machines, or instead of --devices, start the command
    with torchrun -m stdeploy train.
    """
    from stdeploy.train.train_model import train_model

    settings = list(overrides or ())
    if temporal_lengths is not None:
        settings.append(f"model.temporal_lengths={_lengths(temporal_lengths)}")
        name = f"{Path(recipe).stem}-{temporal_lengths.replace(',', '-')}"
        output = output or Path(f"{name}{CHECKPOINT_SUFFIX}")
    if deterministic:
        settings.append("optimisation.deterministic=true")
    with _shown() as shown:
        trained = train_model(
            recipe,
            data,
            output,
            validation=validation,
            fold=fold,
            weights=weights,
            settings=settings,
            run=run,
            resume=resume,
            accelerator=accelerator.value,
            devices=devices,
            nodes=nodes,
            save_minutes=save_minutes,
            log_filters=log_filters,
            tell=note,
            begin=shown.begin,
            report=shown.report,
            measuring=shown.measuring,
        )
    if trained is None or shown.run is None:
        return  # the first process says the rest
    if trained.evaluation is None:
        videos = len(shown.run.training.samples)
        out.print(f"{trained.path}: trained on {videos} videos", soft_wrap=True)
        return
    named = shlex.quote(str(validation or shown.run.data))
    say_unreadable(trained.evaluation, others=f"stdeploy data check {named} names them all")
    _say_how_it_did(trained, trained.evaluation)


class _Shown:
    """What people see of a run: lines, and one bar at a time.

    Args:
        bars: holds the bar that is shown.

    Attributes:
        run: that was begun; None before, and in all processes but the first.
        is_written: whether the checkpoint is, so that it is being measured.
    """

    def __init__(self, bars: contextlib.ExitStack) -> None:
        self.run: TrainingRun | None = None
        self.is_written = False
        self._bars = bars
        self._show_training = bars.enter_context(_bar())
        self._show_measuring: Callable[[float, float], None] = lambda _done, _total: None

    def begin(self, run: "TrainingRun") -> None:
        """Say what the run writes, and what is doubtful about its data."""
        self.run = run
        note(_finished(run) if run.finished else _begun(run))
        for doubt in _doubts(run):
            note(doubt)

    def report(self, report: "Report") -> None:
        """Show how far the training is."""
        if self.run is not None:
            self._show_training(report, self.run.log)

    def measuring(self, done: int, total: int) -> None:
        """Show how far the measuring is."""
        if not self.is_written:
            self.is_written = True
            self._bars.close()
            self._show_measuring = self._bars.enter_context(progress_bar("measuring"))
        if done:  # until then the bar moves, as it does where no end is known
            self._show_measuring(done, total)


@contextlib.contextmanager
def _shown() -> Iterator[_Shown]:
    """Show a run, and say what is there where its measuring breaks off.

    Raises:
        VideoError: no validation video could be read.
    """
    bars = contextlib.ExitStack()
    shown = _Shown(bars)
    try:
        with bars:
            yield shown
    except DatasetError as error:
        if shown.run is None or not shown.is_written:
            raise
        path = shown.run.path
        raise VideoError(
            f"{error}; {path} is whole, but not measured (exit status "
            f"{VideoError.exit_status}); with videos that can be read, measure it by: "
            f"stdeploy evaluate {shlex.quote(str(path))} --data DATA"
        ) from error
    except (KeyboardInterrupt, SystemExit):
        if shown.run is not None and shown.is_written:
            path = shown.run.path
            note(f"{path} is written, but not measured; the same command with --resume measures it")
        raise


def _say_how_it_did(trained: "TrainResult", evaluation: "Evaluation") -> None:
    """The summary, whether an earlier epoch did better, and the exit status.

    Raises:
        typer.Exit: videos could not be read.
    """
    from stdeploy.train.run_directory import BEST, better_epoch

    out.print(f"{trained.path}: {trained.summary}", soft_wrap=True, markup=False)
    if not is_telling("top5", len(evaluation.labels)):  # few classes: each of them tells more
        print_classes(evaluation.class_accuracies())
    if better := better_epoch(trained.run):
        epoch, then, last = better
        note(
            f"it is the last epoch's; after epoch {epoch} validation was {then:.1%}, not "
            f"{last:.1%}: {trained.run / BEST}"
        )
    if evaluation.failed:
        failed = counted(evaluation.failed, "validation video")
        status = VideoError.exit_status
        note(f"exit status {status}: {failed} could not be read; {trained.path} is whole")
        raise typer.Exit(status)


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SpecError(
            f"--temporal-lengths {text!r} is no list of numbers; write t1..t5 as 1,1,3,3,5"
        ) from error


def _begun(run: "TrainingRun") -> str:
    """What a run writes."""
    where = f"logs, curves and state: {run.folder}"
    if run.resume:
        where = f"going on with the run in {run.folder}"
    replaced = f"; {run.path} is replaced at the end, -o names another" if run.path.exists() else ""
    return f"{where}{replaced}"


def _finished(run: "TrainingRun") -> str:
    """What becomes of a run that has come to its end before."""
    measured = " and measured" if run.held_out is not None and not run.measured else ""
    return (
        f"the run in {run.folder} is finished already, after {counted(run.epochs_done, 'epoch')}; "
        f"{run.path} is written again from it{measured}; to train longer, begin a new run, without "
        "--resume and with more optimisation.epochs"
    )


def _doubts(run: "TrainingRun") -> Iterator[str]:
    """What is not measured, and which classes may be one."""
    from stdeploy.datasets.check import classes_alike
    from stdeploy.datasets.labelled_videos import passed_over_in

    held_out = run.held_out
    if words := passed_over_in([run.training, *([held_out] if held_out else [])]).in_words():
        yield f"{run.data}: {words}"
    if held_out is None:
        yield "no --validation: accuracy is not measured"
    elif absent := [n for n, c in zip(held_out.labels, held_out.counts(), strict=True) if not c]:
        more = f" (nor of {counted(len(absent) - 1, 'more class')})" if absent[1:] else ""
        is_not = "that class is not" if len(absent) == 1 else "those classes are not"
        yield f"no validation video of {absent[0]!r}{more}: {is_not} measured"
    if alike := [found.labels for found in classes_alike(run.training)]:
        more = f" (and {counted(len(alike) - 1, 'more pair')})" if alike[1:] else ""
        one, other = alike[0]
        look = f"stdeploy data check {shlex.quote(str(run.data))}"
        yield f"{one!r} and {other!r}{more} may be one class; run {look}"


@contextlib.contextmanager
def _bar() -> "Iterator[Callable[[Report, Path], None]]":
    """A bar for the run on a terminal, a line now and then elsewhere, and one for each epoch.

    Yields:
        A function that takes how the run goes, and where its log is.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),  # of the whole run, as wide as there is room
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[left]}"),
    )
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of several processes, which share a terminal
    with Progress(
        *columns,
        console=err,
        expand=True,
        transient=True,
        disable=not err.is_terminal or not first,
        # A validation video takes less time than a training clip, so that only the mean over
        # whole epochs says how much is left.
        speed_estimate_period=_AN_HOUR_SECONDS,
    ) as progress:
        task = progress.add_task("starting", total=None, rate="", left="")
        beat = Beat(told=first)

        def update(report: "Report", log: Path) -> None:
            doing, rate = bar_texts(report)
            left = "left, then measuring" if report.to_validate else "left"
            progress.update(
                task, completed=report.done, total=1.0, description=doing, rate=rate, left=left
            )
            if report.phase == "finished":
                note(epoch_line(report, log))
            else:
                beat(f"{doing}, {rate}, {report.done:.0%} of the run")

        yield update


def bar_texts(report: "Report") -> tuple[str, str]:
    """What stands before the bar and behind it."""
    epoch = f"epoch {report.epoch}/{report.epochs}"
    if report.phase == "validating":
        return f"{epoch} validating", f"{report.seen} of {counted(report.to_validate, 'video')}"
    rate = f"{report.clips_per_second:.1f} clips/s"
    if report.wait_share >= _MUCH_WAITING:
        rate += f", {report.wait_share:.0%} waiting for data"
    return f"{epoch} loss {report.loss:.3f}", rate


def epoch_line(report: "Report", log: Path) -> str:
    """An epoch in one line.

    Args:
        report: at its end.
        log: where videos that could not be read stand with the reasons.
    """
    parts = [
        f"epoch {report.epoch}/{report.epochs}",
        f"loss {report.loss:.3f}",
        f"training accuracy {report.accuracy:.1%}",
    ]
    if report.validation is not None:
        parts.append(f"validation {report.validation.top1:.1%}")
    waiting = f"{report.wait_share:.0%} of the time waiting for data"
    parts.append(f"{report.clips_per_second:.1f} clips/s, {waiting}")
    broken = [_how_many(report.broken, "broken video", "replaced")]
    if report.validation is not None:
        broken.append(_how_many(tuple(report.validation.broken), "validation video", "unreadable"))
    if told := [text for text in broken if text]:
        parts.append(f"{', '.join(told)}, see {log}")
    return "  ".join(parts)


def _how_many(names: tuple[str, ...], thing: str, what: str) -> str:
    """Such as: 2 broken videos replaced (a.mp4, ...)."""
    if not names:
        return ""
    first = names[0] if len(names) == 1 else f"{names[0]}, ..."
    return f"{counted(len(names), thing)} {what} ({first})"
