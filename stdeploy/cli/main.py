"""The program `stdeploy`: its verbs, and what becomes of errors."""

import io
import os
import re
import signal
import sys
from types import ModuleType
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from stdeploy import __version__
from stdeploy.artifacts.values import what_is_allowed
from stdeploy.cli import (
    ablate,
    analyze,
    bench,
    card,
    classify,
    data,
    doctor,
    evaluate,
    export,
    flops,
    fuse,
    importing,
    pull,
    serve,
    train,
    watch,
)
from stdeploy.cli.console import err
from stdeploy.cli.help import Verbs, setting_meant, tidy_help, verb_meant
from stdeploy.errors import StdeployError

_DEBUG = "STDEPLOY_DEBUG"
_SUGGESTIONS = re.compile(r"[.] | [(]")  # how typer's begin
_UNKNOWN_VERB = re.compile("no such command '([^']*)'", re.IGNORECASE)

# As the work goes.
_PANELS: dict[str, tuple[ModuleType, ...]] = {
    "Get ready": (doctor, pull, data, importing),
    "Train and judge": (train, evaluate, ablate, analyze),
    "Fuse and export": (fuse, export, flops, card),
    "Run": (classify, watch, serve, bench),
}


_NAMES = {importing: "import"}  # which no module can be called


def _name(verb: ModuleType) -> str:
    return _NAMES.get(verb) or verb.__name__.rpartition(".")[2]


class _Program(Verbs):
    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # typer calls it
        return [_name(verb) for verbs in _PANELS.values() for verb in verbs]


app = typer.Typer(
    name="stdeploy",
    cls=_Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train 3D-CNNs for video action classification, fold their branches into single "
    "filters, prove that nothing changed, and run them.",
    epilog="Start with: stdeploy pull kinetics400-i3d",
)
for panel, modules in _PANELS.items():
    for module in modules:
        if module in (data, analyze):
            app.add_typer(module.app, name=_name(module), rich_help_panel=panel)
        else:
            app.command(name=_name(module), rich_help_panel=panel)(module.command)
for verbs in (app, data.app, analyze.app):
    tidy_help(verbs)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"stdeploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool,
        typer.Option("--debug", metavar="", help="Show the traceback of an error.", envvar=_DEBUG),
    ] = False,
    _version_wanted: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    os.environ[_DEBUG] = "1" if debug else "0"


def main() -> None:
    """Run the command line; an error of ours becomes one line and its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack a sign of a file name
    # Like Ctrl-C: what is half written is taken back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(app(prog_name="stdeploy", standalone_mode=False))
    except StdeployError as error:
        _fail(error, error.exit_status, str(error))
    except typer.TyperException as error:
        words = _in_our_words(error)
        if not words:  # no command was typed, and the help has been shown
            sys.exit(error.exit_code)
        _fail(error, error.exit_code, words)
    except BrokenPipeError:  # before OSError, whose kind it is
        # The reader of a pipe (head, less) has gone; there is no one left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a disk that is full, a folder that may not be read
        _fail(error, StdeployError.exit_status, str(error))


def _in_our_words(error: typer.TyperException) -> str:
    """What is wrong with what was typed, in one line, and where to read on."""
    words = " ".join(error.format_message().split()).rstrip(".")
    parameter, cause = getattr(error, "param", None), error.__cause__
    if parameter is not None and isinstance(cause, ValidationError):
        wrong = cause.errors()[0]
        value = "" if wrong["type"] == "value_error" else f" {wrong['input']!r}"
        words = f"{parameter.opts[0]}{value}: {what_is_allowed(wrong).rstrip('.')}"
    elif meant := _meant(error):
        words = f"{re.split(r'[.] | [(]', words)[0]}; {meant}"
    elif nearest := getattr(error, "possibilities", None):
        words = f"{error.message}; did you mean {nearest[0]}?"
    context = getattr(error, "ctx", None)
    if context is not None and words and not words.endswith("?"):
        words += f"; see {context.command_path} --help"
    return words[:1].lower() + words[1:]


def _meant(error: typer.TyperException) -> str:
    """What ours is called, where another program's verb or option was typed."""
    context = getattr(error, "ctx", None)
    if context is None:
        return ""
    if context.parent is None and (unknown := _UNKNOWN_VERB.search(error.format_message())):
        verb = verb_meant(unknown[1])
        return f"use stdeploy {verb}" if verb else ""
    option = getattr(error, "option_name", None)
    if context.command.name == _name(train) and option is not None:
        setting = setting_meant(option)
        return f"use {setting}" if setting else ""
    return ""


def _fail(error: Exception, exit_status: int, words: str) -> NoReturn:
    if os.environ.get(_DEBUG) == "1":
        raise error
    err.print(f"stdeploy: {words}", style="red", soft_wrap=True, markup=False)
    sys.exit(exit_status)
