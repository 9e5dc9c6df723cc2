"""Whether a program printed what a page shows, as far as that is constant."""

import re
from collections.abc import Iterable

_NUMBER = r"-?[\d.,:]*\d(?:e[+-]?\d+)?"
_TOKEN = re.compile(
    rf"(?P<dots>(?:,\s*)?\.\.\.)|(?P<number>{_NUMBER})|(?P<space>\s+)|(?P<bar>[█━─┃│┏┓┗┛┡┩├┤]+)"
)


def missing(shown: Iterable[str], printed: str, *, varies: Iterable[str] = ()) -> list[str]:
    """Lines that a page shows and a program did not print.

    Numbers stand for any number, `...` and words that vary for anything, and the lines of a table
    for any; a line of `...` and words in brackets or dots is the page's own.

    Args:
        shown: lines of the page.
        printed: by the program, both standard output and error.
        varies: words that stand for anything.
    """
    words = tuple(varies)
    return [
        line for line in shown if line.strip() and not re.search(pattern_of(line, words), printed)
    ]


def pattern_of(line: str, varies: Iterable[str] = ()) -> str:
    """A line of a page as a regular expression."""
    if line.strip().startswith("... "):
        return ""  # the page's own words about what it leaves out
    for word in varies:
        line = line.replace(word, "...")
    line = line.strip()
    pattern, end = "", 0
    for found in _TOKEN.finditer(line):
        pattern += re.escape(line[end : found.start()])
        kind = found.lastgroup
        pattern += {"dots": ".*?", "number": _NUMBER, "space": r"\s*"}.get(str(kind), r"\W*")
        end = found.end()
    return pattern + re.escape(line[end:])
