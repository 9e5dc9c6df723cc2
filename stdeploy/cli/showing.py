"""Rows of results on standard output: a table for people, lines of JSON for programs."""

import json
import sys
from typing import Any

from rich.table import Table
from rich.text import Text

from stdeploy.cli.console import note, out

Record = dict[str, Any]


class Show:
    """What standard output gets: here nothing, because the rows go to a file."""

    def add(self, row: Record) -> None:
        """Show a row."""

    def end(self, *, interrupted: str = "") -> None:
        """Show what could not be shown before.

        Args:
            interrupted: how far the run came, if it did not come to its end.
        """
        if interrupted:
            note(interrupted)


class ShowJson(Show):
    """A line for each row, as soon as it is there."""

    def __init__(self) -> None:
        self._stream = sys.stdout  # as it is now, whatever a library makes of it later

    def add(self, row: Record) -> None:
        """Print a line."""
        print(json.dumps(row), file=self._stream, flush=True)


_LISTED = 3  # stretches of lost frames


class ShowTable(Show):
    """A table at the end.

    Args:
        timeline: rows are the segments of timelines, not the best labels.
    """

    def __init__(self, *, timeline: bool) -> None:
        self._table = Table()
        self._measures = ("start", "end", "score") if timeline else ("score",)
        self._table.add_column("video", overflow="fold")
        for measure in self._measures:
            self._table.add_column(measure, justify="right", no_wrap=True)
        self._table.add_column("label")

    def add(self, row: Record) -> None:
        """Add a row."""
        lines: list[tuple[str | Text, ...]] = []
        if "error" in row:
            lines.append(self._words(f"error: {row['error']}", "red"))
        elif "segments" in row:
            for segment in row["segments"]:
                stretch = clock(segment["start"]), clock(segment["end"])
                lines.append((*stretch, f"{segment['mean_score']:.3f}", Text(segment["label"])))
            if not row["segments"]:
                lines.append(self._words(_nearest(row)))
        else:
            lines = [(f"{p['score']:.3f}", Text(p["label"])) for p in row["predictions"]]
        lines += [self._words(words, "red") for words in _flaws(row)]
        names = [Text(plain(row["video"])), *[Text()] * (len(lines) - 1)]
        for name, line in zip(names, lines, strict=True):
            self._table.add_row(name, *line)
        self._table.add_section()

    def end(self, *, interrupted: str = "") -> None:
        """Print the table, also of what was done before an interruption."""
        if self._table.row_count or not interrupted:
            out.print(self._table)
        if interrupted:
            out.print(interrupted)

    def _words(self, words: str, style: str = "") -> tuple[str | Text, ...]:
        return (*[""] * len(self._measures), Text(plain(words), style=style))


def plain(text: str) -> str:
    """A text without what could steer a terminal: names of files are anyone's."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _flaws(row: Record) -> list[str]:
    """What is wrong with a video that was answered for all the same."""
    found = []
    if "damaged_after_seconds" in row:
        found.append(f"damaged after {row['damaged_after_seconds']:.1f} s")
    if lost := row.get("lost_frames"):
        spans = row.get("lost_spans_seconds", [])
        where = ", ".join(f"{clock(start)} to {clock(end)}" for start, end in spans[:_LISTED])
        more = ", ..." if len(spans) > _LISTED else ""
        found.append(f"{lost} frames lost" + (f": {where}{more}" if where else ""))
    if row.get("times_estimated"):
        found.append("frames lack timestamps: times are estimated")
    return [*found, *row.get("notes", [])]


def _nearest(row: Record) -> str:
    """Where no label goes on: the best one of all windows."""
    window = max(row["windows"], key=lambda window: window["scores"][0])
    return (
        f"no label goes on; the nearest is {window['labels'][0]!r} with {window['scores'][0]:.3f} "
        f"at {clock(window['start'])}"
    )


def clock(seconds: float) -> str:
    """Minutes and seconds, 1:02.5; from an hour on 1:02:03.

    >>> clock(62.46), clock(3599.97), clock(3723.4)
    ('1:02.5', '1:00:00', '1:02:03')
    """
    tenths = round(seconds, 1)
    if tenths < 3600:
        minutes, rest = divmod(tenths, 60)
        return f"{int(minutes)}:{rest:04.1f}"
    minutes, rest = divmod(round(tenths), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
