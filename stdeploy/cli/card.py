"""stdeploy card: what an artifact says about itself, and changes to that."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stdeploy.cli.console import counted, note, out
from stdeploy.errors import SpecError

if TYPE_CHECKING:
    from stdeploy.artifacts.card import Edit
    from stdeploy.artifacts.layouts import Layout
    from stdeploy.artifacts.spec import ClipSpec, ForeignSpec, ModelSpec, StreamSpec

_SHOWN_EDITS = 4


def command(
    artifact: Annotated[
        Path, typer.Argument(help="A .pt, .fused.safetensors, .onnx or .engine file.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="The whole card as JSON.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change labels (a file, one name a line), fps, frame_stride, views, "
            "short_side_px, short_video, origin or licence; in a .pt file also mean, std, "
            "num_frames and crop_px. May be given again.",
        ),
    ] = None,
) -> None:
    """Show the card of an artifact: network, clip, labels, lineage, parity; or change it."""
    from stdeploy.artifacts.card import read_card

    if changes:
        _change(artifact, changes)
        return
    card = read_card(artifact)
    if as_json:
        print(card.to_json())
        return
    model, clip, lineage = card.model, card.clip, card.lineage
    views = counted(clip.views, "view")
    nearest = card.nearest_to_its_limit
    rows = {
        "network": network_in_words(model),
        "clip": (
            f"{clip.num_frames} frames every {clip.interval_seconds:.4g} s "
            f"({clip.span_seconds:.3g} s), {clip.crop_px} x {clip.crop_px} px of a short side of "
            f"{clip.short_side_px}, {views}, short videos: {clip.short_video}"
        ),
        "input": "" if card.input == "uint8-nthwc" else f"{card.input}, 0 to 255, RGB",
        "form": _FORMS[card.form],
        "stream": "" if card.stream is None else _of_stream(card.stream, clip),
        "labels": f"{len(card.labels)}: {', '.join(card.labels[:4])}"
        + (", ..." if len(card.labels) > 4 else ""),
        "accuracy": ", ".join(f"{value:.1%} {name}" for name, value in card.accuracies.items())
        + (f" (stdeploy evaluate averages {views})" if card.accuracies and clip.views > 1 else ""),
        "origin": lineage.origin,
        "licence": lineage.licence,
        "frozen": ", ".join(lineage.frozen or ()),
        "parent": f"{lineage.parent or '-'}  {lineage.parent_sha256 or ''}".strip(),
        "edited": _told(lineage.edits),
        "made with": ", ".join(f"{name} {version}" for name, version in lineage.versions.items()),
        "parity": (
            f"{counted(len(card.parity), 'check')}, the nearest to its limit "
            f"{nearest.error:.1e} of {nearest.tolerance:.0e} ({nearest.check})"
            if nearest is not None
            else "-"
        ),
    }
    for name, text in rows.items():
        if text:
            out.print(f"{name:<10}{text}", soft_wrap=True, markup=False)


_FORMS = {
    "conv3d": "",
    "planar": "planar: 2D convolutions of stacked frames",
    "stream": "stream: new frames and what its layers keep of old ones",
}


def _of_stream(stream: "StreamSpec", clip: "ClipSpec") -> str:
    """What goes into a stream, how late an answer is, and what is kept of each."""
    behind = stream.delay_places * stream.stride_frames
    kept = sum(
        math.prod(state.shape) * (2 if state.type == "float16" else 4) for state in stream.states
    )
    window, interval = stream.window_frames, clip.interval_seconds
    return (
        f"{counted(stream.frames_per_call, 'frame')} a call, answers about {window} frames "
        f"({window * interval:.3g} s) that end {behind} before the newest ({behind * interval:.3g} "
        "s), "
        f"{counted(len(stream.states), 'state')} of {kept / 1e6:.3g} MB together"
    )


def network_in_words(model: "ModelSpec | ForeignSpec") -> str:
    """What kind of network it is, how large, and whether it is fused, in one line."""
    from stdeploy.artifacts.spec import ForeignSpec

    if isinstance(model, ForeignSpec):
        name = f" ({model.name})" if model.name else ""
        frames = ", a row for each step in time" if model.per_frame else ""
        other = model.compared_with
        compared = "with itself only" if other == "itself" else f"with {other}'s answers"
        return (
            f"another project's{name}: it took {model.layout}, {model.colour_order} in "
            f"{model.pixel_range}, and gave {model.output}{frames}; compared "
            f"{compared}"
        )
    lengths = "-".join(str(length) for length in model.temporal_lengths)
    kind = "fused" if model.fused else f"{model.branches}-branch, eta {model.eta:g}"
    kind += ", causal" if model.causal else ""
    # A layout says itself how many channels there are.
    size = f"width {model.width:g}" if model.layout is None else _laid_out(model.layout)
    return f"{model.architecture}, temporal lengths {lengths}, {size}, {kind}"


def _laid_out(layout: "Layout") -> str:
    """The layout of a network of another project, in words: kind of blocks, how many, how wide."""
    match layout.kind:
        case "resnet":
            blocks = "-".join(str(len(stage.lengths)) for stage in layout.stages)
            how = "" if layout.convolution == "joint" else f" ({layout.convolution} convolutions)"
            how = " (depthwise)" if layout.depthwise else how
            return f"{layout.block} blocks {blocks}{how}, {_after_stem(layout.stem.channels)}"
        case "x3d":
            blocks = "-".join(str(len(stage.excitations)) for stage in layout.stages)
            return f"blocks {blocks}, {_after_stem(layout.channels)}"
        case "slowfast":
            return f"slow: {_laid_out(layout.slow)}; fast: {_laid_out(layout.fast)}"
        case "inception":
            how = "separable" if layout.separable else "joint"
            return f"{how} convolutions, {_after_stem(layout.channels[0])}"


def _after_stem(channels: int) -> str:
    return f"{counted(channels, 'channel')} after conv1"


def _change(artifact: Path, texts: list[str]) -> None:
    from stdeploy.card_editing import edit_card

    changes: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise SpecError(f"--set {text!r}: write name=value, such as fps=12")
        if name in changes:
            raise SpecError(f"--set {name} is given twice")
        changes[name] = value
    edited = edit_card(artifact, changes)
    if not edited.edits:
        note(f"{artifact} says so already; nothing was written")
        return
    out.print(f"{artifact}  {_told(edited.edits)}", soft_wrap=True, markup=False)
    if edited.answered_anew:
        note("its golden clip was answered anew; fuse and export it again")


def _told(edits: "Sequence[Edit]") -> str:
    """What was changed, in a line."""
    words = [f"{edit.field} {edit.old} -> {edit.new}" for edit in edits[:_SHOWN_EDITS]]
    more = len(edits) - len(words)
    return ", ".join(words) + (f", and {more} more" if more else "")
