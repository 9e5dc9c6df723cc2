"""Windows that keep to one shot: each lies between two hard cuts. No file is touched here.

A shot is treated as a video of its own: its first window starts with it, its last one ends in it,
and one that is shorter than a clip has the window that a short video has.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.video.cuts import Shown, mark_cuts
from stdeploy.video.sampling import EDGE_SECONDS, frames_at, view_times
from stdeploy.video.timing import Timing
from stdeploy.video.transform import Image
from stdeploy.video.window_buffer import Window, slide

# Moments of windows, (T,) each, in a shot of so many seconds; from its start.
Moments = Callable[[float], Iterator[NDArray[np.float64]]]

_MOST_FPS = 60.0  # at which a video is looked at, which bounds the frames that are held


@dataclasses.dataclass(frozen=True)
class ShotWindow:
    """A window of a shot.

    Attributes:
        shot_seconds: when the shot begins; 0 for the first one.
        numbers: of its frames, (T,).
        frames: (T, h, w, 3).
    """

    shot_seconds: float
    numbers: NDArray[np.intp]
    frames: NDArray[np.uint8] = dataclasses.field(repr=False)


def looked_at(timing: Timing, start: float) -> Iterator[int]:
    """Numbers of the frames in which cuts are looked for: all, up to 60 a second.

    Args:
        timing: of the video.
        start: in seconds; the frame that stands then is the first one.
    """
    step = 1 / _MOST_FPS - EDGE_SECONDS
    first = int(frames_at(timing.timestamps, np.array(start)))
    due = -np.inf
    for number, seconds in enumerate(timing.timestamps[first:].tolist(), start=first):
        if seconds >= due:
            yield number
            due = seconds + step


def slide_in_shots(
    pictures: Iterable[Shown], timing: Timing, clip: ClipSpec, moments: Moments, *, shortest: float
) -> Iterator[ShotWindow]:
    """Gather windows that straddle no cut, from pictures that are looked at once.

    No more is held than the frames of one window and of those that overlap it.

    Args:
        pictures: of a video from the start of a shot on, as `looked_at` chooses them.
        timing: of the video.
        clip: says what a shot gets that is shorter than a clip. With "error" nothing may be made
            up, so that shots are joined until they hold a clip.
        moments: of the windows of a shot; all of them one moment, or all of them a clip.
        shortest: shots of fewer seconds are joined to the one after.

    Yields:
        The windows of each shot, at least one, in the order of time.

    Raises:
        VideoError: the video is short and clip.short_video is "error".
    """
    marked = mark_cuts(pictures)
    shot = _Shot(next(marked, None), marked, timing, clip, shortest)
    while (first := shot.begin()) is not None:
        rest = (frames_at(timing.timestamps, first + m) for m in moments(timing.duration - first))
        given = False
        for numbers, frames in slide(rest, shot.frames, lambda frame: frame):
            given = True
            shot.forget()
            yield ShotWindow(first, numbers, frames)
        shot.skip_rest()
        if not given:
            yield ShotWindow(first, *shot.short_window())


class _Shot:
    """The shot under way: gives its frames, and ends with it.

    Args:
        ahead: the next picture and whether a cut lies before it, None at the end of the video.
        marked: those after it.
        timing: of the video.
        clip: see `slide_in_shots`.
        shortest: likewise.
    """

    def __init__(
        self,
        ahead: tuple[Shown, bool] | None,
        marked: Iterator[tuple[Shown, bool]],
        timing: Timing,
        clip: ClipSpec,
        shortest: float,
    ) -> None:
        self._ahead = ahead
        self._marked = marked
        self._timing = timing
        self._clip = clip
        no_clip = clip.span_seconds + 2 * EDGE_SECONDS if clip.short_video == "error" else 0.0
        self._shortest, self._shortest_last = max(shortest, no_clip), no_clip
        self._start = 0.0
        self._held: list[Shown] | None = []  # None once there is a window

    def begin(self) -> float | None:
        """Go on to the next shot.

        Returns:
            When it begins, in seconds; None if the video has ended.
        """
        if self._ahead is None:
            return None
        self._start = self._ahead[0].seconds
        self._held = []
        self._take()
        return self._start

    def frames(self, wanted: Iterable[int]) -> Iterator[Image]:
        """The frames of ascending numbers, as long as they lie in the shot."""
        for number in wanted:
            while self._ahead is not None and self._ahead[0].number <= number:
                if self._ends():
                    return
                self._take()
            yield self._last.frame

    def forget(self) -> None:
        """There is a window, so that `short_window` will not be called."""
        self._held = None

    def skip_rest(self) -> None:
        """Go on to the end of the shot."""
        while self._ahead is not None and not self._ends():
            self._take()

    def short_window(self) -> Window:
        """The window of a shot that has ended before its first one was whole."""
        assert self._held
        assert self._ahead is not None
        held = np.array([shown.number for shown in self._held])
        (times,) = view_times(self._ahead[0].seconds - self._start, self._clip, 1)
        wanted = frames_at(self._timing.timestamps, self._start + times)
        places = np.searchsorted(held, wanted, side="right") - 1
        return held[places], np.stack([self._held[place].frame for place in places])

    def _take(self) -> None:
        assert self._ahead is not None
        self._last = self._ahead[0]
        if self._held is not None:
            self._held.append(self._last)
        self._ahead = next(self._marked, None)

    def _ends(self) -> bool:
        """Whether the next picture begins another shot."""
        assert self._ahead is not None
        picture, cut = self._ahead
        return (
            cut
            and picture.seconds - self._start >= self._shortest
            and self._timing.duration - picture.seconds >= self._shortest_last
        )
