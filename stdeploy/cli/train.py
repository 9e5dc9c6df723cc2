"""stdeploy train: from labelled videos to a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from stdeploy.cli.console import note, out
from stdeploy.cli.evaluate import summary
from stdeploy.errors import DatasetError, SpecError, VideoError, require


def command(
    recipe: Annotated[
        str, typer.Option("--recipe", help="Name of a packaged recipe, or a .toml file.")
    ] = "starter",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder in the layout of Something-Something-v2."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: RECIPE.pt in this folder.")
    ] = None,
    temporal_lengths: Annotated[
        str | None,
        typer.Option("--temporal-lengths", help="t1..t5 in place of the recipe's: 1,1,3,3,5."),
    ] = None,
) -> None:
    """Train a network and measure it on the validation videos.

    The recipe "starter" makes its own small data set, in ./starter-data, whose classes differ
    only in the order of time.
    """
    require("torch", extra="train", purpose="training")
    from stdeploy.classify import Classifier
    from stdeploy.files import CHECKPOINT_SUFFIX, checked_output
    from stdeploy.train.evaluate import evaluate
    from stdeploy.train.loop import EpochReport, train
    from stdeploy.train.recipe import Recipe
    from stdeploy.train.something import read_something
    from stdeploy.train.synthetic import make_dataset

    loaded = Recipe.load(recipe)
    if temporal_lengths is not None:
        loaded = loaded.with_temporal_lengths(_lengths(temporal_lengths))
    name = Path(recipe).stem
    variant = "" if temporal_lengths is None else f"-{temporal_lengths.replace(',', '-')}"
    output = checked_output(
        output or Path(f"{name}{variant}{CHECKPOINT_SUFFIX}"), CHECKPOINT_SUFFIX
    )
    if data is None:
        if loaded.synthetic is None:
            raise DatasetError(f"recipe {recipe!r} makes no data set; name one with --data")
        data, size = Path(f"{name}-data"), loaded.synthetic
        note(f"{size.train_videos} + {size.validation_videos} synthetic videos in {data}")
        make_dataset(
            data, train=size.train_videos, validation=size.validation_videos, seed=size.seed
        )
    training, validation = read_something(data, "train"), read_something(data, "validation")

    def report(epoch: EpochReport) -> None:
        note(
            f"epoch {epoch.epoch}/{epoch.epochs}  loss {epoch.loss:.3f}  "
            f"training accuracy {epoch.accuracy:.1%}  {epoch.seconds:.1f} s  "
            f"{epoch.clips / epoch.seconds:.0f} clips/s"
        )

    train(loaded, training, output, report)
    with Classifier.open(output) as classifier:
        result = evaluate(classifier, validation)
    out.print(f"{output}: {summary(result)}", soft_wrap=True, markup=False)
    if result.failed:
        raise typer.Exit(VideoError.exit_status)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SpecError(
            f"--temporal-lengths {text!r} is no list of numbers; write t1..t5 as 1,1,3,3,5"
        ) from error
