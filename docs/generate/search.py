"""What the search puts first and last: pages for those who use the program, then how it is made."""

from typing import Any

from mkdocs.structure.pages import Page

# Beside 1; a word of a title weighs a thousand times one of a text.
_BOOSTS = {
    "tutorial.md": 2,
    "how-to/": 4,
    "reference/commands/": 4,
    "benchmarks/": 0.1,
    "architecture.md": 0.1,
    "project/": 0.1,
    "reference/python/": 0.001,
}


def on_page_markdown(_markdown: str, page: Page, **_: Any) -> None:
    """Weigh a page, unless it does so itself."""
    for place, boost in _BOOSTS.items():
        if page.file.src_uri.startswith(place):
            page.meta.setdefault("search", {"boost": boost})
