"""What every sink offers, and what each can be told. One sink a file; `sinks.py` names them."""

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, FiniteFloat

from stdeploy.artifacts.values import Spec
from stdeploy.errors import SpecError
from stdeploy.events.event import Event

Report = Callable[[str], None]
_MIB = 2**20


class TryAgainError(Exception):
    """A message that did not get through, and may later.

    Args:
        reason: in words.
        after_seconds: when the receiver wants it again, where it says so.
    """

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class RefusedError(Exception):
    """A message that the receiver does not want: unlikely to get through later."""


@dataclasses.dataclass(frozen=True)
class Message:
    """What goes to a sink.

    Attributes:
        id: the same however often it is sent.
        body: an `Event` as JSON.
    """

    id: str
    body: bytes

    @property
    def record(self) -> dict[str, Any]:
        """The body as plain data."""
        record: dict[str, Any] = json.loads(self.body)
        return record


class Sink(ABC):
    """Takes one message at a time, in a thread of its own."""

    @abstractmethod
    def deliver(self, message: Message) -> None:
        """Hand a message over; when it returns, the receiver has it.

        Raises:
            TryAgainError: it does not have it, and may later.
            RefusedError: it does not want it.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of connections."""


@dataclasses.dataclass(frozen=True)
class SinkCounts:
    """What became of the messages of a sink.

    Attributes:
        queued: messages that wait.
        queued_bytes: how large they are.
        delivered: since the program started.
        retried: attempts that failed and were made again, since then.
        dropped: messages for which there was no room; of a queue on the disk, since it was begun.
        dead: messages that were refused; likewise.
    """

    queued: int = 0
    queued_bytes: int = 0
    delivered: int = 0
    retried: int = 0
    dropped: int = 0
    dead: int = 0


class Recorder(ABC):
    """Takes events and frames as they come; what it makes of them is in memory until it is done."""

    @abstractmethod
    def take(self, event: Event) -> None:
        """An event starts or ends. Returns at once."""

    @abstractmethod
    def counts(self) -> SinkCounts:
        """What became of the events so far."""

    @abstractmethod
    def close(self) -> None:
        """Finish what was begun."""


# A list of names; one alone needs no brackets.
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Field(min_length=1),
]


class SinkSettings(Spec):
    """What every sink can be told.

    Attributes:
        name: in messages and metrics. Default: its kind.
        rules: names of those whose events it gets; None for all.
    """

    name: str | None = Field(default=None, min_length=1, max_length=100)
    rules: Names | None = None

    def beside(self, folder: Path) -> Self:
        """The same with relative paths in a folder."""
        paths = {
            name: folder / value
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), Path) and str(value) != "-"
        }
        return self.model_copy(update=paths)

    def wants(self, rule: str) -> bool:
        """Whether events of a rule go to it."""
        return self.rules is None or rule in self.rules


class QueuedSettings(SinkSettings, ABC):
    """What a sink with a queue on the disk can be told.

    Attributes:
        max_messages: of its queue; the oldest make room.
        max_bytes: of these messages.
        longest_pause_seconds: between two attempts; pauses begin at 1 s and double.
        tries_when_refused: how often a message is sent that is refused.
    """

    max_messages: int = Field(default=10_000, ge=1)
    max_bytes: int = Field(default=64 * _MIB, ge=1024)
    longest_pause_seconds: FiniteFloat = Field(default=30.0, ge=0.1)
    tries_when_refused: int = Field(default=4, ge=1)

    @abstractmethod
    def open(self, name: str) -> Sink:
        """The sink; nothing is sent yet.

        Args:
            name: of the sink, for errors.

        Raises:
            SpecError: a secret or file that is not there.
            MissingExtraError: its package is not installed.
        """


def secret(file: Path | None, variable: str | None, *, place: str) -> str | None:
    """What stands in a file or an environment variable; None where neither is named.

    Raises:
        SpecError: both are named, or it is not there, or empty.
    """
    if file is not None and variable is not None:
        raise SpecError(f"{place}: a file and a variable both give it; leave one of them out")
    if file is not None:
        try:
            found = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "is no text"
            raise SpecError(f"{place}: {str(file)!r} cannot be read: {why}") from error
        if not found:
            raise SpecError(f"{place}: {str(file)!r} is empty")
        return found
    if variable is not None:
        found = os.environ.get(variable, "").strip()
        if not found:
            raise SpecError(f"{place}: the environment variable {variable} is not set, or empty")
        return found
    return None
