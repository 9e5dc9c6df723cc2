"""Rows of results: a table for people, lines of JSON for programs, and the files they go to."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stdeploy.cli.console import counted, err, note, out
from stdeploy.cli.video_arguments import (
    Unfinished,
    has_videos_below,
    is_address,
    wrong_with_address,
)

if TYPE_CHECKING:
    from stdeploy.inference.result_files import ResultFile

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
        found.append(f"{counted(lost, 'frame')} lost" + (f": {where}{more}" if where else ""))
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


# From about a minute on, views that cover less than a third may miss what the video is about.
_LONG_SECONDS = 45.0
_SMALL_SHARE = 1 / 3
_REASONS = 3  # that are told; those of thousands would push all else off the screen


def say_failed(reasons: Sequence[str], failed: int, videos: int, *, others: str) -> None:
    """Say on standard error how many videos failed, and why the first of them did.

    Args:
        reasons: of the first at least, each with the video's name; none where people saw them all.
        failed: how many failed.
        videos: of how many.
        others: where to read of those that are not told.
    """
    if not failed:
        return
    told = [plain(reason) for reason in reasons[:_REASONS]]
    headline = f"{failed} of {counted(videos, 'video')} could not be classified"
    lines = [headline + (":" if told else ""), *told]
    if told and failed > len(told):
        lines.append(f"... and {failed - len(told)} more, {others}")
    err.print("\n  ".join(lines), style="red", soft_wrap=True, markup=False)


class Rows:
    """Rows on their way to people and files, and what there is to say about them.

    Args:
        show: what standard output gets.
        file: of results, if there is one.
        wanted: where the videos come from.
        num_videos: of all.
        recursive: folders of folders were looked into.

    Attributes:
        done: rows that came.
        failed: those with an error.
    """

    def __init__(
        self,
        show: Show,
        file: "ResultFile | None",
        wanted: Unfinished,
        *,
        num_videos: int,
        recursive: bool,
    ) -> None:
        self.done = self.failed = 0
        self._show = show
        self._file = file
        self._wanted = wanted
        self._num_videos = num_videos
        self._recursive = recursive
        self._small_share: list[str] = []
        self._reasons: list[str] = []

    @property
    def seen(self) -> int:
        """Videos that are done, now or before."""
        return self.done + self._wanted.skipped

    def add(self, row: Record) -> None:
        """Show a row and write it."""
        from stdeploy.inference.result_files import DIGEST

        if "error" in row:
            self.failed += 1
            if is_address(row["video"]):
                row["error"] = wrong_with_address(row["video"])
            elif not self._recursive and has_videos_below(Path(row["video"])):
                row["error"] = "holds no video itself, but its folders do; add --recursive"
            if self.failed <= _REASONS and not isinstance(self._show, ShowTable):
                self._reasons.append(f"{row['video']} {row['error']}")
        elif (share := _small_share(row)) is not None:
            self._small_share.append(f"{row['video']}: {share}")
        self._show.add(row)
        if self._file is not None:
            digest = self._wanted.digests.pop(row["video"], None)
            self._file.write(row | ({DIGEST: digest} if digest else {}))
        self.done += 1

    def end(self) -> None:
        """All rows have come."""
        self._show.end()

    def break_off(self, *, nothing_to_say: bool) -> None:
        """No more rows come, for a reason that whoever calls will tell."""
        if nothing_to_say:
            return
        how_far = f"{self.seen} of {counted(self._num_videos, 'video')}"
        if self._file is not None:
            count, are = self._file.rows, "is" if self._file.rows == 1 else "are"
            safe = f"{counted(count, 'row')} {are} safe in {self._file.growing}"
            how_far += f"; {safe}, --resume goes on" if count else "; no row was written"
        self._show.end(interrupted=f"interrupted: {how_far}")
        self._say_what_failed(None if self._file is None else self._file.growing)

    def written(self, output: Path) -> str:
        """What the file holds now, and what was left out for it."""
        assert self._file is not None
        text = f"{output}: {counted(self._file.rows, 'row')}"
        if self._file.rows != self._file.videos:
            text += f" of {counted(self._file.videos, 'video')}"
        skipped, renamed = self._wanted.skipped, self._wanted.renamed
        if skipped:
            were = "was" if skipped == 1 else "were"
            text += f"; {counted(skipped, 'video')} {were} skipped whose content it holds already"
        if renamed:
            text += ", under another name" if skipped == 1 else f", {renamed} under another name"
        return text

    def say_how_it_went(self, output: Path | None) -> None:
        """What people have to know who believe the rows.

        Args:
            output: the file that holds them, if there is one.
        """
        if self._small_share:
            others = len(self._small_share) - 1
            note(self._small_share[0] + (f" ({others} more like it)" if others else ""))
        self._say_what_failed(output)

    def _say_what_failed(self, output: Path | None) -> None:
        others = "see the rows with an error" + (f" in {output}" if output else "")
        say_failed(self._reasons, self.failed, self._num_videos, others=others)


def _small_share(row: Record) -> str | None:
    """What there is to say where views cover little of a long video."""
    duration: float = row["duration_seconds"]
    covered = end = 0.0
    for first, last in sorted(row.get("view_spans_seconds", [])):
        covered += max(0.0, last - max(first, end))
        end = max(end, last)
    if "segments" in row or duration <= _LONG_SECONDS or covered >= duration * _SMALL_SHARE:
        return None
    return (
        f"the answer rests on {covered:.0f} s of {duration:.0f} s; --timeline windows looks at "
        "all of it"
    )
