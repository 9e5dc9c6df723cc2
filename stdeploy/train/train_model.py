"""Training in one call: the data that a recipe wants, the run, and its accuracy at the end."""

import dataclasses
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import CHECKPOINT_SUFFIX, StrPath, as_path, checked_output, existing
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.datasets.loader import read_split
from stdeploy.errors import ArtifactError, DatasetError, SpecError, check_choice, check_count
from stdeploy.optional_packages import require
from stdeploy.pull import Item
from stdeploy.train.recipe import IMAGENET, Recipe, SyntheticData
from stdeploy.train.run_directory import (
    LOG,
    check_resumable,
    folder_of,
    read_evaluation,
    write_evaluation,
)

if TYPE_CHECKING:
    from stdeploy.inference.evaluation import Evaluation
    from stdeploy.train.processes import Machine
    from stdeploy.train.progress import Report

Accelerator = Literal["auto", "cpu", "cuda"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What is known of a run when it begins.

    Attributes:
        recipe: with all that was set.
        path: where the checkpoint will be.
        folder: of logs, curves and state.
        resume: whether it goes on with the run in that folder.
        data: the data set that was named, or that the recipe has made.
        training: videos to train on.
        held_out: those that validate; None where there are none.
        epochs_done: how many an earlier run has done.
        measured: whether the run is finished and its accuracy is kept in its folder, so that it is
            read and not measured again.
    """

    recipe: Recipe
    path: Path
    folder: Path
    resume: bool
    data: Path
    training: LabelledVideos
    held_out: LabelledVideos | None
    epochs_done: int = 0
    measured: bool = False

    @property
    def finished(self) -> bool:
        """Whether all epochs are done already."""
        return self.epochs_done >= self.recipe.optimisation.epochs

    @property
    def log(self) -> Path:
        """Where the program writes down what it says of the run."""
        return self.folder / LOG


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What training wrote.

    Attributes:
        path: the checkpoint.
        card: inside it.
        run: folder of logs, curves and the state that a run goes on from.
        evaluation: accuracy on the validation videos; None where there are none. Where it was
            measured by an earlier call, it is read from that folder, without `judged`.
        summary: the same in one line, as that folder keeps it.
    """

    path: Path
    card: ModelCard
    run: Path
    evaluation: "Evaluation | None"
    summary: str | None


def train_model(
    recipe: StrPath | Recipe = "starter",
    data: StrPath | None = None,
    output: StrPath | None = None,
    *,
    validation: StrPath | None = None,
    fold: int = 1,
    weights: StrPath | None = None,
    settings: Sequence[str] = (),
    run: StrPath | None = None,
    resume: bool = False,
    accelerator: Accelerator = "auto",
    devices: int = 1,
    nodes: int = 1,
    save_minutes: float = 10.0,
    log_filters: bool = False,
    tell: Callable[[str], None] = lambda _text: None,
    begin: Callable[[TrainingRun], None] = lambda _run: None,
    report: "Callable[[Report], None]" = lambda _report: None,
    measuring: Callable[[int, int], None] = lambda _done, _total: None,
) -> TrainResult | None:
    """Train a network on labelled videos, and measure it on those that validate.

    Args:
        recipe: name of a packaged recipe, a .toml file, or a recipe. "starter" makes its own small
            data set.
        data: a folder in any usual layout, or a .csv list; None takes what the recipe makes.
        output: the checkpoint; None is RECIPE.pt in the working folder.
        validation: a list of validation videos, where `data` is a list.
        fold: from 1, of data sets that have several.
        weights: to start from: a checkpoint, 2D weights, or "imagenet".
        settings: fields of the recipe, such as "optimisation.epochs=3".
        run: folder of logs, curves and state; None is runs/NAME, as the output is called, or
            runs/NAME-2, ... where that is taken.
        resume: go on with the run in that folder.
        accelerator: "auto" takes a GPU where there is one.
        devices: processes on this machine.
        nodes: machines, each of which starts the same program.
        save_minutes: how often the state is saved within an epoch; it is saved after each.
        log_filters: write down after every epoch where the energy of the filters lies.
        tell: is told in words of what is made, what a deterministic run costs, and after the first
            epoch how many frames of its clips lay past the end of their video, if any did.
        begin: is told of the run once nothing forbids it.
        report: is told after every step how the run goes.
        measuring: is told validation videos done and in all: none done, when the checkpoint is
            written, and then after each.

    Returns:
        None in all processes but the first, where there are several.

    Raises:
        SpecError: no such recipe, or an argument that is not possible.
        DatasetError: no data set that is known, or too many videos that cannot be read.
        TrainingError: the run cannot be begun or resumed, or has diverged.
        ArtifactError: weights or output cannot be used.
        BackendError: a GPU that was asked for is not there.
        MissingExtraError: torch or lightning-fabric is not installed.
    """
    _check_machine(accelerator, devices, nodes, save_minutes)
    loaded, name = _recipe(recipe, settings, weights)
    path, folder = _places(loaded, name, output, run, resume=resume)
    training, held_out = training_data(loaded, name, data, validation, fold, tell)
    return _train_and_measure(
        TrainingRun(
            recipe=loaded,
            path=path,
            folder=folder,
            resume=resume,
            data=_named_data(data, name),
            training=training,
            held_out=held_out,
        ),
        _machine(accelerator, devices, nodes, save_minutes),
        log_filters=log_filters,
        tell=tell,
        begin=begin,
        report=report,
        measuring=measuring,
    )


def _check_machine(accelerator: str, devices: int, nodes: int, save_minutes: float) -> None:
    """Refuse what no machine can be asked for.

    Raises:
        SpecError: which of them it is.
    """
    check_choice("accelerator", accelerator, get_args(Accelerator))
    check_count("devices", devices)
    check_count("nodes", nodes)
    if not isinstance(save_minutes, int | float) or not save_minutes >= 0:
        raise SpecError(f"save_minutes = {save_minutes!r}: a number of at least 0 is allowed")


def _machine(accelerator: Accelerator, devices: int, nodes: int, save_minutes: float) -> "Machine":
    """What a run may use. This imports torch, which takes seconds, so data is read before.

    Raises:
        MissingExtraError: torch or lightning-fabric is not installed.
    """
    require("torch", extra="train", purpose="training")
    require("lightning_fabric", extra="train", purpose="training")
    from stdeploy.train.processes import Machine

    return Machine(accelerator=accelerator, devices=devices, nodes=nodes, save_minutes=save_minutes)


def _recipe(
    recipe: StrPath | Recipe, settings: Sequence[str], weights: StrPath | None
) -> tuple[Recipe, str]:
    """A recipe with some fields set, and what it is called."""
    fields = [*settings, *([] if weights is None else [f"start.weights={os.fspath(weights)}"])]
    if isinstance(recipe, Recipe):
        return recipe.with_settings(fields), "recipe"
    name = as_path(recipe, "a recipe").stem
    return Recipe.load(os.fspath(recipe), fields), name  # "./none" is a file, "none" a name


def _places(
    recipe: Recipe, name: str, output: StrPath | None, run: StrPath | None, *, resume: bool
) -> tuple[Path, Path]:
    """The checkpoint and the folder of the run; all that can be checked before the work is.

    Raises:
        ArtifactError: the output cannot be written, or there are no such weights.
        TrainingError: there is no run that can go on.
    """
    path = Path(f"{name}{CHECKPOINT_SUFFIX}") if output is None else as_path(output, "an output")
    path = checked_output(path, CHECKPOINT_SUFFIX)
    _check_weights(recipe.start.weights)
    folder = (
        folder_of(path.name.removesuffix(CHECKPOINT_SUFFIX), resume=resume)
        if run is None
        else as_path(run, "the folder of a run")
    )
    if resume:
        check_resumable(folder)
    return path, folder


def _check_weights(weights: str) -> None:
    """Look for the weights to start from.

    Raises:
        ArtifactError: they are no file.
    """
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


def _train_and_measure(
    run: TrainingRun,
    machine: "Machine",
    *,
    log_filters: bool,
    tell: Callable[[str], None],
    begin: Callable[[TrainingRun], None],
    report: "Callable[[Report], None]",
    measuring: Callable[[int, int], None],
) -> TrainResult | None:
    """Train, and measure what came of it unless an earlier call has."""
    from stdeploy.train.trainer import train

    known: tuple[Evaluation, str] | None = None

    def begin_at(epochs_done: int) -> None:
        nonlocal known
        begins = dataclasses.replace(run, epochs_done=epochs_done)
        if begins.finished and run.held_out is not None:
            known = _kept_evaluation(run.folder)
        begin(dataclasses.replace(begins, measured=known is not None))

    card = train(
        run.recipe,
        run.training,
        run.path,
        run=run.folder,
        validation=run.held_out,
        machine=machine,
        resume=run.resume,
        log_filters=log_filters,
        begin=begin_at,
        tell=tell,
        report=report,
    )
    if card is None:
        return None
    if run.held_out is not None and known is None:
        known = _measured(run.path, run.held_out, run.folder, measuring)
    evaluation, summary = known or (None, None)
    return TrainResult(run.path, card, run.folder, evaluation, summary)


def _measured(
    checkpoint: Path,
    held_out: LabelledVideos,
    folder: Path,
    measuring: Callable[[int, int], None],
) -> "tuple[Evaluation, str]":
    """Measure a checkpoint, and keep what was measured in the folder of its run."""
    measuring(0, len(held_out.samples))  # before the import, which takes a moment
    from stdeploy.inference.evaluation import evaluate

    evaluation = evaluate(checkpoint, held_out, progress=measuring)
    summary = evaluation.in_words()
    write_evaluation(folder, {"summary": summary, **evaluation.to_record()})
    return evaluation, summary


def _kept_evaluation(folder: Path) -> "tuple[Evaluation, str] | None":
    """What `_measured` kept there; None if nothing was measured, or the file is damaged."""
    from stdeploy.inference.evaluation import Evaluation

    record = read_evaluation(folder)
    if record is None:
        return None
    try:
        return Evaluation.from_record(record), str(record["summary"])
    except SpecError:  # people may do with the file what they like
        return None


def training_data(
    recipe: Recipe,
    name: str,
    data: StrPath | None,
    validation: StrPath | None,
    fold: int,
    tell: Callable[[str], None] = lambda _text: None,
) -> tuple[LabelledVideos, LabelledVideos | None]:
    """The training videos, and those to validate on if there are any.

    Args:
        recipe: may make a data set.
        name: of the recipe; what it makes lies in the folder NAME-data.
        data: what the user named.
        validation: likewise.
        fold: from 1.
        tell: is told what is made.

    Raises:
        SpecError: what was named is no path.
        DatasetError: there is no data set, or a class of it has no training video.
    """
    named = _named_data(data, name)
    listed = None if validation is None else as_path(validation, "a list of videos")
    if data is None:
        if recipe.synthetic is None:
            raise DatasetError(f"recipe {name!r} makes no data set; name one with --data")
        _make_synthetic(recipe.synthetic, named, tell)
    training = read_split(named, "train", fold=fold)
    empty = [label for label, n in zip(training.labels, training.counts(), strict=True) if not n]
    if empty:
        raise DatasetError(
            f"{len(empty)} of the {len(training.labels)} classes of {str(named)!r} have no "
            f"training video, the first is {empty[0]!r}; add some, or leave the class out"
        )
    if listed is None and named.is_file():
        return training, None
    if listed is None:
        held_out = read_split(named, "validation", fold=fold)
    else:
        held_out = read_split(listed, "validation")
    return training, held_out.with_labels(training.labels, source="the training videos")


def _named_data(data: StrPath | None, name: str) -> Path:
    """The data set that was named, or the folder of what the recipe of that name makes."""
    return Path(f"{name}-data") if data is None else as_path(data, "a data set")


def _make_synthetic(synthetic: SyntheticData, folder: Path, tell: Callable[[str], None]) -> None:
    """Make the data set of a recipe, if it is not there."""
    from stdeploy.datasets.synthetic import Perturbation, make_dataset

    tell(f"{synthetic.train_videos} + {synthetic.validation_videos} synthetic videos in {folder}")
    make_dataset(
        folder,
        train=synthetic.train_videos,
        validation=synthetic.validation_videos,
        seed=synthetic.seed,
        perturbation=Perturbation(synthetic.camera_px, synthetic.speed),
    )
