"""The page of the HTTP API, made from the server's OpenAPI document when the site is built."""

from collections.abc import Iterator, Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from schema import Schema, fields, type_of

from stdeploy.serve.errors import STATUS
from stdeploy.serve.request_gate import RequestGate
from stdeploy.serve.server import application
from stdeploy.serve.settings import ServeSettings
from stdeploy.serve.uploads import UploadFolder

_PAGE = "reference/http.md"
_OPENING = """# HTTP API

What `stdeploy serve` answers, made from its OpenAPI document; the server shows the same at `/docs`
and gives it as JSON at `/openapi.json`. [Serve over HTTP](../serving.md) says how to ask.
"""

_REFUSALS = (
    "Each has the body [Error](#error). [When there is no "
    "answer](../serving.md#when-there-is-no-answer) says what each code means."
)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Make the page."""
    files.append(File.generated(config, _PAGE, content="\n".join(_page(document()))))


def document() -> dict[str, Any]:
    """The OpenAPI document of a server with the settings by default; no model is opened."""
    with UploadFolder() as uploads:
        gate = RequestGate(ServeSettings(), uploads)
        return application(gate, api_key=None, own_metrics=True).openapi()


def _page(api: Schema) -> Iterator[str]:
    yield _OPENING
    tag = ""
    refusals: dict[str, str] = {}
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            if route["tags"][0] != tag:
                tag = route["tags"][0]
                yield from (f"## {tag[0].upper()}{tag[1:]}", "")
            yield from _route(f"{method.upper()} {path}", route, refusals)
    yield from _refusals(refusals)
    yield from ("## Bodies", "")
    for name, schema in sorted(api["components"]["schemas"].items()):
        yield from (f"### {name}", "", schema.get("description", ""), "")
        yield from fields(schema, _link)


def _refusals(meanings: Mapping[str, str]) -> Iterator[str]:
    """What each status means, with the codes that come with it."""
    yield from ("## Refusals", "", _REFUSALS, "")
    yield from ("| status | `code` | means |", "| --- | --- | --- |")
    for status in sorted(set(STATUS.values())):
        codes = ", ".join(f"`{code}`" for code, its in STATUS.items() if its == status)
        yield f"| {status} | {codes} | {meanings[str(status)]} |"
    yield ""


def _route(title: str, route: Schema, refusals: dict[str, str]) -> Iterator[str]:
    yield from (f"### `{title}`", "")
    about = route.get("summary", "")
    yield from (about if about.endswith("?") else f"{about}.", "")
    if about := route.get("description"):
        yield from (about, "")
    parameters = route.get("parameters", [])
    if parameters:
        yield from ("Parameters", "")
        yield from fields({"properties": {p["name"]: p["schema"] for p in parameters}}, _link)
    body = route.get("requestBody", {}).get("content", {})
    if body:
        yield from (f"Body: {_contents(body)}.", "")
    refused = []
    for status, answer in route["responses"].items():
        contents = answer.get("content", {})
        if status.startswith("2"):
            yield from (f"Answer {status}: {_contents(contents) or 'empty'}.", "")
        else:
            refusals.setdefault(status, answer["description"])
            refused.append(status)
    if refused:
        yield from (f"Refused with {', '.join(refused)}; [what they mean](#refusals).", "")


def _contents(contents: Schema) -> str:
    """What a body may hold, by its type."""
    return "; or ".join(
        f"`{kind}`: {type_of(content.get('schema', {}), _link)}"
        for kind, content in contents.items()
    )


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"
