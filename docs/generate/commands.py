"""The pages of the commands, made from the program's own help when the site is built."""

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

from examples import Example, examples_in, of_verb
from stdeploy.cli.main import app

_PROGRAM = "stdeploy"
_FOLDER = "reference/commands"
_IN_NAV = "Commands"
# Where to read on about an option, from docs/.
_READ_ON = {
    "--recipe": ("Recipes", "reference/recipes.md"),
    "--set": ("Recipes", "reference/recipes.md"),
    "--temporal-lengths": ("Temporal lengths", "how-to/temporal-lengths.md"),
    "--data": ("Data sets", "how-to/fine-tune.md"),
    "--precision": ("Choose a precision", "how-to/precision.md"),
    "--calibrate": ("Choose a precision", "how-to/precision.md"),
    "--backend": ("Backends and precisions", "explanation/performance.md"),
    "--timeline": ("Long videos", "how-to/long-videos.md"),
    "--reader": ("Reading videos", "video.md"),
    "--untrusted": ("Security", "explanation/security.md"),
    "--ray": ("A cluster", "how-to/cluster.md"),
    "--trt": ("A GPU host", "how-to/gpu-host.md"),
    "--triton": ("Triton", "how-to/triton.md"),
}
# Kinds of values that typer names by their type.
_KINDS = {"Path": "path", "list[Path]": "path", "str": "text", "list[str]": "text"}
# Endings of files that the help names.
_FILES = "csv|engine|html|json|jsonl|md|mp4|npz|onnx|parquet|png|pt|safetensors|svg|toml"
_RANGES = (
    (re.compile(r"(.+)<=x<=(.+)"), r"\1 to \2"),
    (re.compile(r"x>=(.+)"), r"\1 or more"),
    (re.compile(r"x<=(.+)"), r"\1 or less"),
)
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
    examples = examples_in(files, config.nav or [])
    for title, command in _commands():
        text = "\n".join(_page(title, command, of_verb(examples, title)))
        files.append(File.generated(config, f"{_FOLDER}/{_name(title)}.md", content=text))
    index = "\n".join(_index())
    files.append(File.generated(config, f"{_FOLDER}/index.md", content=index))


def _commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by how it is typed."""
    for _, name, command in _panels():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield f"{_PROGRAM} {name}", command
        for verb, nested in (inner or {}).items():
            yield f"{_PROGRAM} {name} {verb}", nested


def _panels() -> Iterator[tuple[str, str, Any]]:
    """The panel of the help, the name and the command of every verb, in the order of the help."""
    program: Any = get_command(app)
    for name in program.list_commands(program.make_context(_PROGRAM, [], resilient_parsing=True)):
        command = program.commands[name]
        yield command.rich_help_panel, name, command


def _name(title: str) -> str:
    return title.removeprefix(f"{_PROGRAM} ").replace(" ", "-")


def _index() -> Iterator[str]:
    program = get_command(app)
    yield from ("# Commands", "", str(program.help), "")
    panels = {name: panel for panel, name, _ in _panels()}
    for panel, commands in itertools.groupby(_commands(), lambda each: panels[each[0].split()[1]]):
        yield from (f"## {panel}", "")
        for title, command in commands:
            yield f"[`{title}`]({_name(title)}.md)"
            yield f":   {_paragraphs(command)[0]}"
            yield ""
    yield from ("## Before the command", "")
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


def _page(title: str, command: Any, examples: Sequence[Example]) -> Iterator[str]:
    yield f"# {title}"
    yield ""
    for paragraph in _paragraphs(command):
        yield from (paragraph, "")
    context = command.make_context(title, ["--help"], resilient_parsing=True)
    yield from ("```sh", command.get_usage(context).removeprefix("Usage: "), "```", "")
    yield from _options(command, title)
    if examples:
        yield from ("## Examples", "")
    for page, of_page in itertools.groupby(examples, lambda each: (each.title, each.page)):
        yield f"[{page[0]}](../../{page[1]}):"
        yield from ("", "```sh", *(each.text for each in of_page), "```", "")


def _options(command: Any, title: str) -> Iterator[str]:
    context = command.make_context(title, ["--help"], resilient_parsing=True)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        names, help_text = record
        help_text, remarks = _without_remarks(help_text)
        flags, _, value = names.partition(" <")
        value = _KINDS.get(value.rstrip(">"), value.rstrip(">"))
        shown = f"`{flags}`" + (f" *{value}*" if value else "")
        about = next((_READ_ON[flag] for flag in parameter.opts if flag in _READ_ON), None)
        read_on = f"See [{about[0]}](../../{about[1]})." if about else ""
        words = [text for text in (_escaped(help_text), remarks, read_on) if text]
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
            remarks.append(f"Allowed: {_range(remark)}.")
    return text[: found.start()], " ".join(remarks)


def _paragraphs(command: Any) -> list[str]:
    return [_escaped(" ".join(part.split())) for part in (command.help or "").split("\n\n")]


def _range(remark: str) -> str:
    """What typer writes as 1<=x<=64, in words."""
    for pattern, words in _RANGES:
        remark = pattern.sub(words, remark.removesuffix(".0"))
    return remark


def _escaped(text: str) -> str:
    """What is typed as code; elsewhere no signs that Markdown would take for its own."""
    words = re.split(rf"(`[^`]*`|{_typed().pattern})", text)
    return "".join(
        _code(word) if place % 2 else re.sub(r"([*_<])", r"\\\1", word)
        for place, word in enumerate(words)
    )


def _code(word: str) -> str:
    """A piece of code; a command leads to its page."""
    shown = f"`{word.strip('`')}`"
    title = next((title for title, _ in _commands() if word == title), None)
    return f"[{shown}]({_name(title)}.md)" if title else shown


@functools.cache
def _typed() -> re.Pattern[str]:
    """Commands, options, files and settings among the words of the help."""
    verbs = "|".join(re.escape(title) for title, _ in _commands())
    command = rf"(?:torchrun -m )?(?:{verbs})(?: --[a-z][\w-]*)*"
    file = rf"[\w*/-]*(?:\.[\w-]+)*\.(?:{_FILES})"
    setting = r"\w[\w.]* ?= ?[\w.]+"
    return re.compile(rf"(?<![\w.-])(?:{command}|--[a-z][\w-]*|{file}|{setting})(?![\w-])")
