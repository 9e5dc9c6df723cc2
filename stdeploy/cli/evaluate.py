"""stdeploy evaluate: accuracy of an artifact on labelled videos."""

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stdeploy.cli.console import note, out, progress_bar
from stdeploy.cli.options import (
    AllowCpuOption,
    BackendName,
    BackendOption,
    CompileOption,
    CudaGraphsOption,
    DeviceName,
    DeviceOption,
    PrecisionOption,
    RebuildOption,
    ThreadsOption,
    runtime_options,
)
from stdeploy.errors import VideoError

if TYPE_CHECKING:
    from stdeploy.train.evaluate import Evaluation


class Split(StrEnum):
    """Which part of the data set."""

    TRAIN = "train"
    VALIDATION = "validation"


def command(
    artifact: Annotated[Path, typer.Argument(help="Any artifact of stdeploy.")],
    data: Annotated[
        Path, typer.Option("--data", help="Data set: a folder in any usual layout, or a .csv list.")
    ],
    split: Annotated[Split, typer.Option("--split")] = Split.VALIDATION,
    views: Annotated[
        int | None, typer.Option("--views", min=1, max=64, help="Clips averaged per video.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
    backend: BackendOption = BackendName.AUTO,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = None,
    allow_cpu: AllowCpuOption = False,
    compiled: CompileOption = False,
    cuda_graphs: CudaGraphsOption = False,
    threads: ThreadsOption = None,
    rebuild: RebuildOption = False,
) -> None:
    """Measure accuracy on labelled videos, by the same chain that classifies any video."""
    from stdeploy.classify import Classifier
    from stdeploy.train.data.opening import read_split
    from stdeploy.train.evaluate import evaluate

    options = runtime_options(
        backend,
        device,
        precision,
        allow_cpu=allow_cpu,
        compiled=compiled,
        cuda_graphs=cuda_graphs,
        threads=threads,
        rebuild=rebuild,
    )
    labelled = read_split(data, split.value)
    with Classifier.open(artifact, views=views, options=options) as classifier:
        runtime = classifier.runtime
        note(
            f"{artifact}, {runtime.name} on {runtime.device} in {runtime.precision}, "
            f"{classifier.views} view(s) a video"
        )
        with progress_bar("evaluating") as progress:
            result = evaluate(classifier, labelled, progress)
    if as_json:
        print(json.dumps({"artifact": str(artifact), **dataclasses.asdict(result)}))
    else:
        out.print(f"{artifact}: {summary(result)}", soft_wrap=True, markup=False)
    if result.failed:
        raise typer.Exit(VideoError.exit_status)


def summary(result: "Evaluation") -> str:
    """An evaluation in one line."""
    parts = [f"top-1 {result.top1:.1%}", f"top-5 {result.top5:.1%}"]
    if result.within_pairs is not None:
        parts.append(f"within reversed pairs {result.within_pairs:.1%}")
    failed = f", {result.failed} more could not be read" if result.failed else ""
    return f"{', '.join(parts)} on {result.videos} videos{failed}"
