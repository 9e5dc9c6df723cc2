"""The list of sources of `stdeploy watch --sources`: a TOML file.

hop_seconds = 1.0

[[source]]
name = "door"
url = "rtsp://door.local/stream"
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from stdeploy.artifacts.values import Spec
from stdeploy.errors import SpecError
from stdeploy.video.live_reader import LiveSource, check_names

_MOST_SOURCES = 1000


def _as_address(value: object) -> object:
    """A camera may be written as the number that it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class _Source(Spec):
    """One [[source]]."""

    url: Annotated[str, Field(min_length=1), BeforeValidator(_as_address)]
    name: str = ""
    hop_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    reconnect: bool | None = None
    events: Any = None


class _File(Spec):
    """All of it; its sources are checked one by one, so that errors name them."""

    source: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=_MOST_SOURCES)
    hop_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    events: dict[str, Any] = Field(default_factory=dict)


class SourceList(NamedTuple):
    """What such a file says.

    Attributes:
        sources: in their order.
        hop_seconds: of sources that say nothing; None where the file does not, either.
        events: its table [events], as it stands; nothing here reads it.
    """

    sources: tuple[LiveSource, ...]
    hop_seconds: float | None
    events: Mapping[str, Any]


def read_source_list(file: Path) -> SourceList:
    """Read a list of sources.

    Args:
        file: TOML; paths of videos in it are relative to its folder.

    Raises:
        SpecError: it cannot be read, or holds what is not possible; one line says where.
    """
    try:
        fields = tomllib.loads(file.read_text())
    except OSError as error:
        raise SpecError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{str(file)!r} is no TOML: {error}") from error
    if not fields.get("source"):
        raise SpecError(
            f'{str(file)!r} names no source; write [[source]] and url = "rtsp://..." for each'
        )
    found = _File.parse(fields, source=repr(str(file)))
    sources = []
    for number, one in enumerate(found.source, 1):
        place = f"{str(file)!r}, [[source]] {number}"
        each = _Source.parse(one, source=place)
        beside = file.parent / each.url
        try:
            sources.append(
                LiveSource(
                    address=str(beside) if _is_file(beside, each.url) else each.url,
                    name=each.name,
                    hop_seconds=each.hop_seconds,
                    reconnect=each.reconnect,
                    events=each.events,
                )
            )
        except SpecError as error:
            raise SpecError(f"{place}: {error}") from error
    try:
        check_names(sources)
    except SpecError as error:
        raise SpecError(f"{str(file)!r}: {error}") from error
    return SourceList(tuple(sources), found.hop_seconds, found.events)


def _is_file(path: Path, written: str) -> bool:
    return "://" not in written and not written.isdecimal() and path.is_file()
