"""stdeploy import: networks of other projects to artifacts, compared with what they come from."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import ONNX_SUFFIX, existing
from stdeploy.artifacts.label_files import read_labels
from stdeploy.artifacts.spec import ClipSpec, ForeignSpec
from stdeploy.cli.console import announced, counted, note, out, phase_bars
from stdeploy.errors import SpecError
from stdeploy.optional_packages import require

_Network = Annotated[
    Path,
    typer.Argument(
        help="Of another project: an .onnx file, or weights (.pth, .pyth, .pt, .tar, .safetensors)."
    ),
]
_Card = Annotated[
    Path | None,
    typer.Option(
        "--card",
        help="A TOML file that describes an .onnx file: labels, clip, input and output.",
        show_default=False,
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Default: NET.stdeploy.onnx beside NET.onnx, NET.pt beside the weights NET.pth.",
    ),
]
_Family = Annotated[
    str | None,
    typer.Option(
        "--as",
        help="Of weights: what they are, such as ibm/i3d-resnet. Default: recognised by their "
        "names and shapes; where several networks have the same ones, it is asked for.",
        show_default=False,
    ),
]
_Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help="Of weights: a text file with the name of one class a line, or k400.",
        show_default=False,
    ),
]
_Clip = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Of weights: a field of the clip that is not the project's usual one: "
        "num_frames=16; repeatable.",
    ),
]
_Owner = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--owner",
        help="Of weights: a clip (.npy, uint8, T x H x W x 3, RGB) and the logits that their "
        "owner's program gives for it (.npy): they have to be the same here.",
        metavar="CLIP LOGITS",
        show_default=False,
    ),
]
_Ask = Annotated[
    bool,
    typer.Option("--ask", help="Print a description to begin with, by looking at the graph."),
]


def command(
    network: _Network,
    card: _Card = None,
    output: _Output = None,
    family: _Family = None,
    labels: _Labels = None,
    clip: _Clip = None,
    owner: _Owner = None,
    ask: _Ask = False,
) -> None:
    """Make an artifact of another project's network, compared with what it comes from.

    An .onnx file becomes one that takes uint8 frames and any batch, without batch norms and a last
    softmax; it has to repeat the original's answers at batches 1, 2 and 5 (stdeploy import NET.onnx
    --ask > clip.toml writes a description to begin with). Weights of networks that
    are known become a checkpoint, which fuse and train take; no tensor may be left over.
    """
    existing(network, wanted="a network of another project")
    of_weights = {"--as": family, "--labels": labels, "--set": clip, "--owner": owner}
    if network.suffix.lower() == ONNX_SUFFIX:
        for option, value in of_weights.items():
            if value:
                raise SpecError(
                    f"{option} belongs to weights; an .onnx file is described by --card"
                )
        if ask:
            _propose(network, card, output)
        else:
            _import_onnx(network, card, output)
        return
    if ask:
        raise SpecError(f"--ask looks at the graph of an .onnx file, which {str(network)!r} is not")
    if card is not None:
        raise SpecError("--card describes an .onnx file; of weights, --labels names the classes")
    _import_weights(network, output, family=family, labels=labels, clip=clip or [], owner=owner)


def _import_weights(
    weights: Path,
    output: Path | None,
    *,
    family: str | None,
    labels: str | None,
    clip: list[str],
    owner: tuple[Path, Path] | None,
) -> None:
    if labels is None:
        raise SpecError(
            f"{str(weights)!r} does not say what its classes are called; --labels names a text "
            "file with one a line, or k400 for Kinetics-400"
        )
    require("torch", extra="train", purpose="reading weights")
    from stdeploy.importing.checkpoint import import_checkpoint
    from stdeploy.importing.clip_description import OwnerAnswer

    if labels == "k400":
        from stdeploy.pull.kinetics import kinetics_labels

        names = list(kinetics_labels())
    else:
        names = read_labels(Path(labels), option="--labels")
    answer = None if owner is None else OwnerAnswer.read(*owner, source="--owner")
    result = import_checkpoint(
        weights, output, labels=names, family=family, clip=_fields(clip), owner=answer
    )
    known, seen = result.family, result.card.clip
    note(f"taken for {known.name} of {known.source}; assumed: {known.assumed}")
    note(
        f"its clips are taken to be {seen.num_frames} frames, one every "
        f"{seen.interval_seconds:.3g} s (frame_stride {seen.frame_stride} at {seen.fps:g} fps), "
        f"{seen.crop_px} x {seen.crop_px} px of a short side of {seen.short_side_px}, RGB, "
        f"mean {', '.join(f'{value:g}' for value in seen.mean)}, "
        f"std {', '.join(f'{value:g}' for value in seen.std)}, "
        f"{counted(seen.views, 'clip')} of a video; --set FIELD=VALUE changes that"
    )
    if result.card.parity:
        _print_parity(result.card)
    else:
        note(
            "not compared with its owner's program: --owner CLIP LOGITS does that; only that finds "
            "a wrong mean or stride"
        )
    out.print(f"{result.path}  next: stdeploy fuse {result.path}", soft_wrap=True, markup=False)


def _fields(settings: list[str]) -> dict[str, object]:
    """Fields of a clip, as typed."""
    fields: dict[str, object] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in ClipSpec.model_fields:
            known = ", ".join(ClipSpec.model_fields)
            raise SpecError(f"--set {setting!r}: write FIELD=VALUE; there are {known}")
        fields[name] = value.split(",") if name in ("mean", "std") else value
    return fields


def _import_onnx(network: Path, description: Path | None, output: Path | None) -> None:
    if description is None:
        raise SpecError(
            f"{str(network)!r} says nothing of its labels, frame rate and normalisation; describe "
            "it in a TOML file: --card clip.toml; --ask proposes one"
        )
    with phase_bars("reading the graph") as progress:
        from stdeploy.importing.onnx_import import import_onnx

        result = import_onnx(
            network,
            description,
            output,
            progress=announced(f"importing {network}, described by {description}", progress),
        )
    for done in result.notes:
        note(done)
    _print_parity(result.card)
    out.print(
        f"{result.path}  {result.path.stat().st_size / 1e6:.1f} MB, "
        f"{result.cost.macs / 1e9:.3f} GMACs for a clip",
        soft_wrap=True,
        markup=False,
    )
    model = result.card.model
    if isinstance(model, ForeignSpec) and model.compared_with == "itself":
        note(
            "compared with itself only: a mean, a colour order or a layout that is not the owner's "
            "is found by [owner] in the description, with a clip and the owner's logits"
        )


def _propose(network: Path, description: Path | None, output: Path | None) -> None:
    if description is not None or output is not None:
        raise SpecError("--ask imports nothing; leave --card and --output out")
    from stdeploy.importing.description_guess import propose_description

    proposal = propose_description(network)
    print(proposal.toml, end="")
    note(f"guessed, to be looked at: {', '.join(proposal.guessed)}")


def _print_parity(card: ModelCard) -> None:
    table = Table(title="fp32 against the original", title_justify="left")
    for name in ("check", "on"):
        table.add_column(name)
    for name in ("error", "allowed"):
        table.add_column(name, justify="right")
    for row in card.parity:
        table.add_row(row.check, row.detail, f"{row.error:.1e}", f"{row.tolerance:.1e}")
    out.print(table)
