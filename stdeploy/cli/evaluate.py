"""stdeploy evaluate: accuracy of an artifact on labelled videos."""

import json
import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stdeploy.backends.base import RuntimeOptions
from stdeploy.cli.console import counted, note, out, progress_bar
from stdeploy.cli.formatters import say_failed
from stdeploy.cli.options import with_runtime_options
from stdeploy.errors import VideoError

if TYPE_CHECKING:
    from stdeploy.inference.evaluation import Evaluation


class Crops(StrEnum):
    """Clips at each time."""

    ONE = "1"
    THREE = "3"


class Split(StrEnum):
    """Which part of the data set."""

    TRAIN = "train"
    VALIDATION = "validation"


_Artifact = Annotated[Path, typer.Argument(help="Any artifact of stdeploy.")]
_Other = Annotated[Path | None, typer.Argument(help="Another, to compare with the first.")]
_Data = Annotated[
    Path, typer.Option("--data", help="Data set: a folder in any usual layout, or a .csv list.")
]
_Split = Annotated[Split, typer.Option("--split")]
_Views = Annotated[
    int | None, typer.Option("--views", min=1, max=64, help="Clips averaged per video.")
]
_Crops = Annotated[
    Crops, typer.Option("--crops", help="Of each clip: the centre, or 3 along the longer side.")
]
_Fold = Annotated[
    int, typer.Option("--fold", min=1, help="Of data sets with several, as UCF101 has.")
]
_PerClass = Annotated[
    bool, typer.Option("--per-class", help="Accuracy of every class, the lowest first.")
]
_Confusion = Annotated[
    Path | None, typer.Option("--confusion", help="Draw which classes are taken for which.")
]
_AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON.")]


@with_runtime_options
def command(
    artifact: _Artifact,
    other: _Other = None,
    *,
    data: _Data,
    split: _Split = Split.VALIDATION,
    views: _Views = None,
    crops: _Crops = Crops.ONE,
    fold: _Fold = 1,
    per_class: _PerClass = False,
    confusion: _Confusion = None,
    as_json: _AsJson = False,
    runtime_options: RuntimeOptions,
) -> None:
    """Measure accuracy on labelled videos, by the same chain that classifies any video.

    With two artifacts, also on how many videos they agree, and on which not.
    """
    from stdeploy.datasets.loader import read_split
    from stdeploy.inference.classifier import Classifier, ClassifyOptions
    from stdeploy.inference.evaluation import compare, evaluate
    from stdeploy.plotting.style import checked_picture
    from stdeploy.train.plots import draw_confusion

    if confusion is not None:
        checked_picture(confusion)
    chain = ClassifyOptions(views=views, crops=3 if int(crops) == 3 else 1)
    labelled = read_split(data, split.value, fold=fold)
    if words := labelled.passed_over.in_words():
        note(f"{data}: {words}")
    results = []
    for path in [artifact] if other is None else [artifact, other]:
        with Classifier.open(path, options=chain, runtime_options=runtime_options) as classifier:
            runtime = classifier.runtime
            each = counted(classifier.views, "view")
            if classifier.crops > 1:
                each += f" of {counted(classifier.crops, 'crop')}"
            how = f"{runtime.name} on {runtime.device} in {runtime.precision}"
            note(f"{path}, {how}, {each} a video")
            with progress_bar("evaluating") as progress:
                results.append(evaluate(classifier, labelled, progress=progress))
        if as_json:
            print(json.dumps({"artifact": str(path), **results[-1].to_record()}))
        else:
            out.print(f"{path}: {results[-1].in_words()}", soft_wrap=True, markup=False)
            if per_class:
                print_classes(results[-1].class_accuracies())
    say_unreadable(
        results[0], others=f"stdeploy data check {shlex.quote(str(data))} names them all"
    )
    if confusion is not None:
        draw_confusion(results[0], confusion)
        note(f"{confusion}: which class was taken for which")
    if len(results) > 1:
        found = compare(*results)
        if as_json:
            rows = [[str(video), *labels] for video, *labels in found.differing]
            print(json.dumps({"agreement": found.agreement, "differing": rows}))
        else:
            out.print(f"they agree on {found.agreement:.1%} of {counted(found.videos, 'video')}")
            for video, right, first, second in found.differing:
                said = f"{artifact} says {first!r}, {other} {second!r}"
                out.print(f"  {video} is {right!r}: {said}", soft_wrap=True, markup=False)
    if any(result.failed for result in results):
        raise typer.Exit(VideoError.exit_status)


def say_unreadable(result: "Evaluation", *, others: str) -> None:
    """Say which videos could not be read, and where the `others` are named that are not told."""
    reasons = [f"{one.video} {one.reason}" for one in result.judged if one.reason is not None]
    say_failed(reasons, len(reasons), len(result.judged), others=others)


def print_classes(accuracies: Mapping[str, float | None]) -> None:
    """A line for each class, the lowest first; none for one that has no video."""
    known = [(rate, label) for label, rate in accuracies.items() if rate is not None]
    for rate, label in sorted(known):
        out.print(f"  {rate:6.1%}  {label}", soft_wrap=True, markup=False)
