"""stdeploy ablate: the paper's Tables 2, 3 and 4 again, on any data set."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stdeploy.artifacts.files import whole_file
from stdeploy.cli.console import note, out
from stdeploy.cli.train import Accelerator
from stdeploy.errors import SpecError
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    from stdeploy.train.ablation import Variant


class Size(StrEnum):
    """How much of the tables."""

    SMALL = "small"
    FULL = "full"


_Recipe = Annotated[
    str, typer.Option("--recipe", help="Name of a packaged recipe, or a .toml file.")
]
_Data = Annotated[
    Path | None,
    typer.Option("--data", help="Default: the recipe's synthetic set."),
]
_Validation = Annotated[
    Path | None,
    typer.Option("--validation", help="Validation videos, where --data is a list."),
]
_Tables = Annotated[str, typer.Option("--tables", help="Of 2, 3, 4 (4a, 4b, 4c).")]
_Size = Annotated[Size, typer.Option("--size", help="small: the rows that the argument needs.")]
_Seeds = Annotated[str, typer.Option("--seeds", help="One run of each.")]
_Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder of the runs; one there goes on.")
]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="A field of the recipe: optimisation.epochs=3; repeatable."),
]
_Views = Annotated[
    int | None, typer.Option("--views", min=1, max=64, help="Clips averaged per video.")
]
_AtOnce = Annotated[
    int, typer.Option("--at-once", min=1, help="Runs at a time, each in its own process.")
]
_Accelerator = Annotated[
    Accelerator, typer.Option("--accelerator", help="auto: a GPU where there is one.")
]


def command(
    recipe: _Recipe = "ablation",
    data: _Data = None,
    validation: _Validation = None,
    tables: _Tables = "2,3,4",
    size: _Size = Size.SMALL,
    seeds: _Seeds = "0,1,2",
    output: _Output = Path("ablation"),
    overrides: _Overrides = None,
    views: _Views = None,
    at_once: _AtOnce = 1,
    accelerator: _Accelerator = Accelerator.AUTO,
) -> None:
    """Train the networks of the paper's Tables 2, 3 and 4, and print them with mean and spread.

    A seed decides the first weights and the order of everything; all rows get the same ones. What
    is done is kept: the same command goes on after a break, and with more seeds or rows does only
    those that are missing. tables.md, tables.svg and results.json lie in the folder.
    """
    from stdeploy.train.ablation import Spread, cells, to_markdown
    from stdeploy.train.recipe import Recipe

    numbers = _numbers(seeds)
    found = cells(tables.split(","), size.value)
    plain = Recipe.load(recipe, overrides or ())
    clip = plain.clip_spec()
    settings = {cell.variant: cell.variant.settings(clip) for cell in found}
    # Only now, because importing them takes seconds.
    require("torch", extra="train", purpose="training")
    require("lightning_fabric", extra="train", purpose="training")
    from stdeploy.train.grid import Job, Setting, run_all
    from stdeploy.train.plots import draw_tables
    from stdeploy.train.processes import Machine
    from stdeploy.train.train_model import training_data

    training, held_out = training_data(
        plain, Path(recipe).stem, data, validation, fold=1, tell=note
    )
    if held_out is None:
        raise SpecError("an ablation compares accuracies; name --validation videos")
    output.mkdir(parents=True, exist_ok=True)
    # All rows of a seed first: an unfinished grid has whole tables.
    plan = [(seed, variant) for seed in numbers for variant in settings]
    jobs = [
        Job(
            Recipe.load(
                recipe, [*(overrides or ()), *settings[variant], f"optimisation.seed={seed}"]
            ),
            output / variant.name / f"seed-{seed}",
        )
        for seed, variant in plan
    ]
    setting = Setting(training, held_out, Machine(accelerator=accelerator.value), views)
    results: dict[Variant, Spread] = {}
    accuracies = run_all(jobs, setting, at_once=at_once)
    for done, ((seed, variant), top1) in enumerate(zip(plan, accuracies, strict=True), start=1):
        note(f"{done}/{len(plan)}  {variant.name}, seed {seed}: top-1 {top1:.1%}")
        before = results[variant].values if variant in results else ()
        results[variant] = Spread((*before, 100 * top1))
        _write(output / "tables.md", to_markdown(found, results))
    _write(
        output / "results.json",
        json.dumps({v.name: dict(zip(numbers, results[v].values, strict=True)) for v in settings}),
    )
    draw_tables(found, results, output / "tables.svg")
    out.print(to_markdown(found, results), soft_wrap=True, markup=False)


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
