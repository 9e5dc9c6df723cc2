"""stdeploy ablate: the paper's comparisons again, on clips made for it or on any data set."""

import dataclasses
import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stdeploy.artifacts.files import whole_file
from stdeploy.cli.console import note, out
from stdeploy.cli.train import Accelerator
from stdeploy.errors import BackendError, SpecError
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    from stdeploy.train.ablation import Size as SizeName
    from stdeploy.train.ablation import Variant
    from stdeploy.train.order_experiment import Arm
    from stdeploy.train.order_runs import ArmResult
    from stdeploy.train.train_model import Accelerator as AcceleratorName


class Task(StrEnum):
    """What is compared on."""

    ORDER = "order"
    TABLES = "tables"


class Size(StrEnum):
    """How much of the tables."""

    SMALL = "small"
    FULL = "full"


_Task = Annotated[
    Task | None,
    typer.Option(
        "--task",
        help="order: clips made for the question, small networks, contrasts declared beforehand. "
        "tables: the rows of the paper on a data set. Default: order, unless an option of the "
        "tables is given.",
    ),
]
_Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="Of the tables: a packaged recipe, or a .toml file. Default: ablation."
    ),
]
_Data = Annotated[
    Path | None,
    typer.Option("--data", help="Default: the recipe's synthetic set."),
]
_Validation = Annotated[
    Path | None,
    typer.Option("--validation", help="Validation videos, where --data is a list."),
]
_Tables = Annotated[
    str | None, typer.Option("--tables", help="Of 2, 3, 4 (4a, 4b, 4c). Default: all.")
]
_Size = Annotated[Size, typer.Option("--size", help="small: the rows that the argument needs.")]
_Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds", help="One run of each. Default: order: as the size says; tables: 0,1,2."
    ),
]
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
    int | None,
    typer.Option(
        "--at-once",
        min=1,
        help="Runs at a time, each in a process of its own; of the order task on a GPU: seeds of "
        "an arm that are one stack of networks. Default: order: as many as there are processors, "
        "or on a GPU all; tables: 1.",
    ),
]
_Accelerator = Annotated[
    Accelerator, typer.Option("--accelerator", help="auto: a GPU where there is one.")
]


def command(
    task: _Task = None,
    recipe: _Recipe = None,
    data: _Data = None,
    validation: _Validation = None,
    tables: _Tables = None,
    size: _Size = Size.SMALL,
    seeds: _Seeds = None,
    output: _Output = Path("ablation"),
    overrides: _Overrides = None,
    views: _Views = None,
    at_once: _AtOnce = None,
    accelerator: _Accelerator = Accelerator.AUTO,
) -> None:
    """Compare the networks of the paper's Tables 2, 3 and 4 by training all of them.

    A seed decides the first weights and the order of everything; all rows get the same ones. What
    is done is kept: the same command goes on after a break, and does only what is missing.
    """
    numbers = _numbers(seeds or "0,1,2")
    of_tables = {
        "--recipe": recipe,
        "--data": data,
        "--validation": validation,
        "--tables": tables,
        "--set": overrides,
        "--views": views,
    }
    if task is None:
        task = Task.TABLES if any(of_tables.values()) else Task.ORDER
    if task is Task.TABLES:
        _tables(
            _TablesAsked(
                recipe=recipe or "ablation",
                data=data,
                validation=validation,
                tables=(tables or "2,3,4").split(","),
                size=size.value,
                seeds=numbers,
                output=output,
                overrides=overrides or [],
                views=views,
                at_once=at_once or 1,
                accelerator=accelerator.value,
            )
        )
        return
    for option, value in of_tables.items():
        if value:
            raise SpecError(
                f"{option} belongs to the rows of the paper on a data set; add --task tables"
            )
    if seeds and numbers != list(range(len(numbers))):
        raise SpecError(f"--seeds {seeds!r}: the order task takes seeds from 0 up, such as 0,1,2,3")
    _order(size.value, len(numbers) if seeds else None, output, at_once, accelerator.value)


def _order(
    size: "SizeName", seeds: int | None, output: Path, at_once: int | None, accelerator: str
) -> None:
    """Train the arms of the order experiment, and print and draw what came out."""
    require("torch", extra="train", purpose="training")
    import torch

    from stdeploy.hardware import cpu_count
    from stdeploy.train.order_experiment import arms_of
    from stdeploy.train.order_report import to_markdown
    from stdeploy.train.order_runs import run_arms, settings_of
    from stdeploy.train.plots import draw_gaps, draw_learning

    if accelerator == "cuda" and not torch.cuda.is_available():
        raise BackendError("--accelerator cuda: torch sees no NVIDIA GPU here")
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    settings = settings_of(size)
    settings = settings.model_copy(update={"seeds": seeds or settings.seeds})
    if device == "cuda":
        stack = min(at_once or settings.seeds, settings.seeds)
        settings = settings.model_copy(update={"stack": stack})
        at_once = 1
    arms = arms_of(size)
    results: dict[Arm, ArmResult] = {}
    trained = run_arms(
        arms, settings, output, device=device, at_once=at_once or cpu_count(), tell=note
    )
    for arm, result in trained:
        results[arm] = result
        _write(output / "order.md", to_markdown(results))
        note(f"{len(results)}/{len(arms)}  {arm.name}")
    draw_gaps(results, output / "gaps.svg")
    draw_learning(results, output / "learning.svg")
    out.print(to_markdown(results), soft_wrap=True, markup=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TablesAsked:
    """What was typed for the tables; see the options."""

    recipe: str
    data: Path | None
    validation: Path | None
    tables: list[str]
    size: "SizeName"
    seeds: list[int]
    output: Path
    overrides: list[str]
    views: int | None
    at_once: int
    accelerator: "AcceleratorName"


def _tables(asked: _TablesAsked) -> None:
    """Train the rows of the tables. tables.md, tables.svg and results.json lie in the folder."""
    from stdeploy.train.ablation import Spread, cells, to_markdown
    from stdeploy.train.recipe import Recipe

    found = cells(asked.tables, asked.size)
    plain = Recipe.load(asked.recipe, asked.overrides)
    clip = plain.clip_spec()
    settings = {cell.variant: cell.variant.settings(clip) for cell in found}
    # Only now, because importing them takes seconds.
    require("torch", extra="train", purpose="training")
    require("lightning_fabric", extra="train", purpose="training")
    from stdeploy.train.grid import Job, Setting, run
    from stdeploy.train.parallel_runs import Run, run_all
    from stdeploy.train.plots import draw_tables
    from stdeploy.train.processes import Machine
    from stdeploy.train.train_model import training_data

    training, held_out = training_data(
        plain, Path(asked.recipe).stem, asked.data, asked.validation, fold=1, tell=note
    )
    if held_out is None:
        raise SpecError("an ablation compares accuracies; name --validation videos")
    output = asked.output
    output.mkdir(parents=True, exist_ok=True)
    # All rows of a seed first: an unfinished grid has whole tables.
    plan = [(seed, variant) for seed in asked.seeds for variant in settings]
    jobs = [
        Job(
            Recipe.load(
                asked.recipe,
                [*asked.overrides, *settings[variant], f"optimisation.seed={seed}"],
            ),
            output / variant.name / f"seed-{seed}",
        )
        for seed, variant in plan
    ]
    setting = Setting(training, held_out, Machine(accelerator=asked.accelerator), asked.views)
    results: dict[Variant, Spread] = {}
    runs = [Run(f"in {str(job.folder)!r}", partial(run, job, setting)) for job in jobs]
    accuracies = run_all(runs, at_once=asked.at_once)
    for done, ((seed, variant), top1) in enumerate(zip(plan, accuracies, strict=True), start=1):
        note(f"{done}/{len(plan)}  {variant.name}, seed {seed}: top-1 {top1:.1%}")
        before = results[variant].values if variant in results else ()
        results[variant] = Spread((*before, 100 * top1))
        _write(output / "tables.md", to_markdown(found, results))
    by_seed = {v.name: dict(zip(asked.seeds, results[v].values, strict=True)) for v in settings}
    _write(output / "results.json", json.dumps(by_seed))
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
