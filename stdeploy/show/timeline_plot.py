"""A timeline as a picture: the scores of its labels over time, and their segments."""

from pathlib import Path

from stdeploy.picture import BLUE, GREEN, GREY, ORANGE, PURPLE, drawn
from stdeploy.timeline import Timeline

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#d64f72", "#7a9a2c", "#3fa7c4", "#b58900")


def draw_timeline(timeline: Timeline, path: Path) -> None:
    """Draw the labels that count: those with segments, and then those most often on top.

    Args:
        timeline: to draw.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    labels = shown_labels(timeline, len(_COLOURS))
    height = 2.2 + 0.28 * len(labels)
    with drawn(
        path,
        extra="pictures",
        size=(9, height),
        nrows=2,
        sharex=True,
        height_ratios=(2.0, 0.28 * len(labels) + 0.2),
    ) as (curves, bars):
        for row, (label, colour) in enumerate(zip(labels, _COLOURS, strict=False)):
            times, scores = [], []
            for cell in timeline.cells:
                score = dict(zip(cell.best, cell.scores, strict=True)).get(label, 0.0)
                times += [cell.start, cell.end]
                scores += [score, score]
            curves.plot(times, scores, color=colour, linewidth=1.4)
            stretches = [(s.start, s.end - s.start) for s in timeline.segments if s.label == label]
            bars.broken_barh(stretches, (row - 0.35, 0.7), color=colour)
        for threshold in (timeline.options.enter, timeline.options.leave):
            curves.axhline(threshold, color=GREY, linewidth=0.8, linestyle=":")
        curves.set_ylabel("score")
        curves.set_ylim(0, 1.02)
        curves.set_title(_plain(Path(timeline.video).name), fontsize=10)
        bars.set_yticks(range(len(labels)), [_plain(timeline.labels[label]) for label in labels])
        bars.set_ylim(len(labels) - 0.5, -0.5)
        bars.set_xlim(0, max(timeline.duration_seconds, 1e-3))
        bars.set_xlabel("time, s")
        for tick, colour in zip(bars.get_yticklabels(), _COLOURS, strict=False):
            tick.set_color(colour)


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
        seconds[segment.label] = seconds.get(segment.label, 0.0) + segment.end - segment.start
    ranked = sorted(seconds, key=lambda label: -seconds[label])
    on_top: dict[int, float] = {}
    for cell in timeline.cells:
        weight = cell.scores[0] * (cell.end - cell.start)
        on_top[cell.best[0]] = on_top.get(cell.best[0], 0.0) + weight
    others = sorted(on_top.keys() - seconds.keys(), key=lambda label: -on_top[label])
    chosen = (ranked + others)[:most]
    first = {segment.label: segment.start for segment in reversed(timeline.segments)}
    return sorted(chosen, key=lambda label: first.get(label, timeline.duration_seconds))
