"""stdeploy flops: what a network costs."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from stdeploy.cli.console import note, out, progress_bar
from stdeploy.errors import SpecError, require


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="A .pt, .fused.safetensors or .onnx file.")
    ] = None,
    paper_tables: Annotated[
        bool, typer.Option("--paper-tables", help="Recount Tables 2 and 5 of the paper.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per network.")] = False,
) -> None:
    """Count multiply-accumulates and parameters of one clip with fvcore."""
    require("torch", extra="export", purpose="counting GFLOPs")
    if paper_tables == (artifact is not None):
        raise SpecError("name one artifact, or pass --paper-tables")
    if artifact is None:
        _paper_tables(as_json)
    else:
        _one(artifact, as_json)


def _one(artifact: Path, as_json: bool) -> None:
    from stdeploy.card import read_card
    from stdeploy.export.flops import STAGES, count

    card = read_card(artifact)
    cost = count(card.model, num_frames=card.clip.num_frames, side_px=card.clip.crop_px)
    if as_json:
        print(json.dumps({"artifact": str(artifact), **dataclasses.asdict(cost)}))
        return
    title = f"{artifact}: {card.clip.num_frames} x {card.clip.crop_px} x {card.clip.crop_px}"
    table = Table(title=Text(title))
    table.add_column("stage")
    table.add_column("G counted (10^9)", justify="right")
    table.add_column("paper's GFLOPs (/ 2^30)", justify="right")
    for stage in STAGES:
        value = cost.by_stage[stage]
        table.add_row(stage, f"{value / 1e9:.3f}", f"{value / 2**30:.2f}")
    table.add_row("all", f"{cost.total / 1e9:.3f}", f"{cost.paper_gflops:.2f}", style="bold")
    out.print(table)
    out.print(f"{cost.macs:,} MACs in convolutions, {cost.parameters:,} parameters")


def _paper_tables(as_json: bool) -> None:
    from stdeploy.export.flops import PAPER_TABLES, count_paper_tables

    note(f"counting {len(PAPER_TABLES)} networks; each runs once, some 2 minutes in all")
    table = Table(
        title="3 x 32 x 224 x 224, single filters, before fusing",
        caption="recounted: fvcore / 2^30; GMACs: convolutions / 10^9; --json has exact counts",
    )
    for name in ("", "network", "t1..t5"):
        table.add_column(name)
    for name in ("recounted", "paper", "GMACs", "Mparams"):
        table.add_column(name, justify="right")
    with progress_bar("counting") as progress:
        for done, (row, cost) in enumerate(count_paper_tables(), start=1):
            lengths = "-".join(str(length) for length in row.temporal_lengths)
            if as_json:
                print(json.dumps({**dataclasses.asdict(row), **dataclasses.asdict(cost)}))
            table.add_row(
                row.table,
                row.name,
                lengths,
                f"{cost.paper_gflops:.2f}",
                str(row.gflops),
                f"{cost.macs / 1e9:.2f}",
                f"{cost.parameters / 1e6:.2f}",
            )
            progress(done, len(PAPER_TABLES))
    if not as_json:
        out.print(table)
