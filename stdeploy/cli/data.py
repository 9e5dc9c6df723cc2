"""stdeploy data: a look at a data set before training; dividing it, and making it smaller."""

import collections
import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from stdeploy.cli.console import counted, note, out, progress_bar
from stdeploy.cli.help import Verbs
from stdeploy.errors import DatasetError, SpecError

if TYPE_CHECKING:
    from stdeploy.artifacts.spec import ClipSpec
    from stdeploy.datasets.check import Checked, ClassFinding, Looked
    from stdeploy.datasets.labelled_videos import LabelledVideos, Split
    from stdeploy.train.augmentation_effects import EgoMotion, ShortVideos
    from stdeploy.train.recipe import Recipe

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    help="Check a data set, divide it, or make a smaller one of it.",
)

_DataArgument = Annotated[
    Path, typer.Argument(help="A folder in any usual layout, or a .csv list.", metavar="DATA")
]
_OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for train.csv and validation.csv.")
]
_FoldOption = Annotated[
    int, typer.Option("--fold", min=1, help="Of data sets with several, as UCF101 has.")
]
_BAR_CHARACTERS = 24
_CLASS_KINDS = {"empty": "empty classes", "alike": "classes alike", "few": "few videos"}


@app.command()
def check(
    data: _DataArgument,
    output: _OutputOption = None,
    fold: _FoldOption = 1,
    min_seconds: Annotated[
        float, typer.Option("--min-seconds", min=0.0, help="Report shorter videos.")
    ] = 1.0,
    min_videos: Annotated[
        int,
        typer.Option(
            "--min-videos",
            min=0,
            help="Report classes with fewer training videos, and fewer validation videos in all.",
        ),
    ] = 20,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Default: one on each processor.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Say what its ego-motion and sampling rates come to here."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="With --recipe: as for stdeploy train.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --recipe: a field of it, as for stdeploy train."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object of JSON.")] = False,
) -> None:
    """Decode every video once; report what is broken, cut off, short, double or mislabelled.

    Classes without a video, with few, or with two spellings are reported too. With --output,
    lists without what is wrong are written, for stdeploy train --data. With --recipe, two lines
    say how far its ego-motion has room in the training videos, and how many frames of its clips
    lie past the end of theirs. The exit status is 1 where a video had to be left out, or a class
    has none.
    """
    from stdeploy.datasets.check import judge, judge_classes, look_at_all
    from stdeploy.datasets.labelled_videos import passed_over_in

    augmented = None if recipe is None else _recipe_and_clip(recipe, overrides, weights)
    if augmented is None and (weights or overrides):
        raise SpecError("--weights and --set belong to a recipe; name it with --recipe")
    splits = _splits(data, fold)
    passed_over = passed_over_in(splits.values())
    if words := passed_over.in_words():
        note(f"{data}: {words}")
    videos = [sample.video for part in splits.values() for sample in part.samples]
    with progress_bar("decoding") as progress:
        looked = look_at_all(videos, workers=workers, progress=progress)
    checked = judge(splits, looked, min_seconds=min_seconds)
    classes = judge_classes(checked.clean, min_videos=min_videos)
    effects = None if augmented is None else _effects(*augmented, checked, looked)
    if as_json:
        record = {**_as_json(checked, classes), "passed_over": passed_over.to_record()}
        if effects is not None:
            record |= {name: dataclasses.asdict(found) for name, found in effects.items()}
        print(json.dumps(record))
    else:
        _show(checked, classes, sum(found.seconds for found in looked.values()))
        for found in (effects or {}).values():
            out.print(f"recipe {recipe}: {found.in_words()}", soft_wrap=True, markup=False)
    if output is not None:
        _write(dict(checked.clean), output)
    empty = any(finding.kind == "empty" for finding in classes)
    if empty or any(finding.dropped for finding in checked.findings):
        raise typer.Exit(1)


@app.command()
def split(
    folder: Annotated[
        Path, typer.Argument(help="Holds a folder for each class.", metavar="FOLDER")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for train.csv and validation.csv.")
    ],
    share: Annotated[float, typer.Option("--share", help="Of each class, for validation.")] = 0.2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice.")] = 0,
) -> None:
    """Write lists of what to train on and what to hold out, from a folder for each class.

    Videos stay where they are. Those in one folder of a class, from one recording, camera or
    person, stay on one side: a network that has seen the room is judged by the room.
    """
    from stdeploy.datasets.folders import divide
    from stdeploy.datasets.labelled_videos import passed_over_in

    divided = divide(folder, share=share, seed=seed)
    if words := passed_over_in(divided.values()).in_words():
        note(f"{folder}: {words}")
    _write(divided, output)


@app.command()
def mini(
    data: _DataArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for train.csv and validation.csv.")
    ],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of classes.")] = 0,
    share: Annotated[float, typer.Option("--share", help="Of the classes.")] = 0.5,
    fold: _FoldOption = 1,
) -> None:
    """Write lists of half of the classes, drawn by a seed, as the paper's mini sets have."""
    splits = _splits(data, fold)
    smaller = {split: part.half_of_classes(seed, share=share) for split, part in splits.items()}
    _write(smaller, output)


def _recipe_and_clip(
    name: str, overrides: "Sequence[str] | None", weights: str | None
) -> "tuple[Recipe, ClipSpec]":
    """A recipe, and the clips that it trains on."""
    from stdeploy.artifacts.card import read_card
    from stdeploy.artifacts.files import CHECKPOINT_SUFFIX
    from stdeploy.train.recipe import Recipe

    settings = [*(overrides or ()), *([] if weights is None else [f"start.weights={weights}"])]
    recipe = Recipe.load(name, settings)
    start = recipe.start.weights
    parent = read_card(Path(start)).clip if start.endswith(CHECKPOINT_SUFFIX) else None
    return recipe, recipe.clip_spec(parent)


def _effects(
    recipe: "Recipe", clip: "ClipSpec", checked: "Checked", looked: "Mapping[Path, Looked]"
) -> "dict[str, EgoMotion | ShortVideos]":
    """What augmentation in time comes to in the training videos, if there are any."""
    from stdeploy.train.augmentation_effects import ego_motion_of, short_videos_of

    seen = [looked[sample.video] for sample in checked.clean["train"].samples]
    if not seen:
        return {}
    shapes = [(video.height_px, video.width_px) for video in seen]
    seconds = [video.seconds for video in seen]
    return {
        "ego_motion": ego_motion_of(shapes, clip, recipe.augmentation),
        "short_videos": short_videos_of(seconds, clip, recipe.augmentation),
    }


def _splits(data: Path, fold: int) -> "dict[Split, LabelledVideos]":
    from stdeploy.datasets.loader import read_split

    if data.is_file():
        return {"train": read_split(data, "train", missing_ok=True)}
    training = read_split(data, "train", fold=fold, missing_ok=True)
    held_out = read_split(data, "validation", fold=fold, missing_ok=True)
    return {"train": training, "validation": held_out}


def _write(splits: "dict[Split, LabelledVideos]", folder: Path) -> None:
    from stdeploy.datasets.csv_list import write_list

    if folder.is_file():
        raise DatasetError(f"cannot write lists into {str(folder)!r}: it is a file; name a folder")
    for split, part in splits.items():
        if not part.samples:
            raise DatasetError(f"no {split} video is left, so no list is written")
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in splits.items():
        path = folder / f"{split}.csv"
        replaced = ", in place of an earlier list" if path.exists() else ""
        write_list(path, part)
        classes = counted(sum(count > 0 for count in part.counts()), "class")
        note(f"{path}: {counted(len(part.samples), 'video')} of {classes}{replaced}")


def _show(checked: "Checked", classes: "Sequence[ClassFinding]", seconds: float) -> None:
    """Findings about videos, the balance of the classes, and findings about those."""
    for finding in checked.findings:
        left = ", left out" if finding.dropped else ""
        out.print(
            f"{finding.kind}: {finding.video} {finding.detail}{left}",
            soft_wrap=True,
            markup=False,
        )
    training = next(iter(checked.clean.values()))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("class")
    for split in checked.clean:
        table.add_column(split, justify="right")
    table.add_column("")
    counts = {split: part.counts() for split, part in checked.clean.items()}
    first = next(iter(counts.values()))
    for number, label in enumerate(training.labels):
        bar = "\u2588" * round(_BAR_CHARACTERS * first[number] / max(1, *first))
        table.add_row(escape(label), *(str(each[number]) for each in counts.values()), bar)
    out.print(table)
    for about in classes:
        out.print(f"{about.kind}: {about.detail}", soft_wrap=True, markup=False)
    kinds = collections.Counter(finding.kind for finding in checked.findings)
    about_classes = dict.fromkeys(_CLASS_KINDS[about.kind] for about in classes)
    wrong = [*(f"{count} {kind}" for kind, count in kinds.items()), *about_classes]
    total = sum(len(part.samples) for part in checked.clean.values())
    out.print(
        f"{counted(total, 'good video')} in {counted(len(training.labels), 'class')} of "
        f"{min(first)} to {max(first)} training videos (median {statistics.median(first):g}), "
        f"{seconds / 3600:.2f} h looked at; "
        f"{', '.join(wrong) or 'nothing is wrong'}",
        soft_wrap=True,
        markup=False,
    )


def _as_json(checked: "Checked", classes: "Sequence[ClassFinding]") -> dict[str, object]:
    return {
        "findings": [
            {
                "kind": finding.kind,
                "split": finding.split,
                "video": str(finding.video),
                "detail": finding.detail,
                "dropped": finding.dropped,
            }
            for finding in checked.findings
        ],
        "class_findings": [dataclasses.asdict(finding) for finding in classes],
        "classes": {
            split: dict(zip(part.labels, part.counts(), strict=True))
            for split, part in checked.clean.items()
        },
    }
