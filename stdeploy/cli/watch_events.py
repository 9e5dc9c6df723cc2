"""What [events] of `stdeploy watch --sources` adds: rules over answers, and sinks for events."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stdeploy.errors import SpecError

if TYPE_CHECKING:
    from stdeploy.events.pipeline import EventPipeline
    from stdeploy.events.settings import EventSettings
    from stdeploy.inference.live_sources import (
        Hooks,
        LiveSources,
        SourceAnswer,
        SourceStatus,
    )
    from stdeploy.inference.source_list import SourceList
    from stdeploy.serve.live_server import LiveServer
    from stdeploy.video.live_reader import LivePicture
    from stdeploy.video.live_worker import Pictures


def event_settings(listed: "SourceList", file: Path) -> "EventSettings | None":
    """What a list of sources says of events; None for nothing.

    Args:
        listed: what it says.
        file: where it stands.

    Raises:
        SpecError: what is not possible; one line says where.
    """
    for number, source in enumerate(listed.sources, 1):
        if source.events is not None:
            raise SpecError(
                f"{str(file)!r}, [[source]] {number}: events: a source names no events; write "
                f"sources = [{source.shown!r}] in the [[events.rules]] that are about it"
            )
    if not listed.events:
        return None
    from stdeploy.events.settings import parse_events

    return parse_events(listed.events, file=file)


def open_events(
    settings: "EventSettings",
    *,
    labels: Sequence[str],
    hops: Mapping[str, float],
    say: Callable[[str], None],
    server: "LiveServer | None",
) -> "WatchedEvents":
    """The rules and sinks of a run; a context manager.

    Args:
        settings: what [events] says.
        labels: of the network.
        hops: seconds between answers of each source that is watched, by name.
        say: is told in words what goes wrong.
        server: shows them, and metrics; None for none.

    Raises:
        SpecError: labels or sources that there are not, answers too far apart, or a sink that
            cannot be set up.
        MissingExtraError: the package of a sink is not installed.
    """
    from stdeploy.events.pipeline import EventPipeline

    slowest = max(hops, key=lambda name: hops[name])
    if hops[slowest] >= settings.gap_seconds:
        raise SpecError(
            f"[events] gap_seconds = {settings.gap_seconds:g}: answers about {slowest!r} come "
            f"every {hops[slowest]:g} s, so that every event would end at once; more is allowed"
        )
    events = EventPipeline(settings, labels=labels, sources=hops, report=say)
    if server is not None:
        from stdeploy.serve.event_metrics import EventMetrics

        server.metrics.registry.register(EventMetrics(events.counts))
        server.events = events.running
    return WatchedEvents(events)


class WatchedEvents:
    """Gives a pipeline of events what `LiveSources` tells; closes it with the block.

    Args:
        events: the pipeline.
    """

    def __init__(self, events: "EventPipeline") -> None:
        self._events = events
        self._statuses: Callable[[], Sequence[SourceStatus]] = lambda: ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def pictures(self, others: "Pictures | None") -> "Pictures | None":
        """What is wanted of pictures, beside what others want."""
        from stdeploy.video.live_worker import Pictures

        wanted = self._events.frames_wanted
        if wanted is None:
            return others
        ours = Pictures(1 / wanted.fps, wanted.longest_px)
        if others is None:
            return ours
        interval = min(ours.interval_seconds, others.interval_seconds)
        return Pictures(interval, max(ours.longest_px, others.longest_px))

    def hooks(self, others: "Hooks") -> "Hooks":
        """What sources tell goes here as well as to others."""

        def answer(answer: "SourceAnswer") -> None:
            others.answer(answer)
            self._answer(answer)

        def picture(picture: "LivePicture") -> None:
            others.picture(picture)
            self._events.tap(picture.source, picture.jpeg, picture.stream_seconds)

        def report(source: str, text: str) -> None:
            others.report(source, text)
            self._look_at(source)

        return dataclasses.replace(others, answer=answer, picture=picture, report=report)

    def opened(self, live: "LiveSources") -> None:
        """The sources are about to be read."""
        self._statuses = live.statuses

    def _answer(self, answer: "SourceAnswer") -> None:
        from stdeploy.events.event import Answer, Moment

        at = Moment(answer.stream_seconds, answer.time)
        self._events.take(Answer(answer.source, at, answer.labels, answer.scores))

    def _look_at(self, source: str) -> None:
        """End the events of a source that has just stopped."""
        state = next((s.state for s in self._statuses() if s.source == source), None)
        if state == "ended":
            self._events.source_stopped(source, "source_ended")
        elif state == "broken":
            self._events.source_stopped(source, "source_broke_off")
