"""What rules take and give: answers about live video, and messages about events (pure)."""

import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Any, Literal

Kind = Literal["start", "end"]
# Why an event ended. score_fell: below the threshold. clock_leapt: the clock of the stream went
# back, or far ahead. no_answers: none came for so long. source_broke_off, source_ended: of the
# source; program_ended: in order; program_killed: found out when it was started again.
Reason = Literal[
    "score_fell",
    "clock_leapt",
    "no_answers",
    "source_broke_off",
    "source_ended",
    "program_ended",
    "program_killed",
]


@dataclasses.dataclass(frozen=True)
class Moment:
    """When something was, by two clocks.

    Attributes:
        seconds: by the clock of the stream.
        time: seconds since 1970, UTC.
    """

    seconds: float
    time: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the network says about the newest clip of a source.

    Attributes:
        source: its name.
        at: when the last frame of the clip was shown.
        labels: K names, in any order.
        scores: their probabilities, 0 to 1, in that order.
    """

    source: str
    at: Moment
    labels: Sequence[str]
    scores: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Event:
    """The start or the end of an event; what is known of it by then.

    Attributes:
        kind: start or end.
        event: unique to the event; its start and its end share it.
        rule: name of the rule.
        source: name of the source.
        labels: of the rule.
        start: when the score first rose.
        peak: when it was highest so far.
        peak_score: how high, 0 to 1.
        mean_score: over the answers so far.
        answers: how many these are.
        end: when it fell, or the last answer where the source or the program ended; None of a
            start, and where the program was killed.
        reason: why it ended; None of a start.
    """

    kind: Kind
    event: str
    rule: str
    source: str
    labels: tuple[str, ...]
    start: Moment
    peak: Moment
    peak_score: float
    mean_score: float
    answers: int
    end: Moment | None = None
    reason: Reason | None = None

    @property
    def id(self) -> str:
        """Unique to the message: a receiver that knows it has had it already."""
        return f"{self.event}.{self.kind}"

    def to_record(self) -> dict[str, Any]:
        """As plain data for JSON; times in UTC."""
        record: dict[str, Any] = {
            "id": self.id,
            "event": self.event,
            "kind": self.kind,
            "source": self.source,
            "rule": self.rule,
            "labels": list(self.labels),
            "start_time": iso(self.start.time),
            "start_seconds": round(self.start.seconds, 3),
            "peak_score": round(self.peak_score, 6),
            "peak_time": iso(self.peak.time),
            "peak_seconds": round(self.peak.seconds, 3),
            "mean_score": round(self.mean_score, 6),
            "answers": self.answers,
        }
        if self.kind == "end":
            end = self.end
            record |= {
                "end_time": end and iso(end.time),
                "end_seconds": end and round(end.seconds, 3),
                "duration_seconds": end and round(end.seconds - self.start.seconds, 3),
                "reason": self.reason,
            }
        return record

    def to_json(self) -> bytes:
        """The record as one line of JSON, without its end."""
        return json.dumps(self.to_record(), ensure_ascii=False).encode()


def killed(start: bytes) -> tuple[str, bytes]:
    """The end of an event whose start is known, and no more, as id and JSON.

    Args:
        start: what `Event.to_json` gave.
    """
    record = json.loads(start)
    reason: Reason = "program_killed"
    ended = dict.fromkeys(("end_time", "end_seconds", "duration_seconds"))
    record |= {"id": f"{record['event']}.end", "kind": "end", **ended, "reason": reason}
    return record["id"], json.dumps(record, ensure_ascii=False).encode()


def iso(time: float) -> str:
    """A moment in UTC, to the millisecond.

    >>> iso(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    when = datetime.datetime.fromtimestamp(time, datetime.UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
