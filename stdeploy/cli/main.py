"""The program `stdeploy`: its verbs, and what becomes of errors."""

import os
import sys
from typing import Annotated

import typer

from stdeploy import __version__
from stdeploy.cli import card, classify, evaluate, export, flops, fuse, pull, train
from stdeploy.cli.console import err
from stdeploy.errors import StdeployError

app = typer.Typer(
    name="stdeploy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train 3D-CNNs for video action classification, fold their branches into single "
    "filters, prove that nothing changed, and run them.",
    epilog="Start with: stdeploy pull kinetics400-i3d",
)
for verb in (pull, train, fuse, export, classify, evaluate, flops, card):
    app.command(name=verb.__name__.rpartition(".")[2])(verb.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"stdeploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error.", envvar="STDEPLOY_DEBUG"),
    ] = False,
    _version_wanted: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    if debug:
        os.environ["STDEPLOY_DEBUG"] = "1"


def main() -> None:
    """Run the command line; an error of ours becomes one line and its exit status."""
    try:
        app()
    except StdeployError as error:
        if os.environ.get("STDEPLOY_DEBUG"):
            raise
        err.print(f"stdeploy: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone; there is no one left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
