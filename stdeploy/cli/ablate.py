"""stdeploy ablate: the paper's Tables 2, 3 and 4 again, on any data set."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stdeploy.cli.console import note, out
from stdeploy.cli.train import Accelerator, labelled_data
from stdeploy.errors import SpecError, require
from stdeploy.files import whole_file

if TYPE_CHECKING:
    from stdeploy.train.ablation import Variant
    from stdeploy.train.data.labelled import LabelledVideos
    from stdeploy.train.loop import Machine
    from stdeploy.train.recipe import Recipe


class Size(StrEnum):
    """How much of the tables."""

    SMALL = "small"
    FULL = "full"


def command(
    recipe: Annotated[
        str, typer.Option("--recipe", help="Name of a packaged recipe, or a .toml file.")
    ] = "ablation",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Default: the recipe's synthetic set."),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option("--validation", help="Validation videos, where --data is a list."),
    ] = None,
    tables: Annotated[str, typer.Option("--tables", help="Of 2, 3, 4 (4a, 4b, 4c).")] = "2,3,4",
    size: Annotated[
        Size, typer.Option("--size", help="small: the rows that the argument needs.")
    ] = Size.SMALL,
    seeds: Annotated[str, typer.Option("--seeds", help="One run of each.")] = "0,1,2",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the runs; one there goes on.")
    ] = Path("ablation"),
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the recipe: optimisation.epochs=3; repeatable."),
    ] = None,
    views: Annotated[
        int | None, typer.Option("--views", min=1, max=64, help="Clips averaged per video.")
    ] = None,
    accelerator: Annotated[
        Accelerator, typer.Option("--accelerator", help="auto: a GPU where there is one.")
    ] = Accelerator.AUTO,
) -> None:
    """Train the networks of the paper's Tables 2, 3 and 4, and print them with mean and spread.

    A seed decides the first weights and the order of everything; all rows get the same ones. What
    is done is kept: the same command goes on after a break, and with more seeds or rows does only
    those that are missing. tables.md, tables.svg and results.json lie in the folder.
    """
    require("torch", extra="train", purpose="training")
    from stdeploy.train.ablation import Spread, cells, to_markdown
    from stdeploy.train.loop import Machine
    from stdeploy.train.pictures import draw_tables
    from stdeploy.train.recipe import Recipe

    numbers = _numbers(seeds)
    found = cells(tables.split(","), size.value)
    plain = Recipe.load(recipe, overrides or ())
    variants = list(dict.fromkeys(cell.variant for cell in found))
    clip = plain.clip_spec()
    settings = {
        variant: variant.settings(frame_stride=clip.frame_stride, crop_px=clip.crop_px)
        for variant in variants
    }
    training, held_out = labelled_data(plain, Path(recipe).stem, data, validation, fold=1)
    if held_out is None:
        raise SpecError("an ablation compares accuracies; name --validation videos")
    output.mkdir(parents=True, exist_ok=True)
    machine = Machine(accelerator=accelerator.value)
    accuracies: dict[Variant, list[float]] = {}
    total = len(variants) * len(numbers)
    for seed in numbers:  # all rows of a seed first: an unfinished run has whole tables
        for variant in variants:
            done = sum(len(values) for values in accuracies.values())
            fields = [*(overrides or ()), *settings[variant], f"optimisation.seed={seed}"]
            loaded = Recipe.load(recipe, fields)
            folder = output / variant.name / f"seed-{seed}"
            result = _run(loaded, training, held_out, folder, machine, views)
            accuracies.setdefault(variant, []).append(100 * result)
            note(f"{done + 1}/{total}  {variant.name}, seed {seed}: top-1 {result:.1%}")
            results = {key: Spread(tuple(values)) for key, values in accuracies.items()}
            _write(output / "tables.md", to_markdown(found, results))
    _write(
        output / "results.json",
        json.dumps({v.name: dict(zip(numbers, accuracies[v], strict=True)) for v in variants}),
    )
    draw_tables(found, results, output / "tables.svg")
    out.print(to_markdown(found, results), soft_wrap=True, markup=False)


def _run(
    recipe: "Recipe",
    training: "LabelledVideos",
    held_out: "LabelledVideos",
    folder: Path,
    machine: "Machine",
    views: int | None,
) -> float:
    """Top-1 of one run, which is not made again if it is there and is gone on with if begun.

    Raises:
        SpecError: the folder holds the result of another recipe.
    """
    from stdeploy.classify import Classifier
    from stdeploy.train.evaluate import evaluate
    from stdeploy.train.loop import train

    done = folder / "result.json"
    fields = json.loads(recipe.model_dump_json())
    if done.is_file():
        content = json.loads(done.read_text())
        if content["recipe"] != fields or content["views"] != views:
            raise SpecError(
                f"{str(folder)!r} holds a run with other settings; give another --output"
            )
        return float(content["top1"])
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "last.pt"
    train(
        recipe,
        training,
        checkpoint,
        run=folder,
        machine=machine,
        resume=(folder / "last.state").is_file(),
    )
    with Classifier.open(checkpoint, views=views) as classifier:
        result = evaluate(classifier, held_out)
    _write(done, json.dumps({"top1": result.top1, "views": views, "recipe": fields}))
    (folder / "last.state").unlink()  # twice the size of the network, and of no use any more
    return result.top1


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _numbers(text: str) -> list[int]:
    try:
        numbers = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise SpecError(f"--seeds {text!r}: write numbers from 0, such as 0,1,2")
    return numbers
