"""Pages that lie elsewhere in the repository, and links to what the site does not hold."""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[2]
_SECTION = "Project"
# Place in the repository -> place in the site.
_PAGES = {
    "train/README.md": "folders/train.md",
    "export/README.md": "folders/export.md",
    "serve/README.md": "folders/serve.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changes.md",
}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"^ {0,3}```")
_UNNAMED = re.compile(r"```$")


def on_config(config: MkDocsConfig) -> None:
    """Put the project's own pages into the navigation, as far as they exist."""
    for section in config.nav or []:
        if _SECTION in section:
            section[_SECTION] += [
                place
                for source, place in _PAGES.items()
                if place.startswith("project/") and (_ROOT / source).is_file()
            ]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Take the pages in."""
    for source, place in _PAGES.items():
        if (_ROOT / source).is_file():
            text = (_ROOT / source).read_text()
            files.append(File.generated(config, place, content=text))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links lead to where things are in the site, and commands be known as such."""
    here = page.file.src_uri
    in_repository = {place: source for source, place in _PAGES.items()}
    base = posixpath.dirname(in_repository.get(here, f"docs/{here}"))
    lines, in_fence = [], False
    for line in markdown.split("\n"):
        if _FENCE.match(line):
            in_fence = not in_fence
            if in_fence and here in in_repository:
                line = _UNNAMED.sub(r"\g<0>sh", line)
        lines.append(line if in_fence else _LINK.sub(lambda m: _moved(m, base, here), line))
    return "\n".join(lines)


def _moved(found: re.Match[str], base: str, page: str) -> str:
    path, _, anchor = found["target"].partition("#")
    if not path or ":" in path:
        return found[0]
    place = posixpath.normpath(posixpath.join(base, path))
    if not (_ROOT / place).exists():
        return found[0]  # mkdocs knows it, or says that it is broken
    inside = _PAGES.get(place, place.removeprefix("docs/"))
    if place not in _PAGES and (inside == place or inside.endswith(".py")):
        text, name = found["text"].strip("`"), posixpath.basename(place)
        return f"`{place}`" if name in text or text in name else f"{text} (`{place}`)"
    target = os.path.relpath(inside, posixpath.dirname(page) or ".")
    return f"{found['image']}[{found['text']}]({target}{'#' + anchor if anchor else ''})"
