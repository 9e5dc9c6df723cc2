"""Where a video is cut, and windows that keep to one shot. No file is touched here.

The change from a picture to the next is a hard cut if it is large, stands out among those around
it, and no picture soon after it looks like one just before. So flashes (the old picture returns),
fast pans, shakes and fades (changes beside it are large as well) and lights that go on (the same
shapes, brighter) are none.

A shot lies between two cuts and is treated as a video of its own: its first window starts with
it, its last one ends in it, and one that is shorter than a clip has the window that a short video
has.

NOTE: PySceneDetect has the first two conditions of a cut only: its AdaptiveDetector took nine of
ten flashes for cuts, see docs/architecture.md.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.video.sampling import EDGE_SECONDS, Window, frames_at, slide, view_times
from stdeploy.video.timing import Timing
from stdeploy.video.transform import Image

_SMALL = (64, 36)  # width and height at which pictures are compared
_LEAST_CHANGE = 8.0  # mean over pixels and colours, of 255 levels
_LASTS = 0.6  # of the change has to be left between any picture before and any after
# How alike pictures before and after may be (the correlation of their brightness), and how many
# times the largest change around it the change then has to be.
_STANDS_OUT = ((0.5, 1.5), (0.8, 2.0))
_AROUND_SECONDS = 0.25
_AROUND_FRAMES = 2  # at least, however few a second there are
_MOST_FPS = 60.0  # at which a video is looked at, which bounds the frames that are held


class Shown(NamedTuple):
    """A picture of a video.

    Attributes:
        number: of its frame.
        seconds: when it is shown.
        small: for comparing; see `shrink`.
        frame: as the network is to see it.
    """

    number: int
    seconds: float
    small: NDArray[np.float32]
    frame: Image


def shrink(image: Image) -> NDArray[np.float32]:
    """Make a decoded frame (H, W, 3) so small, (36, 64, 3), that pictures compare in no time."""
    step = max(1, min(image.shape[0] // (2 * _SMALL[1]), image.shape[1] // (2 * _SMALL[0])))
    small = cv2.resize(image[::step, ::step], _SMALL, interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32)


def mark_cuts(pictures: Iterable[Shown]) -> Iterator[tuple[Shown, bool]]:
    """Say of each picture whether a hard cut lies just before it.

    A picture is given a quarter of a second after it came, when those after it are known, or two
    pictures later where that is longer. No more than that is held.

    Args:
        pictures: of a video, in the order of time, at its full frame rate.

    Yields:
        Each picture, and whether it is the first one after a cut.
    """
    before: deque[Shown] = deque()  # pictures that were given, newest last
    changes: deque[float] = deque()  # from the one before to each of them
    for picture, change, after in _with_those_after(pictures):
        while len(before) > _AROUND_FRAMES and _apart(before[0], picture):
            before.popleft()
            changes.popleft()
        yield picture, bool(before) and _is_cut(change, before, changes, picture, after)
        before.append(picture)
        changes.append(change)


_Ahead = list[tuple[Shown, float]]


def _with_those_after(pictures: Iterable[Shown]) -> Iterator[tuple[Shown, float, _Ahead]]:
    """Each picture, its change from the one before (0 of the first), and those around after it."""
    ahead: deque[tuple[Shown, float]] = deque()
    last: Shown | None = None
    for picture in pictures:
        ahead.append((picture, 0.0 if last is None else _difference(last.small, picture.small)))
        last = picture
        while len(ahead) > 1 + _AROUND_FRAMES and _apart(ahead[0][0], picture):
            yield _first_of(ahead)
    while ahead:
        yield _first_of(ahead)


def _first_of(ahead: deque[tuple[Shown, float]]) -> tuple[Shown, float, _Ahead]:
    picture, change = ahead.popleft()
    return picture, change, list(ahead)


def _apart(one: Shown, other: Shown) -> bool:
    return other.seconds - one.seconds > _AROUND_SECONDS


def _is_cut(
    change: float,
    before: deque[Shown],
    changes: deque[float],
    picture: Shown,
    after: _Ahead,
) -> bool:
    if change < _LEAST_CHANGE:
        return False
    around = max(itertools.chain(changes, (other for _, other in after)))
    if change < _STANDS_OUT[0][1] * around:
        return False
    new = [picture.small, *(other.small for other, _ in after)]
    pairs = [(old.small, small) for old in before for small in new]
    if any(_difference(*pair) < _LASTS * change for pair in pairs):
        return False
    alike = max(_likeness(*pair) for pair in pairs)
    return any(alike <= most and change >= times * around for most, times in _STANDS_OUT)


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).mean())


def _likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Correlation of brightness, -1 to 1; 0 of a picture that is the same all over."""
    first, second = (small.mean(axis=2) for small in (one, other))
    first -= first.mean()
    second -= second.mean()
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size else 0.0


# Moments of windows, (T,) each, in a shot of so many seconds; from its start.
Moments = Callable[[float], Iterator[NDArray[np.float64]]]


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
