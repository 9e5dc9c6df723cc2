"""Rows of `stdeploy classify` on their way to people and files, and what there is to say."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stdeploy.cli.console import counted, err, note
from stdeploy.cli.formatters import Record, Show, ShowTable, plain
from stdeploy.cli.video_arguments import (
    Unfinished,
    has_videos_below,
    is_address,
    wrong_with_address,
)

if TYPE_CHECKING:
    from stdeploy.inference.result_files import ResultFile

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
