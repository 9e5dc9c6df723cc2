"""From the queue of one sink to the sink, in a thread of its own: in order, one at a time."""

import contextlib
import random
import threading
import time

from stdeploy.events.disk_queue import DiskQueue, QueueError, Waiting
from stdeploy.events.sink import (
    QueuedSettings,
    RefusedError,
    Report,
    Sink,
    SinkCounts,
    TryAgainError,
)

_FIRST_PAUSE_SECONDS = 1.0
_IDLE_SECONDS = 1.0  # a queue is looked at anew, if nobody says that something came


class Delivery:
    """Delivers the messages of one sink.

    What was delivered and could not be taken out of the queue, because the disk is full, is not
    delivered again in this run.

    Args:
        name: of the sink.
        sink: where they go.
        queue: where they come from.
        settings: how long pauses are, and how often what is refused is tried.
        report: is told in words when it stops getting through, and when it does again.
    """

    def __init__(
        self, name: str, sink: Sink, queue: DiskQueue, settings: QueuedSettings, report: Report
    ) -> None:
        self._name, self._sink, self._queue = name, sink, queue
        self._settings, self._report = settings, report
        self._delivered = self._retried = 0
        self._done = 0  # number of the last message that was delivered
        self._left_in = False  # whether that one could not be taken out of the queue
        self._failing = False
        self._came = threading.Event()
        self._stop = threading.Event()
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something was added to the queue."""
        self._came.set()

    def counts(self) -> SinkCounts:
        """What became of the messages so far; without the queue, where that cannot be read."""
        counts = SinkCounts(delivered=self._delivered, retried=self._retried)
        with contextlib.suppress(QueueError):
            totals = self._queue.totals(self._name)
            counts = SinkCounts(
                queued=totals.queued,
                queued_bytes=totals.queued_bytes,
                delivered=self._delivered,
                retried=self._retried,
                dropped=totals.dropped,
                dead=totals.dead,
            )
        return counts

    def finish(self, deadline: float) -> None:
        """Deliver what is left, but no longer than until a moment, then end.

        Args:
            deadline: by `time.monotonic()`.
        """
        self._deadline = deadline
        self._came.set()

    def join(self) -> None:
        """Wait for the thread until the moment that `finish` named."""
        assert self._deadline is not None
        self._thread.join(timeout=max(0.0, self._deadline - time.monotonic()))
        self._stop.set()
        self._thread.join(timeout=0.5)

    def _run(self) -> None:
        """What the thread does."""
        while not self._stop.is_set():
            self._came.clear()
            try:
                waiting = self._queue.first(self._name, after=self._done)
            except QueueError:
                waiting = None
            if waiting is not None:
                self._bring(waiting)
            elif self._deadline is not None:
                break
            else:
                if self._left_in:
                    self._remove(self._done)
                self._came.wait(_IDLE_SECONDS)
        with contextlib.suppress(Exception):  # of a library, about a connection that is given up
            self._sink.close()

    def _bring(self, waiting: Waiting) -> None:
        """Try until the message is delivered or given up, or the program ends."""
        pause, refusals = _FIRST_PAUSE_SECONDS, 0
        while not self._stop.is_set():
            wanted: float | None = None
            try:
                self._sink.deliver(waiting.message)
            except TryAgainError as error:
                reason, wanted = str(error), error.after_seconds
            except RefusedError as error:
                reason, refusals = str(error), refusals + 1
                if refusals == self._settings.tries_when_refused:
                    self._bury(waiting, reason)
                    return
            except Exception as error:  # a fault of ours or of a library must not end the thread
                reason = f"{type(error).__name__}: {error}"
            else:
                self._delivered += 1
                self._remove(waiting.number)
                if self._failing:
                    self._failing = False
                    self._report(f"sink {self._name!r}: messages get through again")
                return
            self._note(reason)
            self._retried += 1
            # Not all at once that failed at once.
            self._pause(wanted if wanted is not None else pause * random.uniform(0.8, 1.0))
            pause = min(2 * pause, self._settings.longest_pause_seconds)

    def _note(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            self._report(f"sink {self._name!r}: {reason}; trying again, messages wait in the queue")

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stop.is_set():
            if self._deadline is not None and time.monotonic() + left > self._deadline:
                self._stop.set()  # it would be too late
            self._stop.wait(min(left, 0.2))

    def _bury(self, waiting: Waiting, reason: str) -> None:
        self._report(
            f"sink {self._name!r}: {reason}, {self._settings.tries_when_refused} times; message "
            f"{waiting.message.id} is given up, and kept in the table 'dead' of the queue"
        )
        self._remove(waiting.number, refused=reason)

    def _remove(self, number: int, refused: str | None = None) -> None:
        self._done, self._left_in = number, True
        with contextlib.suppress(QueueError):  # the next one that is removed takes it along
            self._queue.remove(self._name, number, refused=refused)
            self._left_in = False
