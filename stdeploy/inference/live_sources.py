"""Many live sources and one network: batches across sources, the one that waits longest first."""

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Literal, Self

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.backends.base import RunsClips
from stdeploy.errors import SpecError, VideoError, check_count
from stdeploy.inference.live_answers import LiveAnswer
from stdeploy.inference.live_networks import FrameBuffer, Input, LiveNetwork, live_network
from stdeploy.inference.prediction import rank
from stdeploy.video.live import trying_again
from stdeploy.video.live_reader import (
    DueFrame,
    LivePicture,
    LiveReader,
    LiveSource,
    check_names,
)
from stdeploy.video.live_worker import Pictures

SourceState = Literal["waiting", "live", "stalled", "broken", "ended"]
_STALLED_SECONDS = 3.0
_NOTICE_SECONDS = 0.2  # so often it is looked whether Ctrl-C was pressed
_BATCH_ON_GPU = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceAnswer(LiveAnswer):
    """What the network says about one of many sources.

    Attributes:
        source: its name.
        time: when the last frame was read, in seconds since 1970.
    """

    source: str
    time: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceStatus:
    """How one of many sources does.

    Attributes:
        source: its name.
        state: "waiting" has given no frame yet, "live", "stalled" has given none for 3 s,
            "broken" broke off and is opened again, "ended" gives no more.
        note: what was wrong last; empty where nothing is.
        frames: that were due, at the clip's interval, and came.
        dropped: of these, that the network never saw.
        answers: about it, so far.
        reconnects: how often it was opened again.
        lag_seconds: of the last answer, see `LiveAnswer`; None before the first.
        age_seconds: since its newest frame came; None before the first.
        answer: the last one.
    """

    source: str
    state: SourceState
    note: str
    frames: int
    dropped: int
    answers: int
    reconnects: int
    lag_seconds: float | None
    age_seconds: float | None
    answer: SourceAnswer | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """Who else is told what many sources give; each in turn, so none may take long.

    Attributes:
        answer: of each answer, before it is handed out, in the thread that takes answers.
        picture: of each picture, in a thread of its source.
        batch: of each batch, how many sources were in it and how many seconds it took.
        report: of the name of a source, and in words what happens to it, in a thread of its own.
    """

    answer: Callable[[SourceAnswer], None] = lambda _answer: None
    picture: Callable[[LivePicture], None] = lambda _picture: None
    batch: Callable[[int, float], None] = lambda _sources, _seconds: None
    report: Callable[[str, str], None] = lambda _source, _text: None


NO_HOOKS = Hooks()


class LiveSources:
    """Answers about many sources; a context manager that reads them while it is open.

    The source whose newest frames have waited longest since its last answer comes first, so that
    none can starve another; where several wait, up to `batch` go into the network together. Of
    each the newest frames win.

    Args:
        sources: which; each is read by a process of its own.
        network: answers.
        clip: its frames.
        labels: K names, in the order of the logits.
        hop_seconds: from one answer about a source to the next, on average at least, where it says
            nothing.
        batch: sources in the network at once, at most.
        pictures: to look at, for `hooks.picture`; None for none.
        hooks: are told what happens.

    Raises:
        SpecError: no source, two of one name, or a number that is not possible.
    """

    def __init__(
        self,
        sources: Iterable[LiveSource],
        network: LiveNetwork[Any],
        clip: ClipSpec,
        labels: Sequence[str],
        *,
        hop_seconds: float = 0.5,
        batch: int = 1,
        pictures: Pictures | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        listed = list(sources)
        if not listed:
            raise SpecError("there is no source to watch; name one at least")
        check_names(listed)
        check_count("batch", batch)
        self._network = network
        self._labels = labels
        self._batch = batch
        self._hooks = hooks
        self._busy_since: float | None = None
        self._changed = threading.Condition()
        self._feeds = [
            _Feed(
                source.shown,
                network.buffer(hop_seconds if source.hop_seconds is None else source.hop_seconds),
                self._changed,
                hooks,
            )
            for source in listed
        ]
        self._readers = [
            LiveReader(source, clip, feed, pictures=pictures)
            for source, feed in zip(listed, self._feeds, strict=True)
        ]

    def statuses(self) -> list[SourceStatus]:
        """How the sources do, in their order; from any thread."""
        with self._changed:
            return [feed.status() for feed in self._feeds]

    def __iter__(self) -> Iterator[SourceAnswer]:
        """Answers as they come, until all sources have ended."""
        return self.answers()

    def answers(self) -> Generator[SourceAnswer]:
        """Answers as they come, until all sources have ended.

        Raises:
            ArtifactError: of the network.
        """
        while taken := self._next_batch():
            start = self._busy_since = time.monotonic()
            logits = self._network.run([each for _, each in taken])
            end = time.monotonic()
            self._busy_since = None
            self._hooks.batch(len(taken), end - start)
            for (feed, each), one in zip(taken, logits, strict=True):
                if not each.answers:
                    continue
                labels, scores = rank(one[None], self._labels)
                now = time.monotonic()
                answer = SourceAnswer(
                    labels=labels,
                    scores=scores,
                    stream_seconds=each.stream_seconds,
                    lag_seconds=now - each.arrived,
                    source=feed.name,
                    time=time.time() - (now - each.arrived),
                )
                with self._changed:
                    feed.answered(answer)
                self._hooks.answer(answer)
                yield answer

    def busy_seconds(self) -> float:
        """How long the network has been working on the batch that it works on; from any thread."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def errors(self) -> list[VideoError]:
        """Of the sources that have ended without an answer, why."""
        with self._changed:
            return [
                VideoError(f"{feed.name}: {feed.note or 'the source ended without a frame'}")
                for feed in self._feeds
                if feed.ended and not feed.answer_count
            ]

    def close(self) -> None:
        """Stop reading; all processes have ended when this returns."""
        for reader in self._readers:
            reader.stop()
        for reader in self._readers:
            reader.close()

    def __enter__(self) -> Self:
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_batch(self) -> "list[tuple[_Feed, Input]]":
        """What goes into the network next; nothing where all sources have ended."""
        with self._changed:
            while True:
                waiting = [
                    (since, place)
                    for place, feed in enumerate(self._feeds)
                    if (since := feed.buffer.ready_since) is not None
                ]
                if waiting:
                    chosen = [self._feeds[place] for _, place in sorted(waiting)[: self._batch]]
                    return [(feed, feed.buffer.take()) for feed in chosen]
                if all(feed.ended for feed in self._feeds):
                    return []
                self._changed.wait(_NOTICE_SECONDS)


def open_sources(
    sources: Iterable[str | int | LiveSource],
    runtime: RunsClips,
    card: ModelCard,
    *,
    hop_seconds: float,
    reconnect: bool | None,
    batch: int | None,
    pictures: Pictures | None,
    hooks: Hooks,
) -> LiveSources:
    """See `stdeploy.inference.classifier.Classifier.watch_all`.

    Args:
        sources: see there, as what follows.
        runtime: runs the network.
        card: of its artifact.
        hop_seconds: see there.
        reconnect: see there.
        batch: see there.
        pictures: see there.
        hooks: see there.

    Raises:
        SpecError: see there.
    """
    if not (math.isfinite(hop_seconds) and hop_seconds >= 0):
        raise SpecError(f"hop_seconds = {hop_seconds!r}: a number of seconds from 0 is allowed")
    if batch is None:
        batch = _BATCH_ON_GPU if runtime.device_type == "cuda" else 1
    return LiveSources(
        [
            each
            if isinstance(each, LiveSource)
            else LiveSource(address=str(each), reconnect=reconnect)
            for each in sources
        ],
        live_network(runtime, card),
        card.clip,
        card.labels,
        hop_seconds=hop_seconds,
        batch=batch,
        pictures=pictures,
        hooks=hooks,
    )


def answers_of(sources: LiveSources) -> Generator[SourceAnswer]:
    """All answers about sources, which are read as long as this goes on."""
    with sources:
        yield from sources


class _Feed:
    """What is known of one source; see `ReceivesDueFrames`.

    Args:
        name: of the source.
        buffer: keeps its frames.
        changed: guards all feeds, and is told of news.
        hooks: see `LiveSources`.
    """

    def __init__(
        self,
        name: str,
        buffer: FrameBuffer[Input],
        changed: threading.Condition,
        hooks: Hooks,
    ) -> None:
        self.name = name
        self.buffer = buffer
        self.ended = False
        self.note = ""
        self.answer_count = 0
        self._changed = changed
        self._hooks = hooks
        self._broken = False
        self._frames = 0
        self._reconnects = 0
        self._opened = False
        self._newest: float | None = None  # when the newest frame came
        self._answer: SourceAnswer | None = None

    def begins(self) -> None:
        with self._changed:
            self.buffer.begins()
            self._reconnects += self._opened
            self._opened = True

    def frame(self, frame: DueFrame) -> None:
        with self._changed:
            self.buffer.add(frame)
            self._frames += 1
            self._newest = frame.arrived
            back = self._broken
            if back:
                self._broken, self.note = False, ""
            self._changed.notify()
        if back:
            self._hooks.report(self.name, "the source is back")

    def picture(self, picture: LivePicture) -> None:
        self._hooks.picture(picture)

    def breaks(self, reason: str, *, pause_seconds: float) -> None:
        with self._changed:
            self._broken, self.note = True, reason
        self._hooks.report(self.name, trying_again(reason, pause_seconds))

    def notices(self, text: str) -> None:
        with self._changed:
            self.note = text
        self._hooks.report(self.name, text)

    def ends(self, error: str | None, *, stopped: bool) -> None:
        with self._changed:
            self.ended = True
            if not stopped:
                self.buffer.ends()
                self.note = error or ""
            self._changed.notify()
        if not stopped:
            self._hooks.report(self.name, error or "the source has ended")

    def answered(self, answer: SourceAnswer) -> None:
        self.answer_count += 1
        self._answer = answer

    def status(self) -> SourceStatus:
        age = None if self._newest is None else max(0.0, time.monotonic() - self._newest)
        return SourceStatus(
            source=self.name,
            state=self._state(age),
            note=self.note,
            frames=self._frames,
            dropped=self.buffer.dropped,
            answers=self.answer_count,
            reconnects=self._reconnects,
            lag_seconds=None if self._answer is None else self._answer.lag_seconds,
            age_seconds=age,
            answer=self._answer,
        )

    def _state(self, age: float | None) -> SourceState:
        if self.ended:
            return "ended"
        if age is None:
            return "waiting"
        if self._broken:
            return "broken"
        return "stalled" if age > _STALLED_SECONDS else "live"
