"""What can be looked at afterwards: --save-plot, --save-video, --contact-sheet."""

import bisect
from collections.abc import Sequence
from pathlib import Path

from stdeploy.classify import Classifier
from stdeploy.errors import SpecError, VideoError
from stdeploy.files import checked_output
from stdeploy.picture import checked_picture
from stdeploy.prediction import Prediction
from stdeploy.show.contact_sheet import draw_contact_sheet
from stdeploy.show.overlay import LinesAt, write_with_labels
from stdeploy.show.timeline_plot import draw_timeline
from stdeploy.timeline import Timeline

_LINES = 3  # labels that are drawn on a video


class Saving:
    """Pictures and videos of results, as far as they were asked for.

    Args:
        plot: a picture for the only video, or a folder for one of each; None for none.
        video: likewise.
        sheet: likewise.
        videos: that are classified, and must stay as they are.

    Raises:
        SpecError: one file for several videos.
        ArtifactError: a file that cannot be written.
    """

    def __init__(
        self, plot: Path | None, video: Path | None, sheet: Path | None, *, videos: Sequence[Path]
    ) -> None:
        for path in (plot, video, sheet):
            if path is None:
                continue
            if not path.suffix:
                path.mkdir(parents=True, exist_ok=True)
            elif len(videos) > 1:
                raise SpecError(
                    f"{str(path)!r} is one file, but there are {len(videos)} videos; name a folder"
                )
        if plot is not None and plot.suffix:
            checked_picture(plot)
        if video is not None and video.suffix:
            checked_output(video, ".mp4", source=next(iter(videos), None))
        if sheet is not None and sheet.suffix:
            checked_output(sheet, ".png")
        self._plot = plot
        self._video = video
        self._sheet = sheet
        self._taken: set[Path] = set()

    def save(
        self, video: Path, result: Prediction | Timeline | VideoError, classifier: Classifier
    ) -> None:
        """Write what was asked for about one video; nothing about one that failed."""
        if isinstance(result, VideoError):
            return
        if self._plot is not None and isinstance(result, Timeline):
            draw_timeline(result, self._place(self._plot, video, ".timeline.png"))
        if self._sheet is not None:
            sheet = self._place(self._sheet, video, ".frames.png")
            draw_contact_sheet(classifier.clips(video), sheet)
        if self._video is not None:
            written = self._place(self._video, video, ".labels.mp4")
            write_with_labels(video, _lines(result), written, decoder=classifier.decoder)

    def _place(self, wanted: Path, video: Path, suffix: str) -> Path:
        """The file itself, or a name in the folder that no other video has got."""
        if wanted.suffix:
            return wanted
        number, path = 1, wanted / (video.stem + suffix)
        while path in self._taken or (path.exists() and path.samefile(video)):
            number += 1
            path = wanted / f"{video.stem}-{number}{suffix}"
        self._taken.add(path)
        return path


def _lines(result: Prediction | Timeline) -> LinesAt:
    if isinstance(result, Prediction):
        always = [(f"{label}  {score:.2f}", score) for label, score in result.top(_LINES)]
        return lambda _: always

    ends = [cell.end for cell in result.cells]

    def at(seconds: float) -> list[tuple[str, float]]:
        cell = result.cells[min(bisect.bisect_right(ends, seconds), len(ends) - 1)]
        pairs = zip(cell.best[:_LINES], cell.scores, strict=False)
        return [(f"{result.labels[label]}  {score:.2f}", score) for label, score in pairs]

    return at
