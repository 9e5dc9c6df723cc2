"""stdeploy train: from labelled videos to a checkpoint."""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stdeploy.artifacts.card import is_telling
from stdeploy.artifacts.files import CHECKPOINT_SUFFIX, checked_output, existing
from stdeploy.cli.console import Beat, counted, err, note, out, progress_bar
from stdeploy.cli.evaluate import print_classes, say_unreadable
from stdeploy.errors import ArtifactError, DatasetError, SpecError, VideoError
from stdeploy.optional_packages import require
from stdeploy.pull import Item

if TYPE_CHECKING:
    from stdeploy.datasets.labelled_videos import LabelledVideos
    from stdeploy.train.progress import Report
    from stdeploy.train.run_directory import EvaluationRecord


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
    from stdeploy.train.recipe import Recipe
    from stdeploy.train.run_directory import LOG, check_resumable, folder_of
    from stdeploy.train.train_model import training_data

    settings = list(overrides or ())
    name = Path(recipe).stem
    if temporal_lengths is not None:
        settings.append(f"model.temporal_lengths={_lengths(temporal_lengths)}")
        name += f"-{temporal_lengths.replace(',', '-')}"
    if weights is not None:
        settings.append(f"start.weights={weights}")
    if deterministic:
        settings.append("optimisation.deterministic=true")
    loaded = Recipe.load(recipe, settings)
    output = checked_output(output or Path(f"{name}{CHECKPOINT_SUFFIX}"), CHECKPOINT_SUFFIX)
    _check_there(loaded.start.weights)
    folder = run or folder_of(output.name.removesuffix(CHECKPOINT_SUFFIX), resume=resume)
    if resume:
        check_resumable(folder)  # before anything that takes time
    known: EvaluationRecord | None = None
    with _bar() as tell:
        training, held_out = training_data(loaded, Path(recipe).stem, data, validation, fold, note)
        # Only now, because importing them takes seconds.
        require("torch", extra="train", purpose="training")
        require("lightning_fabric", extra="train", purpose="training")
        from stdeploy.train.processes import Machine
        from stdeploy.train.run_directory import read_evaluation
        from stdeploy.train.trainer import train

        def begin(epochs_done: int) -> None:
            nonlocal known
            if epochs_done < loaded.optimisation.epochs:
                note(_begun(folder, output, resume=resume))
            else:
                known = read_evaluation(folder)
                measured = held_out is not None and known is None
                note(_finished(folder, output, epochs_done, measured=measured))
            named = data or Path(f"{Path(recipe).stem}-data")
            for doubt in _doubts(named, training, held_out):
                note(doubt)

        card = train(
            loaded,
            training,
            output,
            run=folder,
            validation=held_out,
            machine=Machine(
                accelerator=accelerator.value,
                devices=devices,
                nodes=nodes,
                save_minutes=save_minutes,
            ),
            resume=resume,
            log_filters=log_filters,
            begin=begin,
            tell_cost=note,
            report=lambda report: tell(report, folder / LOG),
        )
    if card is None:
        return  # the first process says the rest
    if held_out is None:
        out.print(f"{output}: trained on {len(training.samples)} videos", soft_wrap=True)
        return
    if known is None:
        named = validation or data or Path(f"{Path(recipe).stem}-data")
        known = _measured(output, held_out, folder, named)
    _say_how_it_did(output, known, folder, classes=len(training.labels))


def _measured(
    output: Path, held_out: "LabelledVideos", folder: Path, named: Path
) -> "EvaluationRecord":
    """Measure a checkpoint and keep what was measured in the folder of its run."""
    from stdeploy.inference.evaluation import evaluate
    from stdeploy.train.run_directory import write_evaluation

    try:
        with progress_bar("measuring") as progress:
            result = evaluate(output, held_out, progress=progress)
    except DatasetError as error:
        raise VideoError(
            f"{error}; {output} is whole, but not measured (exit status "
            f"{VideoError.exit_status}); with videos that can be read, measure it by: "
            f"stdeploy evaluate {shlex.quote(str(output))} --data DATA"
        ) from error
    except (KeyboardInterrupt, SystemExit):
        note(f"{output} is written, but not measured; the same command with --resume measures it")
        raise
    known: EvaluationRecord = {"summary": result.in_words(), **result.to_record()}
    write_evaluation(folder, known)
    say_unreadable(result, others=f"stdeploy data check {shlex.quote(str(named))} names them all")
    return known


def _say_how_it_did(output: Path, known: "EvaluationRecord", folder: Path, *, classes: int) -> None:
    """The summary, whether an earlier epoch did better, and the exit status.

    Raises:
        typer.Exit: videos could not be read.
    """
    from stdeploy.train.run_directory import BEST, better_epoch

    out.print(f"{output}: {known['summary']}", soft_wrap=True, markup=False)
    if not is_telling("top5", classes):  # few classes: each of them tells more
        print_classes(cast(dict[str, float | None], known["classes"]))
    if better := better_epoch(folder):
        epoch, then, last = better
        note(
            f"it is the last epoch's; after epoch {epoch} validation was {then:.1%}, not "
            f"{last:.1%}: {folder / BEST}"
        )
    if known["failed"]:
        failed = counted(cast(int, known["failed"]), "validation video")
        note(f"exit status {VideoError.exit_status}: {failed} could not be read; {output} is whole")
        raise typer.Exit(VideoError.exit_status)


def _check_there(weights: str) -> None:
    """Look for the weights to start from, before anything that takes time.

    Raises:
        ArtifactError: they are no file.
    """
    from stdeploy.train.recipe import IMAGENET

    pulled = [f"{item}{CHECKPOINT_SUFFIX}" for item in Item]
    name = Path(weights).name
    if name in pulled and not Path(weights).exists():
        brings = f"stdeploy pull {name.removesuffix(CHECKPOINT_SUFFIX)}"
        if weights != name:
            brings += f" -o {shlex.quote(weights)}"
        raise ArtifactError(f"{weights!r} does not exist; `{brings}` brings it")
    if weights not in ("", IMAGENET):
        existing(
            Path(weights),
            wanted="a checkpoint, a file of 2D weights, or imagenet",
            also=[*pulled, IMAGENET],
        )


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SpecError(
            f"--temporal-lengths {text!r} is no list of numbers; write t1..t5 as 1,1,3,3,5"
        ) from error


def _begun(run: Path, output: Path, *, resume: bool) -> str:
    """What a run writes."""
    where = f"going on with the run in {run}" if resume else f"logs, curves and state: {run}"
    replaced = f"; {output} is replaced at the end, -o names another" if output.exists() else ""
    return f"{where}{replaced}"


def _finished(run: Path, output: Path, epochs: int, *, measured: bool) -> str:
    """What becomes of a run that has come to its end before."""
    return (
        f"the run in {run} is finished already, after {counted(epochs, 'epoch')}; {output} is "
        f"written again from it{' and measured' if measured else ''}; to train longer, begin a new "
        "run, without --resume and with more optimisation.epochs"
    )


def _doubts(
    data: Path, training: "LabelledVideos", held_out: "LabelledVideos | None"
) -> Iterator[str]:
    """What is not measured, and which classes may be one."""
    from stdeploy.datasets.check import classes_alike
    from stdeploy.datasets.labelled_videos import passed_over_in

    if words := passed_over_in([training, *([held_out] if held_out else [])]).in_words():
        yield f"{data}: {words}"
    if held_out is None:
        yield "no --validation: accuracy is not measured"
    elif absent := [n for n, c in zip(held_out.labels, held_out.counts(), strict=True) if not c]:
        more = f" (nor of {counted(len(absent) - 1, 'more class')})" if absent[1:] else ""
        is_not = "that class is not" if len(absent) == 1 else "those classes are not"
        yield f"no validation video of {absent[0]!r}{more}: {is_not} measured"
    if alike := [found.labels for found in classes_alike(training)]:
        more = f" (and {counted(len(alike) - 1, 'more pair')})" if alike[1:] else ""
        one, other = alike[0]
        look = f"stdeploy data check {shlex.quote(str(data))}"
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
