"""Rows of results on standard output: a table for people, lines of JSON for programs."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stdeploy.cli.console import note, out

Record = dict[str, Any]
Line = tuple[str | Text, ...]

# Where a name may be broken, the best place first: after a folder, between words, anywhere.
_BREAKS = (re.compile(r"[^/]*/|[^/]+"), re.compile(r"[^-_ ]*[-_ ]+|[^-_ ]+"), re.compile("."))


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
        folder: that all videos lie in, from which their names are shown; None for names as given.
    """

    def __init__(self, *, timeline: bool, folder: Path | None = None) -> None:
        self._measures = ("start", "end", "score") if timeline else ("score",)
        self._folder = folder
        self._rows: list[tuple[str, list[Line]]] = []

    def add(self, row: Record) -> None:
        """Add a row."""
        lines: list[Line] = []
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
        name = Path(row["video"])
        if self._folder is not None and name.is_relative_to(self._folder) and name != self._folder:
            name = name.relative_to(self._folder)
        self._rows.append((plain(str(name)), lines))

    def end(self, *, interrupted: str = "") -> None:
        """Print the table, also of what was done before an interruption."""
        if self._rows or not interrupted:
            out.print(self._table())
            if self._folder is not None:
                out.print(f"in {plain(str(self._folder))}", soft_wrap=True, markup=False)
        if interrupted:
            out.print(interrupted)

    def _table(self) -> Table:
        """All rows, with names as wide as labels leave room for."""
        all_lines = [line for _, lines in self._rows for line in lines]
        longest = max((cell_len(str(line[-1])) for line in all_lines), default=0)
        measure = max((cell_len(str(each)) for line in all_lines for each in line[:-1]), default=0)
        columns = len(self._measures) + 2
        borders = 3 * columns + 1
        room = out.width - borders - len(self._measures) * max(len("score"), measure)
        width = max(1, room // 2, room - longest)
        table = Table()
        table.add_column("video", no_wrap=True)
        for name_of_measure in self._measures:
            table.add_column(name_of_measure, justify="right", no_wrap=True)
        table.add_column("label")
        for name, lines in self._rows:
            parts = name_in_lines(name, width)
            for number, line in enumerate(lines, start=1):
                # All that is left of it beside the last line, which may be broken too.
                end = None if number == len(lines) else number
                table.add_row(Text("\n".join(parts[number - 1 : end])), *line)
            table.add_section()
        return table

    def _words(self, words: str, style: str = "") -> Line:
        return (*[""] * len(self._measures), Text(plain(words), style=style))


def name_in_lines(name: str, width: int) -> list[str]:
    """A name in lines that are not wider than allowed: broken after folders, else between words.

    >>> name_in_lines("2026/kitchen_left/waving_hello_3.mp4", 18)
    ['2026/kitchen_left/', 'waving_hello_3.mp4']
    >>> name_in_lines("waving_hello_to_the_camera.mp4", 18)
    ['waving_hello_to_', 'the_camera.mp4']

    Args:
        name: of a file.
        width: columns of a terminal; 1 or more.
    """
    lines = [""]
    for piece in _pieces(name, width):
        if lines[-1] and cell_len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def _pieces(text: str, width: int, depth: int = 0) -> Iterator[str]:
    for piece in _BREAKS[depth].findall(text):
        if cell_len(piece) <= width or depth + 1 == len(_BREAKS):
            yield piece
        else:
            yield from _pieces(piece, width, depth + 1)


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
