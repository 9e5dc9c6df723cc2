"""The packaged recipes, as they lie in the program: <!-- recipes -->."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from stdeploy.train.recipe import packaged_recipes

_MARK = "<!-- recipes -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put all recipes in place of the mark."""
    return markdown.replace(_MARK, "\n".join(_recipes()))


def _recipes() -> Iterator[str]:
    folder = files("stdeploy.train") / "recipes"
    for name in packaged_recipes():
        text = (folder / f"{name}.toml").read_text().rstrip()
        yield from (f"### {name}", "", f'```toml title="{name}.toml"', text, "```", "")
