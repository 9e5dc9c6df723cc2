"""From answers and frames to events, and from events to all sinks. What `stdeploy watch` holds."""

import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Self

from stdeploy.events.clip import ClipRecorder, ClipSettings
from stdeploy.events.delivery import Delivery
from stdeploy.events.disk_queue import Addition, Bound, DiskQueue, QueueError
from stdeploy.events.event import Answer, Event, Reason, killed
from stdeploy.events.rules import Rules, check_rules
from stdeploy.events.settings import EventSettings
from stdeploy.events.sink import Message, QueuedSettings, Report, SinkCounts

_MOST_HELD = 10_000  # events that are held in memory while the disk takes none
_LOOK_SECONDS = 0.5  # between two looks for sources that have fallen silent
_PAUSE_SECONDS = 1.0  # until the disk is tried again
_CLOSE_SECONDS = 5.0
_LATE_SECONDS = 2.0  # answers about the last frames of a source come after its end


@dataclasses.dataclass(frozen=True)
class EventCounts:
    """What the rules found, and what became of it.

    Attributes:
        started: events by (rule, source), since the program started.
        ended: likewise.
        lost: events that no sink got, because the disk took none for too long.
        sinks: by name.
    """

    started: Mapping[tuple[str, str], int]
    ended: Mapping[tuple[str, str], int]
    lost: int
    sinks: Mapping[str, SinkCounts]


@dataclasses.dataclass(frozen=True)
class FramesWanted:
    """Which frames the clips of events are made of.

    Attributes:
        fps: frames of a second, at most.
        longest_px: of the longer side; larger ones are made smaller later.
    """

    fps: float
    longest_px: int


class EventPipeline:
    """Rules, queue and sinks of one program; a context manager.

    No call but `close` waits for a disk, a network or a receiver: events go through memory to a
    thread that puts them into the queue, and every sink has a thread of its own.

    Args:
        settings: what [events] says.
        labels: of the network.
        sources: names of those that are watched.
        report: is told in words what goes wrong, and what is lost.

    Raises:
        SpecError: labels or sources that there are not, or a sink that cannot be set up.
        MissingExtraError: the package of a sink is not installed.
    """

    def __init__(
        self,
        settings: EventSettings,
        *,
        labels: Collection[str],
        sources: Collection[str],
        report: Report = lambda _: None,
    ) -> None:
        check_rules(settings.rules, labels=labels, sources=sources)
        self._settings, self._report = settings, report
        self._rules = Rules(settings.rules, gap_seconds=settings.gap_seconds)
        self._lock = threading.Lock()  # of the rules, and of what they find
        self._heard: dict[str, float] = {}  # when a source last had an answer, monotonic
        self._stopped: dict[str, Reason] = {}  # sources that have ended or broken off
        self._running: dict[str, Event] = {}  # starts, of events that have not ended
        self._started: dict[tuple[str, str], int] = {}
        self._ended: dict[tuple[str, str], int] = {}
        self._inbox: deque[Event] = deque()
        self._lost = 0
        self._came, self._closing = threading.Event(), threading.Event()
        self._kept = threading.Condition()  # notified when the inbox has gone to the disk
        self._disk_fails = False
        queued = {n: s for n, s in settings.sinks.items() if isinstance(s, QueuedSettings)}
        with contextlib.ExitStack() as undo:  # if not everything can be set up
            sinks = {}
            for name, each in queued.items():
                sinks[name] = each.open(name)
                undo.callback(sinks[name].close)
            bounds = {
                name: Bound(each.max_messages, each.max_bytes) for name, each in queued.items()
            }
            self._queue = DiskQueue(settings.folder, bounds, report)
            undo.callback(self._queue.close)
            self._recorders = self._opened_recorders()
            undo.pop_all()
        self._end_what_was_killed()
        self._deliveries = {
            name: Delivery(name, sink, self._queue, queued[name], report)
            for name, sink in sinks.items()
        }
        self._writer = threading.Thread(target=self._write, name="events", daemon=True)
        self._writer.start()

    def take(self, answer: Answer) -> list[Event]:
        """Look at an answer; what it starts and ends is on its way to the sinks.

        Args:
            answer: of a source that is watched.

        Returns:
            What it starts and ends.
        """
        with self._lock:
            self._heard[answer.source] = time.monotonic()
            return self._send(self._rules.take(answer))

    def tap(self, source: str, jpeg: bytes, seconds: float) -> None:
        """Keep a frame for the clips of events that may come; nothing where no sink wants any.

        Args:
            source: its name.
            jpeg: the frame.
            seconds: when it is shown, by the clock that the answers of this source have.
        """
        for name, recorder in self._recorders.items():
            if self._wanted_from(source, name):
                recorder.tap(source, jpeg, seconds)

    @property
    def frames_wanted(self) -> FramesWanted | None:
        """What `tap` should get; None where no sink makes use of it."""
        clips = [s for s in self._settings.sinks.values() if isinstance(s, ClipSettings)]
        if not clips:
            return None
        return FramesWanted(max(s.fps for s in clips), max(s.longest_px for s in clips))

    def source_stopped(self, source: str, reason: Reason) -> None:
        """End what is going on in a source, once its last answers have come: after 2 s without one.

        Args:
            source: its name.
            reason: "source_ended" or "source_broke_off".
        """
        with self._lock:
            if source in self._heard:
                self._stopped[source] = reason

    def counts(self) -> EventCounts:
        """What was found so far, and what became of it."""
        with self._lock:
            started, ended, lost = dict(self._started), dict(self._ended), self._lost
        sinks = {name: each.counts() for name, each in self._deliveries.items()}
        sinks |= {name: each.counts() for name, each in self._recorders.items()}
        return EventCounts(started, ended, lost, sinks)

    def running(self) -> list[Event]:
        """The starts of the events that are going on, in their order; from any thread."""
        with self._lock:
            return list(self._running.values())

    def flush(self, timeout_seconds: float = 5.0) -> bool:
        """Wait until every event so far is on the disk; whether that was in time."""
        with self._kept:
            return self._kept.wait_for(lambda: not self._inbox, timeout_seconds)

    def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """End all events, and give the sinks some time; what is left waits for the next run.

        Args:
            seconds: how much time.
        """
        if self._closing.is_set():
            return
        with self._lock:
            for source, reason in self._stopped.items():
                self._send(self._rules.break_off(source, reason))
            self._send(self._rules.close())
        deadline = time.monotonic() + seconds
        self.flush(seconds)
        self._closing.set()
        self._came.set()
        self._writer.join(timeout=max(0.1, deadline - time.monotonic()))
        for delivery in self._deliveries.values():
            delivery.finish(deadline)
        for delivery in self._deliveries.values():
            delivery.join()
        for recorder in self._recorders.values():
            recorder.close()
        self._say_what_is_left()
        self._queue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _opened_recorders(self) -> dict[str, ClipRecorder]:
        least = max(rule.least_seconds for rule in self._settings.rules)
        return {
            name: sink.open(name, least_seconds=least, report=self._report)
            for name, sink in self._settings.sinks.items()
            if isinstance(sink, ClipSettings)
        }

    def _wanted_from(self, source: str, sink: str) -> bool:
        """Whether a sink can get an event of a source."""
        wants = self._settings.sinks[sink].wants
        return any(
            wants(rule.name) and (rule.sources is None or source in rule.sources)
            for rule in self._settings.rules
        )

    def _send(self, events: list[Event]) -> list[Event]:
        """Count events and put them on their way; the lock is held."""
        for event in events:
            counted = self._started if event.kind == "start" else self._ended
            if event.kind == "start":
                self._running[event.event] = event
            else:
                self._running.pop(event.event, None)
            key = (event.rule, event.source)
            counted[key] = counted.get(key, 0) + 1
            for name, recorder in self._recorders.items():
                if self._settings.sinks[name].wants(event.rule):
                    recorder.take(event)
            if len(self._inbox) >= _MOST_HELD:
                self._lost += 1
                with contextlib.suppress(IndexError):  # the disk took it at this moment
                    self._inbox.popleft()
            self._inbox.append(event)
        if events:
            self._came.set()
        return events

    def _write(self) -> None:
        """What the thread does: events to the disk, and sources that have fallen silent."""
        while not (self._closing.is_set() and not self._inbox):
            self._came.wait(_LOOK_SECONDS)
            self._came.clear()
            self._end_silent()
            batch = list(self._inbox)
            if not batch:
                continue
            try:
                self._keep(batch)
            except Exception as error:  # a fault of ours, too, must not end the thread
                if not self._disk_fails:
                    self._disk_fails = True
                    self._report(f"events are held in memory, and the disk tried again: {error}")
                if self._closing.wait(_PAUSE_SECONDS):
                    break
                self._came.set()
                continue
            if self._disk_fails:
                self._disk_fails = False
                self._report("the disk takes events again")

    def _keep(self, batch: Sequence[Event]) -> None:
        """Put events into the queues of the sinks that want them.

        Raises:
            QueueError: none of them is there.
        """
        additions = [
            Addition(
                Message(event.id, event.to_json()),
                self._sinks_of(event.rule),
                event.event,
                event.kind == "start",
            )
            for event in batch
        ]
        self._tell_of_lost(self._queue.add(additions))
        with self._kept:
            for event in batch:
                if self._inbox and self._inbox[0] is event:  # not if it was lost meanwhile
                    self._inbox.popleft()
            self._kept.notify_all()
        for delivery in self._deliveries.values():
            delivery.wake()

    def _sinks_of(self, rule: str) -> list[str]:
        return [
            name
            for name, sink in self._settings.sinks.items()
            if isinstance(sink, QueuedSettings) and sink.wants(rule)
        ]

    def _end_silent(self) -> None:
        """End events of sources that have stopped, or have had no answer for long."""
        now = time.monotonic()
        with self._lock:
            for source, heard in list(self._heard.items()):
                reason = self._stopped.get(source, "no_answers")
                late = self._settings.gap_seconds if reason == "no_answers" else _LATE_SECONDS
                if now - heard > late:
                    del self._heard[source]
                    self._stopped.pop(source, None)
                    self._send(self._rules.break_off(source, reason))

    def _end_what_was_killed(self) -> None:
        """End the events that were going on when another run was killed."""
        with contextlib.suppress(QueueError):
            additions = []
            for start in self._queue.running():
                message = Message(*killed(start))
                rule, event = message.record["rule"], message.record["event"]
                additions.append(Addition(message, self._sinks_of(rule), event, starts=False))
            self._tell_of_lost(self._queue.add(additions))
            for sink, count in self._queue.strangers().items():
                self._report(
                    f"{count} messages wait for the sink {sink!r}, which there is not any more"
                )

    def _tell_of_lost(self, lost: Mapping[str, int]) -> None:
        for sink, count in lost.items():
            self._report(f"the queue of the sink {sink!r} is full: its {count} oldest made room")

    def _say_what_is_left(self) -> None:
        if self._inbox:
            self._report(f"{len(self._inbox)} events are lost: the disk took none")
        for name, counts in self.counts().sinks.items():
            if counts.queued:
                self._report(
                    f"{counts.queued} messages for the sink {name!r} wait for the next run, in "
                    f"{str(self._settings.folder)!r}"
                )
