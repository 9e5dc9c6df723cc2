"""Value objects that go to JSON and back, and what is said of wrong values. No torch here."""

import json
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from stdeploy.errors import SpecError, did_you_mean

_LONGEST_VALUE = 200  # signs of a wrong value that an error shows
_LONGEST_LABEL = 1000  # characters

# What moves a terminal's cursor, ends a line, or turns the direction of what follows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The same text with its control characters written out.

    >>> printable("run\x1b[31m")
    'run\\x1b[31m'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


# Text for people, from files: it is shown as it stands.
Line = Annotated[str, AfterValidator(printable)]

# By pydantic's type of error, with what it knows about it.
_ALLOWED = {
    "bool_parsing": "true or false is allowed",
    "bool_type": "true or false is allowed",
    "dict_type": "a table is wanted",
    "finite_number": "a finite number is allowed",
    "float_parsing": "a number is allowed",
    "float_type": "a number is allowed",
    "greater_than": "more than {gt:.10g} is allowed",
    "greater_than_equal": "{ge:.10g} or more is allowed",
    "int_from_float": "a whole number is allowed",
    "int_parsing": "a whole number is allowed",
    "int_parsing_size": "a smaller number is allowed",
    "int_type": "a whole number is allowed",
    "less_than": "less than {lt:.10g} is allowed",
    "less_than_equal": "{le:.10g} or less is allowed",
    "literal_error": "{expected} is allowed",
    "model_type": "a table is wanted",
    "string_too_short": "a text that is not empty is wanted",
    "string_type": "text is allowed",
    "too_long": "a list of {max_length} values is wanted",
    "too_short": "a list of {min_length} or more values is wanted",
    "union_tag_invalid": "kind {tag!r} is not known; {expected_tags} is allowed",
    "tuple_type": 'a list in brackets is wanted, such as [1, 2] or ["a", "b"]',
}


def parsed(loads: Callable[[str], Any], text: str) -> Any:
    """What a text of JSON or TOML holds, which may come from anyone.

    Args:
        loads: json.loads or tomllib.loads.
        text: what it is given.

    Raises:
        ValueError: it is no such text, or one that Python does not read.
    """
    try:
        return loads(text)
    except RecursionError:
        raise ValueError("its lists or tables are nested deeper than any of ours") from None
    except (json.JSONDecodeError, tomllib.TOMLDecodeError):
        raise
    except ValueError:  # Python reads no more than 4,300 digits
        raise ValueError("a number in it has more digits than any of ours") from None


def check_labels(labels: Sequence[str], *, named_before: bool = False) -> None:
    """Refuse names of classes that cannot be told apart or cannot be shown.

    Args:
        labels: in the order of the classes.
        named_before: they stand in a file that was written when less was refused: then equal ones
            alone are told from each other, and one may show nothing.

    Raises:
        ValueError: two look the same, or one shows nothing, holds a control character or is longer
            than any name.
    """
    places: dict[str, int] = {}
    for number, label in enumerate(labels):
        if len(label) > _LONGEST_LABEL:
            raise ValueError(
                f"label {number} has {len(label)} characters; at most {_LONGEST_LABEL} are allowed"
            )
        if label != printable(label):
            raise ValueError(f"label {number} holds a control character: {label[:80]!r}")
        shown = label if named_before else _visible(label)
        if not shown and not named_before:
            raise ValueError(f"label {number} shows nothing: {label[:80]!r}")
        before = places.setdefault(shown, number)
        if before != number:
            same = f"are both {label[:80]!r}"
            if label != labels[before]:
                same = f"look the same: {labels[before][:80]!a} and {label[:80]!a}"
            raise ValueError(
                f"labels {before} and {number} {same}; every class has a name of its own"
            )


def _visible(text: str) -> str:
    r"""What is seen of a text: without characters that show nothing, and spaces at its ends.

    >>> _visible("cafe\u0301 \u200b") == "caf\u00e9"
    True
    """
    composed = unicodedata.normalize("NFC", text)
    seen = (each for each in composed if unicodedata.category(each) != "Cf")
    return " ".join("".join(seen).split())


class Spec(BaseModel):
    """A frozen value object that goes to JSON and back and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    @field_validator("*", mode="before")
    @classmethod
    def _what_pydantic_lets_through(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true where a number is wanted, which would be 1, and paths that cannot be."""
        if isinstance(value, bool) or (isinstance(value, str) and "\0" in value):
            kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
            if isinstance(value, str):
                if Path in kinds:
                    raise ValueError("a path without NUL is wanted")
            elif bool not in kinds and kinds & {int, float}:
                number = "float" if float in kinds else "int"
                raise PydanticCustomError(f"{number}_type", "a number is allowed")
        return value

    @classmethod
    def parse(cls, fields: object, *, source: str = "") -> Self:
        """Check plain data (a dict, as JSON or TOML gives it).

        Args:
            fields: the data.
            source: where a user wrote it, for the error. Default: the name of the class.

        Raises:
            SpecError: one line that names the field, its value and what is allowed.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise SpecError(f"{source or cls.__name__}: {_told(cls, error.errors())}") from error


def what_is_allowed(wrong: ErrorDetails) -> str:
    """What pydantic finds wrong with a value, in our words: "a whole number is allowed"."""
    allowed = _ALLOWED.get(wrong["type"])
    if allowed is None:
        return wrong["msg"].removeprefix("Value error, ")
    told = {name: _without_brackets(value) for name, value in wrong.get("ctx", {}).items()}
    return allowed.format(**told)


def _without_brackets(value: object) -> object:
    """Tags without the brackets that mark them; other values as they are."""
    return re.sub(r"<(\w+)>", r"\1", value) if isinstance(value, str) else value


def _told(spec: type[BaseModel], found: list[ErrorDetails]) -> str:
    """The first wrong field, its value and what is allowed."""
    # A misspelt field is reported before the one that is therefore missing.
    first = min(found, key=lambda wrong: wrong["type"] != "extra_forbidden")
    place, words = first["loc"], what_is_allowed(first)
    if first["type"] == "extra_forbidden":
        words = f"there is no such field{_nearest(spec, place)}"
    place = _untagged(place)
    if first["type"] == "missing" and isinstance(place[-1], str):
        return f"{'.'.join(map(str, place))} is missing, and has no default"
    if first["type"] == "missing":  # the end of a list that is too short
        place = place[:-1]
        short = [wrong["loc"] for wrong in found if _untagged(wrong["loc"][:-1]) == place]
        missing = [int(loc[-1]) for loc in short]
        words = f"a list of {max(missing) + 1} values is wanted"
    if not place:
        return words
    return f"{printable('.'.join(map(str, place)))} = {_shown(first['input'])}: {words}"


def _kinds(annotation: object) -> Iterator[object]:
    """The types that an annotation allows a value to be, at its outermost."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        for part in get_args(annotation):
            yield from _kinds(part)
    else:
        yield annotation


def _is_tag(part: int | str) -> bool:
    """Whether pydantic put it there: which of several kinds a table is, "<foreign>" say."""
    return isinstance(part, str) and part.startswith("<") and part.endswith(">")


def _untagged(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(part for part in place if not _is_tag(part))


def _shown(value: object) -> str:
    """A wrong value as Python writes it, its middle left out where it is long."""
    try:
        text = repr(value)
    except RecursionError:
        return "(nested lists or tables)"
    if len(text) <= _LONGEST_VALUE:
        return text
    return f"{text[: _LONGEST_VALUE // 2]} ... {text[-_LONGEST_VALUE // 2 :]}"


def _nearest(spec: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """Which known field an unknown one may have meant, as the rest of a sentence."""
    *outer, name = place
    tagged: dict[str, type[BaseModel]] = {}
    for field in outer:
        if str(field) in tagged:
            spec, tagged = tagged[str(field)], {}
        elif field in spec.model_fields:
            tagged = dict(_tables(spec.model_fields[str(field)].annotation))
            spec = next((table for tag, table in tagged.items() if not tag), spec)
    return (
        did_you_mean(str(name), spec.model_fields) or f"; there are {', '.join(spec.model_fields)}"
    )


def _tables(annotation: object) -> Iterator[tuple[str, type[BaseModel]]]:
    """The tables that a field can be, with the tags that tell the kinds of one apart; else ""."""
    tags = [each.tag for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Tag)]
    for kind in get_args(annotation) or (annotation,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield (tags[0] if tags else ""), kind
        elif get_args(kind):
            yield from _tables(kind)
