"""stdeploy fuse: branches and batch norms into single filters, verified."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from stdeploy.artifacts.card import ParityRow
from stdeploy.artifacts.files import existing
from stdeploy.cli.console import announced, out, progress_bar
from stdeploy.optional_packages import require


def command(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt file of stdeploy.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: ckpt.fused.safetensors beside ckpt.pt."),
    ] = None,
) -> None:
    """Fold branches and batch norms into single filters, and prove that nothing changed.

    Every layer and the whole network are compared in float64 and float32. Nothing is written
    if one differs.
    """
    existing(checkpoint)  # before torch, which takes seconds to import
    require("torch", extra="train", purpose="fusing")
    from stdeploy.fusion import fuse_checkpoint

    what = f"fusing {checkpoint}: every layer and the whole network are compared"
    with progress_bar("comparing") as progress:
        result = fuse_checkpoint(checkpoint, output, progress=announced(what, progress))
    out.print(_parity_table(result.card.parity))
    out.print(
        f"{result.path}  {result.parameters_before:,} -> {result.parameters_after:,} parameters",
        soft_wrap=True,
        markup=False,
    )


def _parity_table(rows: Sequence[ParityRow]) -> Table:
    """One row a check, both precisions beside each other."""
    table = Table(title="relative error, fused against original", title_justify="left")
    table.add_column("check")
    table.add_column("what")
    for precision in ("fp64", "fp32"):
        allowed = next(row.tolerance for row in rows if row.precision == precision)
        table.add_column(f"{precision}\n(<= {allowed:.0e})", justify="right")
    errors: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        errors.setdefault((row.check, row.detail), {})[row.precision] = row.error
    for (check, detail), by_precision in errors.items():
        cells = [f"{by_precision[p]:.1e}" if p in by_precision else "" for p in _PRECISIONS]
        table.add_row(check, detail, *cells)
    return table


_PRECISIONS = ("fp64", "fp32")
