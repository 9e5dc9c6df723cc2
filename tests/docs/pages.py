"""What stands in fenced blocks of the documentation: commands with their output, and snippets.

A block of commands has lines that begin with `$ `, or is sh, bash or console, or has no language
and begins with a program. Before a block a comment may stand, which readers do not see:

    <!-- parsed: there is no GPU -->                 its commands are parsed, not run
    <!-- parsed: docs/tutorial.md runs it -->        likewise; that page has to
    <!-- parsed watch: there is no camera -->        those that match this
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "train/*.md", "export/*.md", "serve/*.md")
    for path in ROOT.glob(pattern)
)

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")
_MARK = re.compile(r"^\s*<!-- parsed(?: (?P<only>[^:>]+))?: (?P<reason>.+?) -->\s*$")
_STATUS = re.compile(r"\s*# exit status (\d)\b.*$")
_SHELL = {"sh", "bash", "shell", "console"}
_PROGRAMS = re.compile(
    r"^(?:[A-Z_]+=\S+ )*(?:bash|cat|curl|docker|ffmpeg|find|git|install|kubectl|make|pip|python3?|"
    r"serve|source|stdeploy|systemctl|torchrun) "
)


@dataclasses.dataclass
class Command:
    """A command of a page.

    Attributes:
        page: where it stands, from the root of the repository.
        line: of the page.
        text: as it is typed, in one piece.
        output: what the page shows below it.
        parsed: why it is only parsed; None where it is not marked so.
        status: exit status that the page shows.
    """

    page: str
    line: int
    text: str
    output: list[str] = dataclasses.field(default_factory=list)
    parsed: str | None = None
    status: int = 0

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclasses.dataclass
class Snippet:
    """A block of Python.

    Attributes:
        page: where it stands, from the root of the repository.
        line: of the page.
        text: of the block.
    """

    page: str
    line: int
    text: str

    @property
    def excerpt(self) -> str | None:
        """The file whose lines these are, if the first line names one; it is then no program."""
        found = re.match(r"# (\w[\w./-]*\.py)\n", self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: python"


@dataclasses.dataclass
class _Block:
    page: str
    line: int
    language: str
    lines: list[str]
    mark: re.Match[str] | None


def read_page(page: str) -> list[Command | Snippet]:
    """Everything on a page that can be run, from its top to its end."""
    return [item for block in _blocks(page) for item in _items(block)]


def _blocks(page: str) -> Iterator[_Block]:
    block: _Block | None = None
    fence, mark = "", None
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        found = _FENCE.match(line)
        if block is None and found:
            indent, fence = len(found["indent"]), found["ticks"]
            block = _Block(page, number, found["language"], [], mark)
        elif block is not None and line.strip() == fence:
            yield block
            block = mark = None
        elif block is not None:
            block.lines.append(line[min(indent, len(line) - len(line.lstrip())) :])
        elif line.strip():
            mark = _MARK.match(line)
    assert block is None, f"{page}: a block that begins at line {block.line} does not end"


def _items(block: _Block) -> Iterator[Command | Snippet]:
    if block.language == "python":
        yield Snippet(block.page, block.line, "\n".join(block.lines))
        return
    prompted = any(line.startswith("$ ") for line in block.lines)
    unnamed = not block.language and any(_PROGRAMS.match(line + " ") for line in block.lines)
    if not (prompted or unnamed or block.language in _SHELL):
        return
    command: Command | None = None
    goes_on = False
    for number, line in enumerate(block.lines, start=block.line + 1):
        if goes_on and command is not None:
            command.text += f" {line.strip()}"
        elif line.startswith("$ ") or (not prompted and line.strip() and line.strip()[0] != "#"):
            if command is not None:
                yield _finished(command, block)
            command = Command(block.page, number, line.removeprefix("$ "))
        elif command is not None and prompted:
            command.output.append(line)
        goes_on = command is not None and command.text.endswith("\\")
        if goes_on and command is not None:
            command.text = command.text.removesuffix("\\").rstrip()
    if command is not None:
        yield _finished(command, block)


def _finished(command: Command, block: _Block) -> Command:
    for place, line in enumerate(command.output):
        if status := _STATUS.search(line):
            command.status = int(status[1])
            command.output[place] = line[: status.start()]
    mark = block.mark
    if mark is not None and (mark["only"] is None or re.search(mark["only"], command.text)):
        command.parsed = mark["reason"]
    return command
