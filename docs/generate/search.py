"""What the search puts behind the rest: the Python API, which few look for."""

from typing import Any

from mkdocs.structure.pages import Page

_FOLDER = "reference/python/"
_BOOST = 0.3


def on_page_markdown(_markdown: str, page: Page, **_: Any) -> None:
    """Lower the weight of a page, unless it names one itself."""
    if page.file.src_uri.startswith(_FOLDER):
        page.meta.setdefault("search", {"boost": _BOOST})
