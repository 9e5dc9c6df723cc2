"""The pages of the commands, made from the program's own help when the site is built."""

import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

from stdeploy.cli.main import app

_PROGRAM = "stdeploy"
_FOLDER = "reference/commands"
_IN_NAV = "Commands"
_REMARKS = re.compile(r"\s*\[([^\[\]]*(?:default|required|<=x|x>=|x<=|env var)[^\[\]]*)\]$")


def on_config(config: MkDocsConfig) -> None:
    """Put a page for each command into the navigation."""
    pages = [{title: f"{_FOLDER}/{_name(title)}.md"} for title, _ in _commands()]
    for section in config.nav or []:
        for place in section.get("Reference", []):
            if _IN_NAV in place:
                place[_IN_NAV] = [f"{_FOLDER}/index.md", *pages]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Make the pages."""
    for title, command in _commands():
        text = "\n".join(_page(title, command))
        files.append(File.generated(config, f"{_FOLDER}/{_name(title)}.md", content=text))
    index = "\n".join(_index())
    files.append(File.generated(config, f"{_FOLDER}/index.md", content=index))


def _commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by how it is typed."""
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        if inner is None:
            yield f"{_PROGRAM} {name}", command
        for verb, nested in (inner or {}).items():
            yield f"{_PROGRAM} {name} {verb}", nested


def _name(title: str) -> str:
    return title.removeprefix(f"{_PROGRAM} ").replace(" ", "-")


def _index() -> Iterator[str]:
    program = get_command(app)
    yield from ("# Commands", "", str(program.help), "")
    for title, command in _commands():
        yield f"[`{title}`]({_name(title)}.md)"
        yield f":   {_paragraphs(command)[0]}"
        yield ""
    yield "Before the command:"
    yield ""
    yield from _options(program, _PROGRAM)
    yield from (
        "## Exit status",
        "",
        "| status | means |",
        "| ---: | --- |",
        "| 0 | all done |",
        "| 1 | some videos failed, each has its row; `data check` and `doctor` found something |",
        "| 2 | wrong usage, or an artifact, data set or recipe that cannot be used |",
        "| 3 | a backend, device or package that was asked for is not there; an address is taken |",
        "| 130, 143 | ended by Ctrl-C, by SIGTERM |",
    )


def _page(title: str, command: Any) -> Iterator[str]:
    yield f"# {title}"
    yield ""
    for paragraph in _paragraphs(command):
        yield from (paragraph, "")
    context = command.make_context(title, ["--help"], resilient_parsing=True)
    yield from ("```sh", command.get_usage(context).removeprefix("Usage: "), "```", "")
    yield from _options(command, title)


def _options(command: Any, title: str) -> Iterator[str]:
    context = command.make_context(title, ["--help"], resilient_parsing=True)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        names, help_text = record
        help_text, remarks = _without_remarks(help_text)
        flags, _, value = names.partition(" <")
        shown = f"`{flags}`" + (f" *{value.rstrip('>')}*" if value else "")
        words = [text for text in (_escaped(help_text), remarks) if text]
        yield shown.replace("|", " \\| ")
        yield f":   {' '.join(words) or '<!-- -->'}"
        yield ""


def _without_remarks(text: str) -> tuple[str, str]:
    """Split what typer adds in brackets, such as the default, from the help of an option."""
    found = _REMARKS.search(text)
    if found is None:
        return text, ""
    remarks = []
    for remark in found[1].split("; "):
        name, colon, value = remark.partition(": ")
        if name == "default" and colon:
            remarks.append(f"Default: `{value.removeprefix('(').removesuffix(')')}`.")
        elif name == "env var":
            remarks.append(f"Also the variable `{value}`.")
        elif remark == "required":
            remarks.append("Required.")
        else:
            remarks.append(f"Allowed: {remark.replace('<=x<=', ' to ').replace('x', 'value ')}.")
    return text[: found.start()], " ".join(remarks)


def _paragraphs(command: Any) -> list[str]:
    return [_escaped(" ".join(part.split())) for part in (command.help or "").split("\n\n")]


def _escaped(text: str) -> str:
    """Signs that Markdown would take for its own, except where the help quotes code."""
    return re.sub(r"(?<!`)([*_<])", r"\\\1", text)
