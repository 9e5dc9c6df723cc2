"""stdeploy card: what an artifact says about itself."""

from pathlib import Path
from typing import Annotated

import typer

from stdeploy.cli.console import counted, out


def command(
    artifact: Annotated[Path, typer.Argument(help="A .pt, .fused.safetensors or .onnx file.")],
    as_json: Annotated[bool, typer.Option("--json", help="The whole card as JSON.")] = False,
) -> None:
    """Show the card of an artifact: network, clip, labels, lineage, parity."""
    from stdeploy.card import read_card

    card = read_card(artifact)
    if as_json:
        print(card.to_json())
        return
    model, clip, lineage = card.model, card.clip, card.lineage
    lengths = "-".join(str(length) for length in model.temporal_lengths)
    kind = "fused" if model.fused else f"{model.branches}-branch, eta {model.eta:g}"
    views = counted(clip.views, "view")
    nearest = card.nearest_to_its_limit
    rows = {
        "network": (
            f"{model.architecture}, temporal lengths {lengths}, width {model.width:g}, {kind}"
        ),
        "clip": (
            f"{clip.num_frames} frames every {clip.interval_seconds:.4g} s "
            f"({clip.span_seconds:.3g} s), {clip.crop_px} x {clip.crop_px} px of a short side of "
            f"{clip.short_side_px}, {views}, short videos: {clip.short_video}"
        ),
        "labels": f"{len(card.labels)}: {', '.join(card.labels[:4])}"
        + (", ..." if len(card.labels) > 4 else ""),
        "accuracy": ", ".join(f"{value:.1%} {name}" for name, value in card.accuracies.items())
        + (f" (stdeploy evaluate averages {views})" if card.accuracies and clip.views > 1 else ""),
        "origin": lineage.origin,
        "licence": lineage.licence,
        "frozen": ", ".join(lineage.frozen or ()),
        "parent": f"{lineage.parent or '-'}  {lineage.parent_sha256 or ''}".strip(),
        "made with": ", ".join(f"{name} {version}" for name, version in lineage.versions.items()),
        "parity": (
            f"{len(card.parity)} checks, the nearest to its limit {nearest.error:.1e} of "
            f"{nearest.tolerance:.0e} ({nearest.check})"
            if nearest is not None
            else "-"
        ),
    }
    for name, text in rows.items():
        if text:
            out.print(f"{name:<10}{text}", soft_wrap=True, markup=False)
