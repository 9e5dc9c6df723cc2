"""JSON schemas as Markdown: what both OpenAPI and pydantic's models are described by."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
_WORDS = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "object",
    "null": "null",
}


def type_of(schema: Schema, link: Callable[[str], str]) -> str:
    """What a value may be, in a few words.

    Args:
        schema: of the value.
        link: from the name of another schema to how it is written.
    """
    if "$ref" in schema:
        return link(schema["$ref"].rpartition("/")[2])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(type_of(one, link) for one in schema[several]))
    if "allOf" in schema:
        return type_of(schema["allOf"][0], link)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return _array(schema, link)
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {type_of(schema['additionalProperties'], link)} by name"
    if schema.get("format") == "binary":
        return "file"
    return _WORDS.get(str(kind), "any value") + _range(schema)


def fields(
    schema: Schema, link: Callable[[str], str], about: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The properties of an object as lines of a definition list.

    Args:
        schema: of the object.
        link: see `type_of`.
        about: what each means; without it the schema's own description.
    """
    needed = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        words = [type_of(field, link)]
        if "default" in field:
            words.append(f"default {_default(field['default'])}")
        elif name in needed:
            words.append("always there" if about is None else "required")
        meaning = (about or {}).get(name) or field.get("description") or ""
        yield f"`{name}` · {', '.join(words)}"
        yield f":   {meaning or '<!-- -->'}"
        yield ""


def _array(schema: Schema, link: Callable[[str], str]) -> str:
    if "prefixItems" in schema:
        kinds = [type_of(item, link) for item in schema["prefixItems"]]
        if len(set(kinds)) == 1:
            return f"list of {len(kinds)} x {kinds[0]}"
        return f"list of {', '.join(kinds)}"
    return f"list of {type_of(schema.get('items', {}), link)}"


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    parts = []
    if low is not None:
        parts.append(f"{low:g} or more")
    if above is not None:
        parts.append(f"above {above:g}")
    if high is not None:
        parts.append(f"{high:g} or less")
    if below is not None:
        parts.append(f"below {_limit(below)}")
    return f", {' and '.join(parts)}" if parts else ""


def _limit(value: float) -> str:
    """A bound; those of an integer's bits as a power of two."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if power > 30 and value == 2**power else f"{value:g}"


def _default(value: object) -> str:
    if value == "":
        return "empty"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict) and value:
        return "those of its fields"
    if isinstance(value, (list, dict)):
        return f"`{value}`" if value else "empty"
    return f"`{value}`"
