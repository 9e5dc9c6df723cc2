"""What can be looked at afterwards: --save-plot, --save-video, --contact-sheet."""

import bisect
import collections
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from stdeploy.artifacts.files import checked_output
from stdeploy.cli.console import counted
from stdeploy.errors import SpecError, VideoError
from stdeploy.inference.classifier import Classifier
from stdeploy.inference.prediction import Prediction
from stdeploy.inference.timeline import Timeline
from stdeploy.plotting.contact_sheet import draw_contact_sheet
from stdeploy.plotting.overlay import LinesAt, write_with_labels
from stdeploy.plotting.style import checked_picture
from stdeploy.plotting.timeline_plot import draw_timeline

_WORDS = {
    "contact_sheet": "contact sheet",
    "plot": "timeline",
    "labelled_video": "labelled video",
}
_LINES = 3  # labels that are drawn on a video at most


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Where pictures and videos of results are wanted: a file or a folder; None for none.

    Attributes:
        contact_sheet: the frames that the network saw.
        plot: a timeline.
        labelled_video: the video again, with labels.
    """

    contact_sheet: Path | None = None
    plot: Path | None = None
    labelled_video: Path | None = None

    @property
    def names(self) -> list[str]:
        """Of those that are wanted, which are also the keys of a row that names the files."""
        return [name for name, path in vars(self).items() if path is not None]


class Saving:
    """Pictures and videos of results, as far as they were asked for.

    Args:
        wanted: a file for the only video, or a folder for one of each.
        videos: that are classified, and must stay as they are.
        top_k: labels that are drawn on a video, of which there is no room for many.
        keep: leave files of earlier runs in folders as they are, because rows name them.

    Raises:
        SpecError: one file for several videos.
        ArtifactError: a file that cannot be written.
    """

    def __init__(
        self, wanted: Wanted, *, videos: Sequence[Path], top_k: int, keep: bool = False
    ) -> None:
        for name in wanted.names:
            path: Path = getattr(wanted, name)
            if not path.suffix:
                path.mkdir(parents=True, exist_ok=True)
            elif len(videos) > 1:
                raise SpecError(
                    f"{str(path)!r} is one file, but there are {len(videos)} videos; name a folder"
                )
        if wanted.plot is not None and wanted.plot.suffix:
            checked_picture(wanted.plot)
        if wanted.labelled_video is not None and wanted.labelled_video.suffix:
            checked_output(wanted.labelled_video, ".mp4", source=next(iter(videos), None))
        if wanted.contact_sheet is not None and wanted.contact_sheet.suffix:
            checked_output(wanted.contact_sheet, ".png")
        self._wanted = wanted
        self._num_lines = min(top_k, _LINES)
        self._keep = keep
        self._taken: set[Path] = set()
        self._written: collections.Counter[str] = collections.Counter()
        self._replaced: collections.Counter[str] = collections.Counter()

    def save(
        self,
        video: Path,
        result: Prediction | Timeline | VideoError,
        classifier: Classifier,
        report: Callable[[str], None],
    ) -> dict[str, str]:
        """Write what was asked for about one video; nothing about one that failed.

        Args:
            video: the file.
            result: what came of it.
            classifier: that gave it.
            report: is told in words of a picture or video that cannot be made.

        Returns:
            The files that were written, by the keys of a row.
        """
        written: dict[str, str] = {}

        def write(name: str, suffix: str, draw: Callable[[Path], None]) -> None:
            wanted: Path | None = getattr(self._wanted, name)
            if wanted is None:
                return
            path = self._place(wanted, video, suffix)
            replaces = path.exists()
            try:
                draw(path)
            except VideoError as error:
                report(f"{video} {error}")
            else:
                written[name] = str(path)
                self._written[name] += 1
                self._replaced[name] += replaces

        if isinstance(result, Prediction):
            (best,) = result.top(1)
            write(
                "contact_sheet",
                ".frames.png",
                lambda path: draw_contact_sheet(
                    classifier.clips(video), path, name=video.name, best=best
                ),
            )
        if isinstance(result, Timeline):
            write("plot", ".timeline.png", lambda path: draw_timeline(result, path))
        if not isinstance(result, VideoError):
            lines = _lines(result, self._num_lines)
            write(
                "labelled_video",
                ".labels.mp4",
                lambda path: write_with_labels(video, lines, path, decoder=classifier.decoder),
            )
        return written

    def told(self) -> list[str]:
        """What has been written where, and what it replaced: lines for people."""
        lines = []
        for name in self._wanted.names:
            written, replaced = self._written[name], self._replaced[name]
            if not written:
                continue
            line = f"{getattr(self._wanted, name)}: {counted(written, _WORDS[name])}"
            if replaced:
                one = "in place of an earlier one"
                line += f", {one if written == 1 else f'{replaced} in place of earlier ones'}"
            lines.append(line)
        return lines

    def _place(self, wanted: Path, video: Path, suffix: str) -> Path:
        """The file itself, or a name in the folder that no other video has got."""
        if wanted.suffix:
            return wanted
        number, path = 1, wanted / (video.stem + suffix)
        while path in self._taken or (path.exists() and (self._keep or path.samefile(video))):
            number += 1
            path = wanted / f"{video.stem}-{number}{suffix}"
        self._taken.add(path)
        return path


def _lines(result: Prediction | Timeline, most: int) -> LinesAt:
    if isinstance(result, Prediction):
        always = result.top(most)
        return lambda _: always

    ends = [cell.end for cell in result.cells]

    def at(seconds: float) -> list[tuple[str, float]]:
        cell = result.cells[min(bisect.bisect_right(ends, seconds), len(ends) - 1)]
        pairs = zip(cell.best[:most], cell.scores, strict=False)
        return [(result.labels[label], score) for label, score in pairs]

    return at
