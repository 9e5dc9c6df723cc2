"""stdeploy bench: which backend, precision and batch size is the fastest here?"""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import ONNX_SUFFIX, checked_output
from stdeploy.artifacts.spec import ForeignSpec
from stdeploy.cli.console import note, out, phase_bars
from stdeploy.errors import ArtifactError, BackendError, SpecError
from stdeploy.hardware import gpus


def command(
    artifacts: Annotated[
        list[Path] | None,
        typer.Argument(help="Default: all artifacts of the newest network of this folder."),
    ] = None,
    batches: Annotated[str, typer.Option("--batches", help="Batch sizes.")] = "1",
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1000, help="Turns of each.")] = 5,
    turn_seconds: Annotated[
        float, typer.Option("--turn-seconds", min=0.0, help="How long a turn runs at least.")
    ] = 1.0,
    devices: Annotated[str, typer.Option("--devices", help="Of cpu and cuda.")] = "cpu,cuda",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also torch.compile; takes minutes to start.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the table.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw clips per second: .png or .svg.")
    ] = None,
) -> None:
    """Measure all backends and precisions side by side, and name the winner and its command.

    Each runs in a process of its own, and they take turns, so that a busy machine is unfair to
    none. The unfused network in eager PyTorch (ckpt.pt) is the baseline where it is there.
    """
    for path, suffixes in ((json_file, (".json",)), (markdown, (".md",)), (plot, (".png", ".svg"))):
        if path is not None:
            checked_output(path, next((s for s in suffixes if path.name.endswith(s)), suffixes[0]))
    sizes, kinds = _sizes(batches), _devices(devices)
    with phase_bars("looking for backends") as progress:
        from stdeploy.bench.measure import measure
        from stdeploy.bench.tables import COLUMNS, cells, draw, shown, summary, to_json, to_markdown
        from stdeploy.bench.tables import write_text as write
        from stdeploy.bench.worker import artifacts_of, cases_for, newest_stem

        paths = artifacts or artifacts_of(Path(), newest_stem(Path()))
        cases = list(cases_for(paths, devices=kinds, compiled=compiled))
        if not cases:
            raise ArtifactError("no backend here runs any of these files; see stdeploy doctor")
        note(f"measuring {len(cases)} ways: {', '.join(case.name for case in cases)}")
        progress("counting the arithmetic of the network", 0, 1)
        macs = _macs(cases[0].artifact, cases[0].card)
        report = measure(
            cases,
            batches=sizes,
            rounds=rounds,
            turn_seconds=turn_seconds,
            macs=macs,
            progress=progress,
        )
    texts = [cells(row) for row in report.rows]
    columns = shown(texts, out.width)
    table = Table(
        title=report.network, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for number in columns:
        table.add_column(COLUMNS[number], justify="right" if number else "left", no_wrap=True)
    for row in texts:
        table.add_row(*(row[number] for number in columns))
    out.print(table)
    for line in summary(report):
        out.print(line, soft_wrap=True, markup=False)
    if json_file is not None:
        write(to_json(report) + "\n", json_file)
    if markdown is not None:
        write(to_markdown(report), markdown)
    if plot is not None:
        draw(report, plot)
    if any(row.failed is not None for row in report.rows):
        raise typer.Exit(1)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise SpecError(f"--batches {text!r}: write numbers from 1, such as 1,4,8")
    return sizes


def _devices(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    unknown = [kind for kind in kinds if kind not in ("cpu", "cuda")]
    if unknown:
        raise SpecError(f"--devices {text!r}: {unknown[0]!r} is none; write cpu, cuda or cpu,cuda")
    if kinds == ("cuda",) and not gpus():
        raise BackendError("--devices cuda: there is no NVIDIA GPU here")
    return kinds


def _macs(artifact: Path, card: ModelCard) -> int | None:
    """Multiply-accumulates of the fused network, or of a graph; None where nothing counts them."""
    if isinstance(card.model, ForeignSpec):
        from stdeploy.export.graph_cost import count_graph

        return count_graph(artifact).macs if artifact.suffix == ONNX_SUFFIX else None
    if not importlib.util.find_spec("torch") or not importlib.util.find_spec("fvcore"):
        return None
    from stdeploy.export.flops import count_flops

    fused = card.model.model_copy(update={"fused": True})
    return count_flops(fused, num_frames=card.clip.num_frames, side_px=card.clip.crop_px).macs
