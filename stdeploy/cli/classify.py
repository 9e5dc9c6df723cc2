"""stdeploy classify: what happens in these videos?"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from stdeploy.cli.console import err, note, out, rate_bar
from stdeploy.cli.inputs import expand
from stdeploy.cli.options import (
    AllowCpuOption,
    BackendName,
    BackendOption,
    CompileOption,
    CudaGraphsOption,
    DeviceName,
    DeviceOption,
    PrecisionOption,
    ReaderName,
    ReaderOption,
    RebuildOption,
    ThreadsOption,
    runtime_options,
)
from stdeploy.errors import SpecError, VideoError
from stdeploy.prediction import Prediction


def command(
    videos: Annotated[
        list[str] | None, typer.Argument(help="Files, folders or patterns.", show_default=False)
    ] = None,
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
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into the folders of folders.")
    ] = False,
    lists: Annotated[
        list[Path] | None,
        typer.Option("--list", help="A text file with a video on each line.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write rows to a .jsonl, .csv or .parquet file, not the screen."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with --output: leave out videos that it holds."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON per video, for programs.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Videos decoded at once. Default: 1 a processor.",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Clips that the network gets at once.")
    ] = 1,
    untrusted: Annotated[
        bool,
        typer.Option(
            "--untrusted",
            help="Decode in processes with limits that are killed when a file does harm.",
        ),
    ] = False,
    reader: ReaderOption = ReaderName.AUTO,
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
    from stdeploy.classify import Classifier, ClassifyOptions
    from stdeploy.files import ENGINE_SUFFIX, ONNX_SUFFIX, digest_of, newest, sha256_of
    from stdeploy.hardware import gpus
    from stdeploy.results import DIGEST, ResultFile
    from stdeploy.video.clips import ReadClips, read_clips
    from stdeploy.video.decode_pool import DecodePool
    from stdeploy.video.limits import Limits

    if not videos and not lists:
        raise SpecError("no videos were named; give files, folders, patterns or --list FILE")
    if resume and output is None:
        raise SpecError("--resume needs --output FILE, whose rows tell what is done")
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
    paths = expand(videos or [], lists=lists or [], recursive=recursive)
    # An engine that was built here for another host is no default of this one.
    suffixes = (ONNX_SUFFIX, ENGINE_SUFFIX) if gpus() else (ONNX_SUFFIX,)
    artifact = model or newest(Path(), *suffixes, made_by="stdeploy export")
    chain = ClassifyOptions(views=views, batch=batch, jobs=jobs, decoder=reader.value)
    show = _shower(len(paths), top_k, as_json=as_json, to_file=output is not None)
    failed = done = 0
    digests: dict[Path, str] = {}
    with contextlib.ExitStack() as opened:
        file = None
        if output is not None:
            file = opened.enter_context(
                ResultFile(output, artifact_sha256=sha256_of(artifact), top_k=top_k, resume=resume)
            )
        read: ReadClips = read_clips
        if untrusted:
            pool = opened.enter_context(DecodePool(chain.decoding_jobs, Limits()))
            read = pool.read_clips
        classifier = opened.enter_context(
            Classifier.open(artifact, options=chain, runtime_options=options, read=read)
        )
        runtime = classifier.runtime
        note(
            f"{artifact}, {runtime.name} on {runtime.device} in {runtime.precision}, "
            f"{classifier.views} view(s) a video"
        )

        def wanted() -> Iterator[Path]:
            nonlocal done
            for path in paths:
                if file is not None and (digest := digest_of(path)) is not None:
                    if digest in file.done:
                        done += 1
                        continue
                    digests[path] = digest
                yield path

        progress = opened.enter_context(rate_bar("classifying", "videos"))
        opened.callback(show.end)  # also what was done before an interruption
        for path, result in classifier.classify_all(wanted()):
            failed += isinstance(result, VideoError)
            show.add(path, result)
            if file is not None:
                digest = digests.pop(path, None)
                file.write(_record(path, result, top_k) | ({DIGEST: digest} if digest else {}))
            done += 1
            progress(done, len(paths))
    if output is not None:
        kept = len(file.done) if file is not None else 0
        note(f"{output}: {done} videos" + (f", {kept} of them from before" if kept else ""))
    if failed:
        err.print(f"{failed} of {len(paths)} videos could not be classified", style="red")
        raise typer.Exit(VideoError.exit_status)


def _shower(num_videos: int, top_k: int, *, as_json: bool, to_file: bool) -> "_Show":
    if as_json:
        return _Json(top_k)
    return _Show() if to_file else _Screen(num_videos, top_k)


class _Show:
    """What standard output gets: here nothing, because the rows go to a file."""

    def add(self, path: Path, result: Prediction | VideoError) -> None:
        """Show a row."""

    def end(self) -> None:
        """Show what could not be shown before."""


class _Json(_Show):
    def __init__(self, top_k: int) -> None:
        self._top_k = top_k

    def add(self, path: Path, result: Prediction | VideoError) -> None:
        print(json.dumps(_record(path, result, self._top_k)), flush=True)


class _Screen(_Show):
    def __init__(self, num_videos: int, top_k: int) -> None:
        self._top_k = top_k
        self._table = Table(show_lines=num_videos > 1)
        self._table.add_column("video", overflow="fold")
        self._table.add_column("score  label")

    def add(self, path: Path, result: Prediction | VideoError) -> None:
        if isinstance(result, VideoError):
            self._table.add_row(Text(str(path)), Text(f"error: {result}", style="red"))
            return
        best = Table.grid(padding=(0, 2))  # a long label wraps beside its score, not under the next
        for label, score in result.top(self._top_k):
            best.add_row(f"{score:.3f}", Text(label))
        self._table.add_row(Text(str(path)), best)

    def end(self) -> None:
        out.print(self._table)


def _record(path: Path, result: Prediction | VideoError, top_k: int) -> dict[str, object]:
    if isinstance(result, VideoError):
        return {"video": str(path), "error": str(result)}
    return result.to_record(top_k)
