"""Commands that the manual's pages show, for the pages of the commands: tests run them there."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

from mkdocs.structure.files import Files

_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL = {"", "sh", "console"}
_GOES_ON = re.compile(r"\s*\\\n\s*")
_COMMAND = re.compile(r"^(?:\$ )?(stdeploy [^#|&;\n]+?) *(?:#.*)?$", re.MULTILINE)
_MOST = 4  # of a verb


@dataclasses.dataclass(frozen=True)
class Example:
    """A command of a page.

    Attributes:
        text: as it is typed.
        page: where it stands, from docs/.
        title: of that page, as the navigation has it.
    """

    text: str
    page: str
    title: str


def examples_in(files: Files, nav: Any) -> list[Example]:
    """Commands of ours in the fenced blocks of pages, each once, in the order of the navigation."""
    found: dict[str, Example] = {}
    for named, page in _pages(nav):
        file = files.get_file_from_path(page)
        text = file.content_string if file is not None and not file.generated_by else ""
        for command in _commands(text):
            title = named or _TITLE.findall(text)[0]
            found.setdefault(command, Example(command, page, title))
    return list(found.values())


def of_verb(examples: Iterable[Example], verb: str) -> list[Example]:
    """A few examples of a verb, from as many pages as there are.

    Args:
        examples: of all.
        verb: as it is typed, such as "stdeploy data check".
    """
    found = [each for each in examples if f"{each.text} ".startswith(f"{verb} ")]
    before: collections.Counter[str] = collections.Counter()
    ranks = {}  # the first of each page, then the second
    for each in found:
        ranks[each] = before[each.page]
        before[each.page] += 1
    wanted = sorted(found, key=ranks.__getitem__)[:_MOST]
    return [each for each in found if each in wanted]


def _commands(text: str) -> Iterator[str]:
    for language, block in _BLOCK.findall(text):
        if language in _SHELL:
            yield from _COMMAND.findall(_GOES_ON.sub(" ", block))


def _pages(nav: Any, title: str = "") -> Iterator[tuple[str, str]]:
    """Pages of a navigation, which holds lists and titles with what stands under them.

    Yields:
        The title that the navigation gives a page, or nothing, and its place.
    """
    if isinstance(nav, str):
        yield title, nav
    elif isinstance(nav, dict):
        for title, inner in nav.items():
            yield from _pages(inner, title)
    else:
        for inner in nav:
            yield from _pages(inner)
