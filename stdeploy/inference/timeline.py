"""An answer over time: what a network says to each window, and segments of labels. Pure."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdeploy.errors import SpecError, check_count
from stdeploy.video.flaws import NO_FLAWS, Flaws

DEFAULT_LEAVE = 0.3  # or `enter`, where a caller gives that alone and it is lower


@dataclasses.dataclass(frozen=True)
class TimelineOptions:
    """How a timeline is made.

    Attributes:
        hop_seconds: from the start of one window to the start of the next.
        enter: a label's segment begins where its score reaches this.
        leave: and lasts until its score falls below this, or below `enter` where another label
            reaches that: so segments overlap only where `enter` lets two labels begin.
        top_k: labels that are kept of each window.
        cuts: look for hard cuts, and lay no window across one: each shot is treated as a video of
            its own. Shots shorter than a hop are joined to the one after.
    """

    hop_seconds: float = 1.0
    enter: float = 0.5
    leave: float = DEFAULT_LEAVE
    top_k: int = 5
    cuts: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.hop_seconds) and self.hop_seconds > 0):
            raise SpecError(f"hop_seconds = {self.hop_seconds!r}: a positive number is allowed")
        check_count("top_k", self.top_k)
        if not 0 <= self.leave <= self.enter <= 1:
            raise SpecError(
                f"a segment cannot begin at a score of {self.enter} and end below {self.leave}; "
                "0 <= leave <= enter <= 1 is allowed"
            )


@dataclasses.dataclass(frozen=True)
class Cell:
    """The stretch of a video that one window answers for: its middle, one hop long.

    Cells leave no gap: the first of a shot begins with it, the last ends with it.

    Attributes:
        start: in seconds.
        end: in seconds.
        labels: the top-k of them, best first.
        best: their indices.
        scores: of those.
    """

    start: float
    end: float
    labels: tuple[str, ...]
    best: tuple[int, ...]
    scores: tuple[float, ...]

    def to_record(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "labels": list(self.labels),
            "scores": [round(score, 6) for score in self.scores],
        }


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch in which a label goes on.

    Attributes:
        label: its name.
        index: of the label.
        start: in seconds.
        end: in seconds.
        mean: its score, averaged over the time.
        peak: its highest score.
    """

    label: str
    index: int
    start: float
    end: float
    mean: float
    peak: float

    def to_record(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "label": self.label,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "mean_score": round(self.mean, 6),
            "peak_score": round(self.peak, 6),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
    """What a network says about one video over time.

    Attributes:
        video: the path as the user gave it.
        labels: all K names, in the order of the indices.
        duration_seconds: of the video.
        flaws: what is wrong with the video, as far as it was decoded.
        options: how it was made.
        cells: all along the video.
        segments: by their start; see `TimelineOptions` for those that overlap.
        cuts_seconds: where shots begin, without the first; None if cuts were not looked for.
        how: "windows" or "dense".
        device: where the network really ran.
        artifact_sha256: digest of the artifact that answered.
    """

    video: str
    labels: tuple[str, ...] = dataclasses.field(repr=False)
    duration_seconds: float
    flaws: Flaws = NO_FLAWS
    options: TimelineOptions
    cells: tuple[Cell, ...] = dataclasses.field(repr=False)
    segments: tuple[Segment, ...]
    cuts_seconds: tuple[float, ...] | None = None
    how: str
    device: str
    artifact_sha256: str

    def to_record(self) -> dict[str, Any]:
        """Plain data, ready for JSON; times in seconds."""
        cuts = self.cuts_seconds
        return {
            "video": self.video,
            "duration_seconds": round(self.duration_seconds, 3),
            **self.flaws.to_record(),
            "timeline": self.how,
            "hop_seconds": self.options.hop_seconds,
            **({} if cuts is None else {"cuts_seconds": [round(cut, 3) for cut in cuts]}),
            "windows": [cell.to_record() for cell in self.cells],
            "segments": [segment.to_record() for segment in self.segments],
            "device": self.device,
            "artifact_sha256": self.artifact_sha256,
        }


class TimelineMaker:
    """Takes the scores of windows as they come; what it holds does not grow with classes.

    Args:
        span_seconds: from the first frame of a window to its last.
        options: hop and thresholds.
        labels: K names.
    """

    def __init__(
        self, span_seconds: float, options: TimelineOptions, labels: Sequence[str]
    ) -> None:
        self._span = span_seconds
        self._labels = labels
        self._options = options
        self._cells: list[Cell] = []
        self._last: NDArray[np.float64] | None = None
        self._open: dict[int, _Open] = {}
        self._ended: list[Segment] = []
        self._shot = 0.0
        self._count = 0  # of windows in the shot
        self._cuts: list[float] = []

    @property
    def cuts(self) -> tuple[float, ...]:
        """Where shots begin, in seconds, without the first."""
        return tuple(self._cuts)

    def add(self, probabilities: NDArray[np.float64], *, shot: float = 0.0) -> Cell | None:
        """Take the next window; the cell of the one before is then known.

        Args:
            probabilities: its scores, (K,).
            shot: when its shot begins, in seconds; its first window begins with it.
        """
        before = None
        if self._last is not None:
            middle = self._shot + (self._count - 1) * self._options.hop_seconds + self._span / 2
            end = middle + self._options.hop_seconds / 2 if shot == self._shot else shot
            before = self._take(self._last, end=end)
        if shot != self._shot:
            self._shot, self._count = shot, 0
            self._cuts.append(shot)
        self._last = probabilities
        self._count += 1
        return before

    def finish(self, duration: float) -> tuple[tuple[Cell, ...], tuple[Segment, ...]]:
        """End the last cell and all segments with the video."""
        if self._last is not None:
            self._take(self._last, end=max(duration, self._start))
        for label in list(self._open):
            self._end(label, self._start)
        return tuple(self._cells), tuple(sorted(self._ended, key=lambda s: (s.start, s.index)))

    @property
    def _start(self) -> float:
        return self._cells[-1].end if self._cells else 0.0

    def _take(self, probabilities: NDArray[np.float64], *, end: float) -> Cell:
        start = self._start
        order = np.argsort(-probabilities, kind="stable")[: self._options.top_k]
        cell = Cell(
            start,
            end,
            tuple(self._labels[label] for label in order),
            tuple(int(label) for label in order),
            tuple(float(probabilities[label]) for label in order),
        )
        self._cells.append(cell)
        high = np.flatnonzero(probabilities >= self._options.enter)
        for entering in high:
            self._open.setdefault(int(entering), _Open(start))
        lowest = self._options.enter if high.size else self._options.leave
        for label, under_way in list(self._open.items()):
            score = float(probabilities[label])
            if score < lowest:
                self._end(label, start)
            else:
                under_way.weight += score * (end - start)
                under_way.peak = max(under_way.peak, score)
        return cell

    def _end(self, label: int, end: float) -> None:
        under_way = self._open.pop(label)
        mean = under_way.weight / max(end - under_way.start, 1e-9)
        self._ended.append(
            Segment(self._labels[label], label, under_way.start, end, mean, under_way.peak)
        )


@dataclasses.dataclass
class _Open:
    start: float
    weight: float = 0.0
    peak: float = 0.0
