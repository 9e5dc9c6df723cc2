"""stdeploy classify: what happens in these videos?"""

import glob
import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from stdeploy.cli.console import err, note, out, progress_bar
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
from stdeploy.prediction import Prediction


def command(
    videos: Annotated[list[str], typer.Argument(help="Files, folders or patterns.")],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", help="Default: the newest *.onnx; on GPU hosts also *.engine."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Labels per video.")] = 5,
    views: Annotated[
        int | None,
        typer.Option(
            "--views", min=1, max=64, help="Clips averaged per video. Default: the model's."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON per video, for programs.")
    ] = False,
    backend: BackendOption = BackendName.AUTO,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = None,
    allow_cpu: AllowCpuOption = False,
    compiled: CompileOption = False,
    cuda_graphs: CudaGraphsOption = False,
    threads: ThreadsOption = None,
    rebuild: RebuildOption = False,
) -> None:
    """Classify video files: one row a file, best label first.

    A file that cannot be read has its row with the error, and the others go on; the exit
    status is then 1.
    """
    from stdeploy.classify import Classifier
    from stdeploy.files import ENGINE_SUFFIX, ONNX_SUFFIX, newest
    from stdeploy.hardware import gpus

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
    paths = expand(videos)
    # An engine that was built here for another host is no default of this one.
    suffixes = (ONNX_SUFFIX, ENGINE_SUFFIX) if gpus() else (ONNX_SUFFIX,)
    artifact = model or newest(Path(), *suffixes, made_by="stdeploy export")
    table = Table(show_lines=len(paths) > 1)
    table.add_column("video", overflow="fold")
    table.add_column("score  label")
    failed = 0
    with Classifier.open(artifact, views=views, options=options) as classifier:
        runtime = classifier.runtime
        note(
            f"{artifact}, {runtime.name} on {runtime.device} in {runtime.precision}, "
            f"{classifier.views} view(s) a video"
        )
        try:
            with progress_bar("classifying") as progress:
                for done, (path, result) in enumerate(classifier.classify_all(paths), start=1):
                    failed += isinstance(result, VideoError)
                    if as_json:
                        print(json.dumps(_record(path, result, top_k)), flush=True)
                    else:
                        _add_row(table, path, result, top_k)
                    progress(done, len(paths))
        finally:
            if not as_json:
                out.print(table)  # also what was done before an interruption
    if failed:
        err.print(f"{failed} of {len(paths)} videos could not be classified", style="red")
        raise typer.Exit(VideoError.exit_status)


def expand(arguments: list[str]) -> list[Path]:
    """Files, folders and patterns to files, in order, each once.

    A folder stands for the video files in it, sorted. What is no file, holds no video or
    matches nothing stays as it is, so that it gets its row.
    """
    from stdeploy.files import VIDEO_SUFFIXES

    paths: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        elif not os.path.lexists(path):
            found = sorted(p for p in map(Path, glob.glob(argument)) if p.is_file())  # noqa: PTH207
        else:
            found = [path]
        paths.update(dict.fromkeys(found or [path]))
    return list(paths)


def _record(path: Path, result: Prediction | VideoError, top_k: int) -> dict[str, object]:
    if isinstance(result, VideoError):
        return {"video": str(path), "error": str(result)}
    return result.to_record(top_k)


def _add_row(table: Table, path: Path, result: Prediction | VideoError, top_k: int) -> None:
    if isinstance(result, VideoError):
        table.add_row(Text(str(path)), Text(f"error: {result}", style="red"))
        return
    best = Table.grid(padding=(0, 2))  # a long label wraps beside its score, not under the next
    for label, score in result.top(top_k):
        best.add_row(f"{score:.3f}", Text(label))
    table.add_row(Text(str(path)), best)
