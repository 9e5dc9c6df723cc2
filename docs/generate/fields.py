"""Tables of fields, taken from pydantic's models.

A page asks for one by <!-- fields: stdeploy.artifacts.card.ModelCard -->, or by
<!-- own fields: ... --> for those that it does not inherit.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from griffe import Docstring, DocstringSectionKind
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from schema import fields

_MARK = re.compile(r"<!-- (?P<own>own )?fields: (?P<path>[\w.]+) -->")
# Where the fields of a model stand that others hold.
_PLACES = {
    "ModelSpec": "reference/files.md",
    "ForeignSpec": "reference/files.md",
    "ClipSpec": "reference/files.md",
    "StreamSpec": "reference/files.md",
    "StateSpec": "reference/files.md",
    "ParityRow": "reference/files.md",
    "Lineage": "reference/files.md",
    "Edit": "reference/files.md",
    "GoldenClip": "reference/files.md",
    "Calibration": "reference/files.md",
    "ModelCard": "reference/files.md",
}


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put the fields in place of each mark."""
    here = page.file.src_uri

    def made(found: re.Match[str]) -> str:
        module, _, name = found["path"].rpartition(".")
        model = getattr(importlib.import_module(module), name)
        return "\n".join(_fields(model, here, own=found["own"] is not None))

    return _MARK.sub(made, markdown)


def _fields(model: type[BaseModel], page: str, *, own: bool) -> Iterator[str]:
    def link(name: str) -> str:
        return f"[{name}](#{name.lower()})" if _PLACES.get(name) == page else f"`{name}`"

    schema = model.model_json_schema()
    if own:
        named = schema["properties"]
        schema["properties"] = {
            name: named[name] for name in named if name in vars(model)["__annotations__"]
        }
    return fields(schema, link, _meanings(model))


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring says under Attributes."""
    meanings: dict[str, str] = {}
    for section in Docstring(inspect.getdoc(model) or "", parser="google").parse(warnings=False):
        if section.kind is DocstringSectionKind.attributes:
            attributes: list[Any] = section.value
            meanings |= {one.name: " ".join(one.description.split()) for one in attributes}
    return meanings
