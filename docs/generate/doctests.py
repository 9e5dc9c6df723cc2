"""Worked examples in docstrings (>>> lines and what they print) become blocks of code."""

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"(?:^>>> .*\n(?:(?!\s*$).*\n?)*)", re.MULTILINE)


class Doctests(Extension):
    """Fences them, since Markdown would take >>> for quotations."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of whatever was read."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(
                lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", obj.docstring.value
            )
