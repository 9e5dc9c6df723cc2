"""Rows of results on standard output: a table for people, lines of JSON for programs."""

import json
import sys
from typing import Any

from rich.table import Table
from rich.text import Text

from stdeploy.cli.console import out

Record = dict[str, Any]


class Show:
    """What standard output gets: here nothing, because the rows go to a file."""

    def add(self, row: Record) -> None:
        """Show a row."""

    def end(self) -> None:
        """Show what could not be shown before."""


class ShowJson(Show):
    """A line for each row, as soon as it is there."""

    def __init__(self) -> None:
        self._stream = sys.stdout  # as it is now, whatever a library makes of it later

    def add(self, row: Record) -> None:
        """Print a line."""
        print(json.dumps(row), file=self._stream, flush=True)


class ShowTable(Show):
    """A table at the end.

    Args:
        num_videos: rows that will come.
    """

    def __init__(self, num_videos: int) -> None:
        self._table = Table(show_lines=num_videos > 1)
        self._table.add_column("video", overflow="fold")
        self._table.add_column("score  label")

    def add(self, row: Record) -> None:
        """Add a row."""
        if "error" in row:
            found: Table | Text = Text(_plain(f"error: {row['error']}"), style="red")
        elif "segments" in row:
            found = _segments(row)
        else:
            # A long label wraps beside its score, not under the next.
            found = Table.grid(padding=(0, 2))
            for best in row["predictions"]:
                found.add_row(f"{best['score']:.3f}", Text(best["label"]))
        self._table.add_row(Text(_plain(row["video"])), found)

    def end(self) -> None:
        """Print the table, also of what was done before an interruption."""
        out.print(self._table)


def _plain(text: str) -> str:
    """Without what could steer a terminal: names of files are anyone's."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _segments(row: Record) -> Table | Text:
    """Segments of a timeline in words; where there is none, the best label of all windows."""
    rows = Table.grid(padding=(0, 2))
    for segment in row["segments"]:
        stretch = f"{_clock(segment['start'])} to {_clock(segment['end'])}"
        rows.add_row(stretch, f"{segment['mean_score']:.3f}", Text(segment["label"]))
    if row["segments"]:
        return rows
    window = max(row["windows"], key=lambda window: window["scores"][0])
    return Text(
        f"no label goes on; the nearest is {window['labels'][0]!r} with {window['scores'][0]:.3f} "
        f"at {_clock(window['start'])}"
    )


def _clock(seconds: float) -> str:
    """Minutes and seconds, 1:02.5."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"
