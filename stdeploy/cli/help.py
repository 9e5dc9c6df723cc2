"""How the help of all verbs reads."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import OptionInfo

# What stands for a value in the help; short, so that options and their text have room in 80
# columns.
METAVARS: Mapping[Any, str] = {
    bool: "",
    int: "<n>",
    float: "<x>",
    Path: "<path>",
    str: "<text>",
}


class _Verb(TyperCommand):
    """A verb whose help says <path> for arguments, and nothing for --help, which takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters."""
        parameters = super().get_params(ctx)
        for each in parameters:
            if not isinstance(each, TyperArgument):
                continue
            described = getattr(each, "type_descriptor", None)  # no promise of typer's
            found = METAVARS.get(_kind(getattr(described, "annotation", None)))
            if found is not None:
                # The kind of an argument has no other place; typer would say <list[Path]>.
                each.display_type = lambda ctx, found=found: found  # type: ignore[method-assign,misc]  # noqa: ARG005
        return parameters

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        return _without_value(super().get_help_option(ctx))


class Verbs(TyperGroup):
    """The same for a verb with verbs below it, and for the program."""

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """The option --help."""
        return _without_value(super().get_help_option(ctx))


def _without_value(option: TyperOption | None) -> TyperOption | None:
    if option is not None:
        option.metavar = ""
    return option


def tidy_help(verbs: typer.Typer) -> None:
    """Let the help say <n> where typer would say <int range>, and fill its lines once only.

    Typer keeps the line breaks of a docstring, then breaks lines where the terminal ends.
    """
    for verb in verbs.registered_commands:
        paragraphs = (inspect.getdoc(verb.callback) or "").split("\n\n")
        verb.cls = _Verb
        verb.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        for hint in get_type_hints(verb.callback, include_extras=True).values():
            for info in getattr(hint, "__metadata__", ()):
                if isinstance(info, OptionInfo) and info.metavar is None:
                    info.metavar = METAVARS.get(_kind(hint))


def _kind(hint: Any) -> Any:
    """The type of a value, without what is around it: Annotated, None, list."""
    inner = get_args(hint)
    return _kind(inner[0]) if inner else hint
