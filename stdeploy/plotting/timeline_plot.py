"""A timeline as a picture: the scores of its labels over time, and their segments."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdeploy.inference.timeline import Timeline
from stdeploy.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, drawn

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#d64f72", "#7a9a2c", "#3fa7c4", "#b58900")
# More steps would stand as a fence of upright lines; means of so many stretches do not.
_MOST_STEPS, _STRETCHES = 400, 150
_THINNEST = 1 / 500  # of the width: a shorter segment would not be seen
_STEPS_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800)
_MOST_TICKS = 10
_ROW_INCHES = 0.28


def draw_timeline(timeline: Timeline, path: Path) -> None:
    """Draw the labels that count: those with segments, and then those most often on top.

    Labels that never reach the score at which a segment begins have their curves, and a legend
    for these, but no row among the segments.

    Args:
        timeline: to draw.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    labels = shown_labels(timeline, len(_COLOURS))
    colours = dict(zip(labels, _COLOURS, strict=False))
    begun = {segment.index for segment in timeline.segments}
    in_rows = [label for label in labels if label in begun]
    rows_inches = _ROW_INCHES * len(in_rows)
    with drawn(
        path,
        extra="pictures",
        size=(9, 2.6 + rows_inches),
        nrows=2 if in_rows else 1,
        squeeze=False,
        sharex=True,
        height_ratios=(2.0, rows_inches + 0.2) if in_rows else None,
    ) as axes:
        curves, lowest = axes[0, 0], axes[-1, 0]
        together = _draw_curves(curves, timeline, colours, in_rows)
        curves.set_title(_plain(Path(timeline.video).name), fontsize=10)
        curves.set_ylabel("score" if together == 1 else f"mean of {together} windows")
        if in_rows:
            _draw_segments(lowest, timeline, colours, in_rows)
        seconds = max(timeline.duration_seconds, 1e-3)
        lowest.set_xlim(0, seconds)
        ticks = ticks_seconds(seconds)
        lowest.set_xticks(ticks, [_clock(tick) for tick in ticks])
        lowest.set_xlabel("time, h:mm:ss" if ticks[-1] >= 3600 else "time, m:ss")


def _draw_curves(axes: Any, timeline: Timeline, colours: dict[int, str], in_rows: list[int]) -> int:
    """Scores as steps, or where these are many as means; of how many windows."""
    count = len(timeline.cells)
    together = 1 if count <= _MOST_STEPS else math.ceil(count / _STRETCHES)
    starts = np.array([cell.start for cell in timeline.cells])[::together]
    edges = np.append(starts, timeline.cells[-1].end)
    for label, colour in colours.items():
        look = {"color": colour, "linewidth": 1.4}
        if label not in in_rows:
            look["label"] = _plain(timeline.labels[label])
        scores = _means(_scores(timeline, label), together)
        if together == 1:
            axes.stairs(scores, edges, baseline=None, **look)
        else:
            axes.plot((edges[1:] + edges[:-1]) / 2, scores, **look)
    for cut in timeline.cuts_seconds or ():
        axes.axvline(cut, color=GREY, linewidth=0.8)
    for threshold in (timeline.options.enter, timeline.options.leave):
        axes.axhline(threshold, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.02)
    if len(in_rows) < len(colours):
        legend = axes.legend(
            title=f"below {timeline.options.enter:g} all the time",
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            fontsize=8,
            title_fontsize=8,
            labelcolor="linecolor",
            frameon=False,
        )
        legend.get_title().set_color(GREY)
    return together


def _draw_segments(
    axes: Any, timeline: Timeline, colours: dict[int, str], in_rows: list[int]
) -> None:
    thinnest = timeline.duration_seconds * _THINNEST
    for row, label in enumerate(in_rows):
        stretches = [
            (segment.start, max(segment.end - segment.start, thinnest))
            for segment in timeline.segments
            if segment.index == label
        ]
        axes.broken_barh(stretches, (row - 0.35, 0.7), color=colours[label])
    axes.set_yticks(range(len(in_rows)), [_plain(timeline.labels[label]) for label in in_rows])
    axes.set_ylim(len(in_rows) - 0.5, -0.5)


def _scores(timeline: Timeline, label: int) -> NDArray[np.float64]:
    """Of each window; 0 where the label is not among the best."""
    return np.array(
        [dict(zip(c.best, c.scores, strict=True)).get(label, 0.0) for c in timeline.cells]
    )


def _means(scores: NDArray[np.float64], together: int) -> NDArray[np.float64]:
    firsts = np.arange(0, len(scores), together)
    counts = np.diff(np.append(firsts, len(scores)))
    return np.asarray(np.add.reduceat(scores, firsts) / counts)


def ticks_seconds(duration: float) -> list[int]:
    """Round moments of an axis, at most 11.

    >>> ticks_seconds(57.0), ticks_seconds(3.5)
    ([0, 10, 20, 30, 40, 50], [0, 1, 2, 3])

    Args:
        duration: in seconds.
    """
    step = next((step for step in _STEPS_SECONDS if duration / step <= _MOST_TICKS), 86400)
    return list(range(0, math.floor(duration) + 1, step))


def _clock(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _plain(text: str) -> str:
    """Not to be taken for a formula."""
    return text.replace("$", r"\$")


def shown_labels(timeline: Timeline, most: int) -> list[int]:
    """Indices of the labels that hold for the longest time, in the order in which they begin.

    Args:
        timeline: to look at.
        most: labels at most.
    """
    seconds: dict[int, float] = {}
    for segment in timeline.segments:
        seconds[segment.index] = seconds.get(segment.index, 0.0) + segment.end - segment.start
    ranked = sorted(seconds, key=lambda label: -seconds[label])
    on_top: dict[int, float] = {}
    for cell in timeline.cells:
        weight = cell.scores[0] * (cell.end - cell.start)
        on_top[cell.best[0]] = on_top.get(cell.best[0], 0.0) + weight
    others = sorted(on_top.keys() - seconds.keys(), key=lambda label: -on_top[label])
    chosen = (ranked + others)[:most]
    first = {segment.index: segment.start for segment in reversed(timeline.segments)}
    return sorted(chosen, key=lambda label: first.get(label, timeline.duration_seconds))
