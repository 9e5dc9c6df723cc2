"""Answers about live video: always about the newest frames, however long the network takes."""

import dataclasses
import math
import time
from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import SpecError, VideoError
from stdeploy.video.live import LiveClips
from stdeploy.video.live_source import STANDARD_INPUT, Opener, opener

TRIES = 5  # to open a source that was never there, unless the caller says whether to go on
_SHORTEST_HOP_SECONDS = 1e-6

Ranked = tuple[tuple[str, ...], tuple[float, ...]]  # labels and scores, best first


@dataclasses.dataclass(frozen=True)
class LiveAnswer:
    """What the network says about the newest clip of a source.

    Attributes:
        labels: all K names, best first.
        scores: their probabilities, in that order.
        stream_seconds: when the last frame of the clip was shown, by the clock of the stream.
        lag_seconds: from the arrival of that frame to this answer.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    stream_seconds: float
    lag_seconds: float

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k best labels with their scores; all of them where there are fewer."""
        return list(zip(self.labels[:k], self.scores[:k], strict=True))


def live_answers(
    source: str | int,
    clip: ClipSpec,
    classify: Callable[[NDArray[np.uint8]], Ranked],
    *,
    hop_seconds: float = 0.5,
    reconnect: bool | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Generator[LiveAnswer]:
    """Classify the newest clip of a source, again and again; closing it stops reading.

    Args:
        source: the number of a camera, a URL, or "-" for a pipe.
        clip: which frames, and how large.
        classify: maps clips (1, T, H, W, 3) to labels and scores.
        hop_seconds: from one answer to the next at least, from 0.
        reconnect: open a source again that breaks off or is not there yet; None means all but
            pipes, and one that was never there 5 times.
        report: is told in words when the source breaks off and comes back.

    Raises:
        SpecError: no such kind of source, or a hop that is no time; at once.
        VideoError: the source cannot be opened (`NoStreamError`), not read, or ends without a
            frame; while answers are taken.
    """
    if not (math.isfinite(hop_seconds) and hop_seconds >= 0):
        raise SpecError(f"hop_seconds = {hop_seconds!r}: a number of seconds from 0 is allowed")
    source = str(source)
    again = source != STANDARD_INPUT if reconnect is None else reconnect
    tries = TRIES if reconnect is None else None
    hop = max(hop_seconds, _SHORTEST_HOP_SECONDS)
    return _answers(
        opener(source),
        clip,
        classify,
        hop,
        reconnect=again,
        tries=tries,
        report=report,
    )


def _answers(
    open_stream: Opener,
    clip: ClipSpec,
    classify: Callable[[NDArray[np.uint8]], Ranked],
    hop: float,
    *,
    reconnect: bool,
    tries: int | None,
    report: Callable[[str], None],
) -> Generator[LiveAnswer]:
    after = -math.inf
    with LiveClips(open_stream, clip, reconnect=reconnect, tries=tries, report=report) as live:
        while (window := live.next(after=after)) is not None:
            after = window.end_seconds + hop
            labels, scores = classify(window.frames[None])
            lag = time.monotonic() - window.arrived
            yield LiveAnswer(labels, scores, window.end_seconds, lag)
    if after == -math.inf:
        raise NoFrameError("the source ended without a frame")


class NoFrameError(VideoError):
    """A source that was opened and ended before its first frame."""
