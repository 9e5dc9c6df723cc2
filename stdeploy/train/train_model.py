"""Training in one call: the data that a recipe wants, the run, and its accuracy at the end."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import CHECKPOINT_SUFFIX, StrPath, as_path, checked_output
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.datasets.loader import read_split
from stdeploy.errors import DatasetError, check_choice, check_count
from stdeploy.optional_packages import require
from stdeploy.train.recipe import Recipe, SyntheticData

if TYPE_CHECKING:
    from stdeploy.inference.evaluation import Evaluation
    from stdeploy.train.progress import Report

Accelerator = Literal["auto", "cpu", "cuda"]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What training wrote.

    Attributes:
        path: the checkpoint.
        card: inside it.
        run: folder of logs, curves and the state that a run goes on from.
        evaluation: accuracy on the validation videos; None where there are none.
    """

    path: Path
    card: ModelCard
    run: Path
    evaluation: "Evaluation | None"


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
    log_filters: bool = False,
    tell: Callable[[str], None] = lambda _text: None,
    report: "Callable[[Report], None]" = lambda _report: None,
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
        log_filters: write down after every epoch where the energy of the filters lies.
        tell: is told in words of what is made, and what a deterministic run costs.
        report: is told after every step how the run goes.

    Returns:
        None in all processes but the first, where `devices` is more than 1.

    Raises:
        SpecError: no such recipe, or an argument that is not possible.
        DatasetError: no data set that is known, or too many videos that cannot be read.
        TrainingError: the run cannot be begun or resumed, or has diverged.
        ArtifactError: weights or output cannot be used.
        BackendError: a GPU that was asked for is not there.
        MissingExtraError: torch or lightning-fabric is not installed.
    """
    from stdeploy.train.run_directory import folder_of

    check_choice("accelerator", accelerator, ("auto", "cpu", "cuda"))
    check_count("devices", devices)
    started = [] if weights is None else [f"start.weights={os.fspath(weights)}"]
    loaded, name = _recipe(recipe, [*settings, *started])
    path = as_path(output, "an output") if output is not None else Path(f"{name}.pt")
    path = checked_output(path, CHECKPOINT_SUFFIX)
    folder = (
        as_path(run, "the folder of a run")
        if run is not None
        else folder_of(path.name.removesuffix(CHECKPOINT_SUFFIX), resume=resume)
    )
    training, held_out = training_data(
        loaded,
        name,
        None if data is None else as_path(data, "a data set"),
        None if validation is None else as_path(validation, "a list of videos"),
        fold,
        tell,
    )
    require("torch", extra="train", purpose="training")
    require("lightning_fabric", extra="train", purpose="training")
    from stdeploy.inference.evaluation import evaluate
    from stdeploy.train.processes import Machine
    from stdeploy.train.trainer import train

    card = train(
        loaded,
        training,
        path,
        run=folder,
        validation=held_out,
        machine=Machine(accelerator=accelerator, devices=devices),
        resume=resume,
        log_filters=log_filters,
        tell_cost=tell,
        report=report,
    )
    if card is None:
        return None
    evaluation = None if held_out is None else evaluate(path, held_out)
    return TrainResult(path, card, folder, evaluation)


def _recipe(recipe: StrPath | Recipe, settings: Sequence[str]) -> tuple[Recipe, str]:
    """A recipe with some fields set, and what it is called."""
    if isinstance(recipe, Recipe):
        return recipe.with_settings(settings), "recipe"
    named = as_path(recipe, "a recipe")
    return Recipe.load(str(named), settings), named.stem


def training_data(
    recipe: Recipe,
    name: str,
    data: Path | None,
    validation: Path | None,
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
        DatasetError: there is no data set, or a class of it has no training video.
    """
    if data is None:
        if recipe.synthetic is None:
            raise DatasetError(f"recipe {name!r} makes no data set; name one with --data")
        data = Path(f"{name}-data")
        _make_synthetic(recipe.synthetic, data, tell)
    training = read_split(data, "train", fold=fold)
    empty = [label for label, n in zip(training.labels, training.counts(), strict=True) if not n]
    if empty:
        raise DatasetError(
            f"{len(empty)} of the {len(training.labels)} classes of {str(data)!r} have no training "
            f"video, the first is {empty[0]!r}; add some, or leave the class out"
        )
    if validation is None and data.is_file():
        return training, None
    if validation is None:
        held_out = read_split(data, "validation", fold=fold)
    else:
        held_out = read_split(validation, "validation")
    return training, held_out.with_labels(training.labels, source="the training videos")


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
