"""What a backend says about itself on a host; `stdeploy doctor` shows it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from stdeploy.errors import MissingExtraError

Status = Literal["works", "absent", "problem", "fact"]
Topic = TypeVar("Topic", bound=str)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what it is about.
        status: "works", "absent" (not installed, or no such hardware), "problem" or "fact".
        text: what was found.
        remedy: what to do; empty where nothing has to be done.
    """

    topic: str
    status: Status
    text: str
    remedy: str = ""


def findings(topic: Topic, look: Callable[[Topic], Iterator[Finding]]) -> Iterator[Finding]:
    """What a look finds; an installation that is broken is a finding too.

    Args:
        topic: name of what is looked at.
        look: takes that name, loads the library and tries it.
    """
    try:
        yield from look(topic)
    except MissingExtraError as error:
        yield Finding(topic, "absent", "not installed", error.install)
    except Exception as error:  # a broken installation raises anything
        reason = " ".join(str(error).split())[:200]
        text = f"is installed but broken: {type(error).__name__}: {reason}"
        yield Finding(topic, "problem", text, f"reinstall {topic}")
