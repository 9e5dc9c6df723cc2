"""Every command and every snippet of the documentation, run or at least parsed."""

import re
import tomllib
from collections.abc import Callable

import pytest
from typer.main import get_command

from stdeploy.cli.main import app
from stdeploy.train.recipe import Recipe, packaged_recipes
from tests.docs.conftest import ARTIFACTS
from tests.docs.following import ITEMS, PAGES_RUN, follow
from tests.docs.output import pattern_of
from tests.docs.pages import ROOT, Command, Snippet
from tests.docs.rules import (
    CHEAPER,
    FOREIGN,
    INSTEAD,
    STAND_INS,
    VARIES,
    class_of,
    ours_in,
    parts,
)
from tests.docs.sandbox import Sandbox

_RUNS_IT = " runs it"
COMMANDS = [item for items in ITEMS.values() for item in items if isinstance(item, Command)]
_FOLDERS = r"(?:\.ci|docs|export|serve|stdeploy|tests|train)"
_FILE = re.compile(rf"(?<![\w./-])({_FOLDERS}/[\w./-]*[\w-])")


def _elsewhere(command: Command) -> str:
    """The page that runs the same, where a command is only parsed for that; or nothing."""
    reason = command.parsed or ""
    return reason.removesuffix(_RUNS_IT) if reason.endswith(_RUNS_IT) else ""


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES_RUN if not page.startswith("docs/")])
def test_commands_of_a_page_do_what_it_says(page: str, sandbox: Callable[[str], Sandbox]) -> None:
    follow(page, sandbox)


@pytest.mark.parametrize("command", [c for c in COMMANDS if class_of(c) == "parsed"], ids=str)
def test_commands_that_cannot_run_here_are_parsed(command: Command) -> None:
    found = ours_in(command.text)
    assert found, f"{command}: nothing of ours in it"
    for words in found:
        _parse(words)


def _parse(words: list[str]) -> None:
    """Let the real command take its arguments, without running it."""
    verb = get_command(app)
    while hasattr(verb, "commands"):
        name, *words = words
        assert name in verb.commands, f"there is no verb {name!r}"
        verb = verb.commands[name]
    options = verb.make_context(str(verb.name), words).params
    if options.get("recipe") in packaged_recipes():  # and its fields are there
        weights = [f"start.weights={options['weights']}"] if options.get("weights") else []
        Recipe.load(options["recipe"], [*(options["overrides"] or ()), *weights])


@pytest.mark.parametrize("command", [c for c in COMMANDS if _elsewhere(c)], ids=str)
def test_commands_that_another_page_runs_are_run_there(command: Command) -> None:
    page = _elsewhere(command)
    assert page in PAGES_RUN
    there = [c for c in ITEMS[page] if isinstance(c, Command) and class_of(c) == "run"]
    assert all(words in [parts(c.text)[0] for c in there] for words in parts(command.text))


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--no-such-option"],
        ["data", "no-such-verb"],
        ["export", "--batches"],
        ["train", "--set", "clip.fqs=1"],
    ],
)
def test_a_command_with_a_wrong_option_is_no_command(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such|there is no|requires an argument"):
        _parse(words)


@pytest.mark.parametrize("command", [c for c in COMMANDS if class_of(c) == "foreign"], ids=str)
def test_files_and_extras_of_other_programs_commands_exist(command: Command) -> None:
    for name in _FILE.findall(command.text):
        assert (ROOT / name).exists(), f"{command}: there is no {name}"
    words = [word for part in parts(command.text) for word in part]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    if "pip" in command.text:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for named in re.findall(r"'(?:\.|stdeploy)\[([\w,]+)\]'", command.text):
            assert set(named.split(",")) <= set(extras["optional-dependencies"]), command


def test_excerpts_name_files_that_are_there() -> None:
    items = [item for items in ITEMS.values() for item in items]
    named = [item.excerpt for item in items if isinstance(item, Snippet) and item.excerpt]
    assert all((ROOT / name).is_file() for name in named), named


def test_every_rule_is_used() -> None:
    texts = [re.sub(r"\s+#.*$", "", command.text) for command in COMMANDS]
    for pattern in (*FOREIGN, *STAND_INS):
        assert any(re.fullmatch(pattern, text) for text in texts), pattern
    for pattern in (*(one.command for one in CHEAPER), *INSTEAD):
        assert any(re.search(pattern, text) for text in texts), pattern
    for page, words in VARIES.items():
        shown = [c.output for c in ITEMS[page] if isinstance(c, Command)]
        for word in words:
            assert any(word in line for lines in shown for line in lines), (page, word)
    assert set(ARTIFACTS) <= set(PAGES_RUN)


@pytest.mark.parametrize(
    ("shown", "printed", "there"),
    [
        ("ckpt.onnx  51.1 MB", "ckpt.onnx  3.0 MB\n", True),
        ("ckpt.onnx  51.1 MB", "ckpt.onnx is broken\n", False),
        ("│ batch 1 │ 3.4e-07 │", "│ batch 12  │ 1.0e-3  │", True),
        ('{"id": "...", "views": 3, ...}', '{"id":"a7","views":1,"x":2}', True),
        ('{"id": "...", "views": 3, ...}', '{"id":"a7","crops":1,"x":2}', False),
        ("  ... one row for each of the 57 layers ...", "", True),
    ],
)
def test_output_is_compared_but_for_numbers(shown: str, printed: str, there: bool) -> None:
    assert bool(re.search(pattern_of(shown), printed)) is there
