"""stdeploy import: networks of other projects to artifacts, compared with what they come from."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import ONNX_SUFFIX, existing
from stdeploy.artifacts.spec import ForeignSpec
from stdeploy.cli.console import announced, note, out, phase_bars
from stdeploy.errors import ArtifactError, SpecError

_Network = Annotated[Path, typer.Argument(help="An .onnx file of another project.")]
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
    typer.Option("--output", "-o", help="Default: NET.stdeploy.onnx beside NET.onnx."),
]
_Ask = Annotated[
    bool,
    typer.Option("--ask", help="Print a description to begin with, by looking at the graph."),
]


def command(
    network: _Network, card: _Card = None, output: _Output = None, ask: _Ask = False
) -> None:
    """Make an artifact of another project's network: uint8 frames in, logits out, any batch.

    Normalisation and layout go into the graph, batch norms are folded, a last softmax is taken off,
    a fixed batch is made free. The result has to repeat the answers of the original at batches 1, 2
    and 5, or nothing is written. stdeploy import NET.onnx --ask > clip.toml writes a description to
    begin with.
    """
    existing(network, wanted="a network of another project")
    if ask:
        _propose(network, card, output)
    elif network.suffix == ONNX_SUFFIX:
        _import_onnx(network, card, output)
    else:
        raise ArtifactError(f"{str(network)!r}: an .onnx file is wanted")


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
    if network.suffix != ONNX_SUFFIX:
        raise SpecError(f"--ask looks at the graph of an .onnx file, which {str(network)!r} is not")
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
