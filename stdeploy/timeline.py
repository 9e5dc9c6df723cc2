"""An answer over time: what a network says to each window, and segments of labels. Pure."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdeploy.errors import SpecError


@dataclasses.dataclass(frozen=True)
class TimelineOptions:
    """How a timeline is made.

    Attributes:
        hop_seconds: from the start of one window to the start of the next.
        enter: a label's segment begins where its score reaches this.
        leave: and lasts until its score falls below this.
        top_k: labels that are kept of each window.
    """

    hop_seconds: float = 1.0
    enter: float = 0.5
    leave: float = 0.3
    top_k: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.leave <= self.enter <= 1:
            raise SpecError(
                f"a segment cannot begin at a score of {self.enter} and end below {self.leave}; "
                "0 <= leave <= enter <= 1 is allowed"
            )


@dataclasses.dataclass(frozen=True)
class Cell:
    """The stretch of a video that one window answers for: its middle, one hop long.

    Cells leave no gap: the first begins with the video, the last ends with it.

    Attributes:
        start: in seconds.
        end: in seconds.
        best: indices of the top-k labels, best first.
        scores: of those.
    """

    start: float
    end: float
    best: tuple[int, ...]
    scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch in which a label goes on.

    Attributes:
        label: index.
        start: in seconds.
        end: in seconds.
        mean: its score, averaged over the time.
        peak: its highest score.
    """

    label: int
    start: float
    end: float
    mean: float
    peak: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
    """What a network says about one video over time.

    Attributes:
        video: the path as the user gave it.
        labels: all K names, in the order of the indices.
        duration_seconds: of the video.
        options: how it was made.
        cells: all along the video.
        segments: by their start; those of several labels may overlap.
        how: "windows" or "dense".
        device: where the network really ran.
        artifact_sha256: digest of the artifact that answered.
    """

    video: str
    labels: tuple[str, ...] = dataclasses.field(repr=False)
    duration_seconds: float
    options: TimelineOptions
    cells: tuple[Cell, ...] = dataclasses.field(repr=False)
    segments: tuple[Segment, ...]
    how: str
    device: str
    artifact_sha256: str

    def to_record(self) -> dict[str, Any]:
        """Plain data, ready for JSON; times in seconds."""
        return {
            "video": self.video,
            "duration_seconds": round(self.duration_seconds, 3),
            "timeline": self.how,
            "hop_seconds": self.options.hop_seconds,
            "windows": [
                {
                    "start": round(cell.start, 3),
                    "end": round(cell.end, 3),
                    "labels": [self.labels[label] for label in cell.best],
                    "scores": [round(score, 6) for score in cell.scores],
                }
                for cell in self.cells
            ],
            "segments": [
                {
                    "label": self.labels[segment.label],
                    "start": round(segment.start, 3),
                    "end": round(segment.end, 3),
                    "mean_score": round(segment.mean, 6),
                    "peak_score": round(segment.peak, 6),
                }
                for segment in self.segments
            ],
            "device": self.device,
            "artifact_sha256": self.artifact_sha256,
        }


class TimelineMaker:
    """Takes the scores of windows as they come; what it holds does not grow with classes.

    Args:
        span_seconds: from the first frame of a window to its last.
        options: hop and thresholds.
    """

    def __init__(self, span_seconds: float, options: TimelineOptions) -> None:
        self._span = span_seconds
        self._options = options
        self._cells: list[Cell] = []
        self._last: NDArray[np.float64] | None = None
        self._open: dict[int, _Open] = {}
        self._ended: list[Segment] = []
        self._count = 0

    def add(self, probabilities: NDArray[np.float64]) -> None:
        """Take the scores (K,) of the next window."""
        if self._last is not None:
            middle = (self._count - 1) * self._options.hop_seconds + self._span / 2
            self._take(self._last, end=middle + self._options.hop_seconds / 2)
        self._last = probabilities
        self._count += 1

    def finish(self, duration: float) -> tuple[tuple[Cell, ...], tuple[Segment, ...]]:
        """End the last cell and all segments with the video."""
        if self._last is not None:
            self._take(self._last, end=max(duration, self._start))
        for label in list(self._open):
            self._end(label, self._start)
        return tuple(self._cells), tuple(sorted(self._ended, key=lambda s: (s.start, s.label)))

    @property
    def _start(self) -> float:
        return self._cells[-1].end if self._cells else 0.0

    def _take(self, probabilities: NDArray[np.float64], *, end: float) -> None:
        start = self._start
        order = np.argsort(-probabilities, kind="stable")[: self._options.top_k]
        self._cells.append(
            Cell(
                start,
                end,
                tuple(int(label) for label in order),
                tuple(float(probabilities[label]) for label in order),
            )
        )
        for entering in np.flatnonzero(probabilities >= self._options.enter):
            self._open.setdefault(int(entering), _Open(start))
        for label, under_way in list(self._open.items()):
            score = float(probabilities[label])
            if score < self._options.leave:
                self._end(label, start)
            else:
                under_way.weight += score * (end - start)
                under_way.peak = max(under_way.peak, score)

    def _end(self, label: int, end: float) -> None:
        under_way = self._open.pop(label)
        mean = under_way.weight / max(end - under_way.start, 1e-9)
        self._ended.append(Segment(label, under_way.start, end, mean, under_way.peak))


@dataclasses.dataclass
class _Open:
    start: float
    weight: float = 0.0
    peak: float = 0.0
