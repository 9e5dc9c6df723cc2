"""The manual as it is built: every link leads somewhere, nothing comes from elsewhere."""

import html
import html.parser
import json
import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from stdeploy.cli.main import app
from stdeploy.serve.errors import STATUS
from tests.docs.pages import PAGES, ROOT, Command, read_page

# What a browser loads with a page; <a href> is what a reader follows.
LOADED = {
    ("audio", "src"),
    ("iframe", "src"),
    ("img", "src"),
    ("link", "href"),
    ("script", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
}
# Named by the theme in pages that lie in no folder of the site.
NOT_PAGES = {"404.html"}


class Page(html.parser.HTMLParser):
    """Names of places in a page, links out of it, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.places.add(value)
            if tag == "a" and name == "href" and value:
                self.links.append(value)
            if (tag, name) in LOADED and value:
                self.loaded.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert built.stdout + built.stderr == ""
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    return {path: page for path, page in found.items() if path.name not in NOT_PAGES}


def test_make_docs_is_what_is_tested() -> None:
    recipe = (ROOT / "Makefile").read_text()
    assert "NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet" in recipe


def test_every_link_leads_to_a_page_and_a_place_in_it(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in (*page.links, *page.loaded):
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            places = pages[target].places if target in pages else {url.fragment}
            if not target.is_file():
                broken.append(f"{path.name}: {link}")
            elif url.fragment and urllib.parse.unquote(url.fragment) not in places:
                broken.append(f"{path.name}: {link} names no place")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    foreign = [
        (path.name, link)
        for path, page in pages.items()
        for link in page.loaded
        if re.match(r"(https?:)?//", link)
    ]
    assert not foreign
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", sheet.read_text()), sheet


def test_every_verb_and_option_is_in_the_reference(site: Path) -> None:
    verbs: dict[str, Any] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {"": command})
        verbs |= {f"{name} {verb}".strip(): nested for verb, nested in inner.items()}
    for name, verb in verbs.items():
        text = (site / "reference" / "commands" / f"{name.replace(' ', '-')}.html").read_text()
        for parameter in verb.params:
            for flag in parameter.opts:
                assert flag in text, (name, flag)


def test_the_reference_shows_what_is_typed_as_code_and_ranges_in_words(site: Path) -> None:
    commands = site / "reference/commands"
    export = (commands / "export.html").read_text()
    for typed in ("*.fused.safetensors", ".onnx", "--calibrate", "kl_nats=0.1"):
        assert re.search(rf"<code>(?:<span[^>]*>)?{re.escape(typed)}(?:</span>)?</code>", export)
    classify = (commands / "classify.html").read_text()
    assert 'auto: see <a href="doctor.html"><code>stdeploy doctor</code></a>' in classify
    assert "Allowed: 1 or more" in classify
    assert "Allowed: 1 to 64" in classify


def test_every_verb_has_examples_that_a_page_of_the_manual_shows(site: Path) -> None:
    shown = {
        f"{item.text} "
        for page in PAGES
        if page.startswith("docs/")
        for item in read_page(page)
        if isinstance(item, Command)
    }
    for path in (site / "reference/commands").glob("[!i]*.html"):  # all but the index
        _, there, text = path.read_text().partition('id="examples"')
        assert there, path.name
        blocks = re.findall(r"<pre>.*?</pre>", text, re.DOTALL)
        lines = html.unescape(re.sub(r"<[^>]+>", "", "\n".join(blocks))).split("\n")
        assert all(any(each.startswith(f"{line} ") for each in shown) for line in lines if line)


def test_the_search_puts_the_python_api_last_and_what_users_do_first(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text())["docs"]

    def boosts(start: str) -> set[float]:
        return {one.get("boost", 1) for one in index if one["location"].startswith(start)}

    api, rest, how_to = boosts("reference/python/"), boosts("reference/files"), boosts("how-to/")
    assert max(api) * 100 < min(rest) < min(how_to)
    assert boosts("reference/commands/") == how_to


def test_equations_are_drawn(site: Path) -> None:
    text = (site / "explanation" / "method.html").read_text()
    assert text.count("<math") >= 20
    assert all(f"({number})</span>" in text for number in range(2, 10))
    assert "arithmatex" not in text


def test_fields_and_recipes_are_filled_in(site: Path) -> None:
    files = (site / "reference" / "files.html").read_text()
    for name in ("temporal_lengths", "num_frames", "golden", "engine_sha256"):
        assert f"<code>{name}</code>" in files
    recipes = (site / "reference" / "recipes.html").read_text()
    for name in ("head_learning_rate_factor", "ego_motion_sigma_px", "ssv2-i3d-r50-ours.toml"):
        assert name in recipes
    for path in site.rglob("*.html"):
        assert not re.search(r"<!-- (fields|recipes)", path.read_text()), path


def test_the_reference_of_http_has_every_route(site: Path) -> None:
    text = (site / "reference" / "http.html").read_text()
    for route in ("GET /v1/models", "POST /v1/classify", "GET /livez", "GET /metrics"):
        assert route in text
    for name in ("request_id", "view_spans_seconds", "mean_score"):
        assert f"<code>{name}</code>" in text


def test_both_pages_on_http_have_every_code_of_an_error(site: Path) -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    listed = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", page, re.MULTILINE)
    assert [(code, int(status)) for status, code in listed] == list(STATUS.items())
    text = (site / "reference" / "http.html").read_text().replace("<wbr>", "")
    table, _, bodies = text.partition('id="bodies"')
    field = re.search(r"<dt><code>code</code>.*?</dt>", bodies)
    assert field is not None
    for code in STATUS:
        assert f"<code>{code}</code>" in table, code
        assert f"<code>{code}</code>" in field[0], code


def test_paths_in_code_break_at_slashes(site: Path) -> None:
    text = (site / "reference/http.html").read_text()
    assert "<code>GET /v2/<wbr>models/<wbr>{model}/<wbr>config</code>" in text


def test_lines_break_behind_joints_in_tables_and_never_in_options(site: Path) -> None:
    text = (site / "how-to" / "fine-tune.html").read_text()
    assert (
        '<td><code><span class="option">--set</span> clip.<wbr>frame_<wbr>stride=2</code></td>'
        in text
    )
    assert "<code>train.csv</code> and" in text
