"""stdeploy flops: what a network costs."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.files import ONNX_SUFFIX
from stdeploy.artifacts.spec import ForeignSpec, ModelSpec
from stdeploy.cli.console import note, out, progress_bar
from stdeploy.errors import SpecError
from stdeploy.models.registry import ARCHITECTURES
from stdeploy.optional_packages import require


def command(
    artifact: Annotated[
        Path | None, typer.Argument(help="Any artifact of stdeploy; or describe a network below.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help=f"One of {', '.join(ARCHITECTURES)}.")
    ] = None,
    temporal_lengths: Annotated[
        str, typer.Option("--temporal-lengths", help="t1..t5 of --architecture.")
    ] = "1,1,3,3,5",
    classes: Annotated[int, typer.Option("--classes", min=1)] = 87,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Default: the artifact's, or 32.")
    ] = None,
    side: Annotated[
        int | None, typer.Option("--side", min=8, help="Pixels. Default: the artifact's, or 224.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="One row a layer.")] = False,
    paper_tables: Annotated[
        bool, typer.Option("--paper-tables", help="Recount Tables 2 and 5 of the paper.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per network.")] = False,
) -> None:
    """Count multiply-accumulates and parameters of one clip with fvcore.

    A network is counted three times: with its branches, with single filters as in the paper, and
    fused. fvcore traces a real forward pass, so each takes some seconds. A network of another
    project is counted once, on its graph.
    """
    if (artifact is not None) + (architecture is not None) + paper_tables != 1:
        raise SpecError("name one artifact, or pass --architecture, or --paper-tables")
    card = None if artifact is None else read_card(artifact)
    if artifact is not None and card is not None and isinstance(card.model, ForeignSpec):
        if frames or side:
            raise SpecError("a network of another project is counted at the size of its clip")
        _graph(artifact, card, layers=layers, as_json=as_json)
        return
    require("torch", extra="export", purpose="counting GFLOPs")
    if paper_tables:
        _paper_tables(as_json)
        return
    if card is not None:
        name, spec = str(artifact), card.buildable("counting")
        size = (frames or card.clip.num_frames, side or card.clip.crop_px)
    else:
        assert architecture is not None
        lengths = _lengths(temporal_lengths)
        spec = ModelSpec.parse(
            {
                "architecture": architecture,
                "temporal_lengths": lengths,
                "num_classes": classes,
            }
        )
        name, size = f"{architecture} {temporal_lengths}", (frames or 32, side or 224)
    _network(name, spec, size, layers=layers, as_json=as_json)


def _graph(artifact: Path, card: ModelCard, *, layers: bool, as_json: bool) -> None:
    """Count the graph of a network that is not built from a description."""
    from stdeploy.export.graph_cost import count_graph

    if artifact.suffix != ONNX_SUFFIX:
        raise SpecError(
            f"{str(artifact)!r} holds another project's network, which is counted on its graph; "
            "name the .onnx file that it was made from"
        )
    cost, clip = count_graph(artifact), card.clip
    if as_json:
        sizes = {"frames": clip.num_frames, "side_px": clip.crop_px}
        graph = {"macs": cost.macs, "by_layer": cost.by_layer, "parameters": cost.parameters}
        print(json.dumps({"network": str(artifact), **sizes, "graph": graph}))
        return
    table = Table(
        title=Text(f"{artifact}: {clip.num_frames} x {clip.crop_px} x {clip.crop_px}"),
        caption="multiply-accumulates of convolutions and matrix products, by the graph's shapes",
    )
    table.add_column("layer")
    table.add_column("graph", justify="right")
    for name, macs in cost.by_layer.items() if layers else ():
        table.add_row(Text(name), f"{macs / 1e9:.3f}")
    table.add_section()
    table.add_row("GMACs", f"{cost.macs / 1e9:.3f}", style="bold")
    table.add_row("M parameters", f"{cost.parameters / 1e6:.3f}", style="bold")
    out.print(table)


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"--temporal-lengths {text!r}: write t1..t5 as 1,1,3,3,5") from None


def _network(
    name: str, spec: ModelSpec, size: tuple[int, int], *, layers: bool, as_json: bool
) -> None:
    from stdeploy.export.flops import Cost, count_flops, variants

    num_frames, side_px = size
    costs: dict[str, Cost] = {}
    with progress_bar("counting") as progress:
        for kind, variant in variants(spec).items():
            costs[kind] = count_flops(variant, num_frames=num_frames, side_px=side_px)
            progress(len(costs), 3)
    if as_json:
        counted = {kind: dataclasses.asdict(cost) for kind, cost in costs.items()}
        sizes = {"frames": num_frames, "side_px": side_px}
        print(json.dumps({"network": name, **sizes, **counted}))
        return
    table = Table(
        title=Text(f"{name}: {num_frames} x {side_px} x {side_px}"),
        caption="10^9 as fvcore counts: 1 for a multiply-accumulate, 2 for an element of a norm",
    )
    table.add_column("layer" if layers else "stage")
    for kind in costs:
        table.add_column(kind, justify="right")
    parts = {kind: cost.by_layer if layers else cost.by_stage for kind, cost in costs.items()}
    for part in parts["fused"]:
        table.add_row(part, *(f"{of[part] / 1e9:.3f}" for of in parts.values()))
    rows = {
        "all": [f"{cost.total / 1e9:.3f}" for cost in costs.values()],
        "GMACs of convolutions": [f"{cost.macs / 1e9:.3f}" for cost in costs.values()],
        "the paper's GFLOPs": [f"{cost.paper_gflops:.2f}" for cost in costs.values()],
        "M parameters": [f"{cost.parameters / 1e6:.3f}" for cost in costs.values()],
    }
    table.add_section()
    for title, values in rows.items():
        table.add_row(title, *values, style="bold")
    out.print(table)


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
