"""Pipelines with one rule, and answers that start and end events."""

from pathlib import Path

from stdeploy.events.event import Answer, Moment
from stdeploy.events.pipeline import EventPipeline
from stdeploy.events.settings import parse_events

LABELS = ("fight", "nothing")
WALL = 1_800_000_000.0


def pipeline(folder: Path, *sinks: dict, report=lambda _: None, **events: object) -> EventPipeline:
    """Of one rule, "fight" from 0.8, for the sources "door" and "yard"."""
    rule = {"name": "fight", "labels": "fight", "on": 0.8, "off": 0.5}
    fields = {"rules": [rule], "sinks": list(sinks), **events}
    settings = parse_events(fields, file=folder / "cameras.toml")
    return EventPipeline(settings, labels=LABELS, sources=["door", "yard"], report=report)


def answer(seconds: float, score: float, source: str = "door") -> Answer:
    return Answer(source, Moment(seconds, WALL + seconds), LABELS, (score, 1 - score))


def feed_events(into: EventPipeline, count: int, *, first: int = 0) -> list[str]:
    """Events of half a second, one a second; the ids of their messages, in order."""
    found = []
    for number in range(first, first + count):
        found += into.take(answer(number, 0.9)) + into.take(answer(number + 0.5, 0.1))
    assert len(found) == 2 * count
    return [event.id for event in found]
