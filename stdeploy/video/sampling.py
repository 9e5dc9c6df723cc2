"""Which frames make a clip, and windows that share their frames. No file is touched here.

A video is shown from 0 to its duration; frame i stands on the screen from its timestamp until
the next. A clip wants T moments, evenly spaced by the ClipSpec's interval, and takes the frame
that stands at each: the same moments whatever the frame rate, constant or not.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import VideoError
from stdeploy.video.transform import Image

# Containers round timestamps, Matroska to whole milliseconds; a moment that falls on the edge
# between two frames by less than this belongs to the later one.
EDGE_SECONDS = 1e-3
_WHOLE = 1e-6  # a quotient that lacks less than this to a whole number is that number
Decoded = TypeVar("Decoded")
Window = tuple[NDArray[np.intp], NDArray[np.uint8]]


def view_times(duration: float, clip: ClipSpec, views: int) -> NDArray[np.float64]:
    """The moments of evenly spaced clips.

    Each of `views` equal parts of the room that a clip can move in has one clip in its middle;
    a single view is the middle of the video. A video shorter than a clip has one view, made as
    clip.short_video says: "hold" and "loop" start at 0, "stretch" spreads T moments over it.

    A clip of 3 frames at 2 frames a second spans 1 s; in a video of 4 s one view starts at 1.5:

    >>> spec = ClipSpec(num_frames=3, frame_stride=1, fps=2.0)
    >>> view_times(4.0, spec, 1).tolist(), view_times(4.0, spec, 3)[:, 0].tolist()
    ([[1.5, 2.0, 2.5]], [0.5, 1.5, 2.5])

    Args:
        duration: of the video, in seconds.
        clip: T and the interval.
        views: clips wanted.

    Returns:
        Seconds from the start of the video, (V, T); V is 1 for a short video.

    Raises:
        VideoError: the video is short and clip.short_video is "error".
    """
    room = duration - clip.span_seconds
    if room > 0:
        starts = room * (np.arange(views) + 0.5) / views
        return clip_times(starts, clip)
    steps = np.arange(clip.num_frames)
    match clip.short_video:
        case "hold":
            # Past the end, the last frame stands still.
            times = steps * clip.interval_seconds
        case "loop":
            # A moment that rounding leaves just before the seam belongs to the first frame.
            times = (steps * clip.interval_seconds + EDGE_SECONDS) % duration - EDGE_SECONDS
        case "stretch":
            times = (steps + 0.5) * duration / clip.num_frames
        case "error":
            raise VideoError(
                f"is {duration:.2f} s long, but a clip spans {clip.span_seconds:.2f} s; use a "
                "longer video, or a model whose card says what to do with short ones"
            )
    return np.asarray(times[None], dtype=np.float64)


def frames_past_end(duration: float, clip: ClipSpec) -> int:
    """How many frames of a clip lie past the end of a video that is shorter than the clip.

    Counted at the clip's interval from the first frame of the video on: "hold" repeats the last
    frame for them, "loop" begins the video again, "stretch" moves them into the video.

    >>> spec = ClipSpec(num_frames=4, frame_stride=1, fps=2.0)  # at 0, 0.5, 1 and 1.5 s
    >>> [frames_past_end(seconds, spec) for seconds in (0.4, 0.5, 1.2, 1.5, 1.6, 9.0)]
    [3, 3, 1, 1, 0, 0]

    Args:
        duration: of the video, in seconds.
        clip: T and the interval.

    Returns:
        0 to T - 1.
    """
    if duration > clip.span_seconds:
        return 0
    shown = max(1, math.ceil((duration - EDGE_SECONDS) / clip.interval_seconds))
    return clip.num_frames - min(shown, clip.num_frames)


def window_times(
    duration: float, clip: ClipSpec, hop: float, *, first: int = 0
) -> Iterator[NDArray[np.float64]]:
    """The moments of clips that start every `hop` seconds, as long as they lie in the video.

    A video shorter than a clip has the one window that `view_times` gives it.

    >>> spec = ClipSpec(num_frames=3, frame_stride=1, fps=2.0)
    >>> [times.tolist() for times in window_times(2.6, spec, 0.75)]
    [[0.0, 0.5, 1.0], [0.75, 1.25, 1.75], [1.5, 2.0, 2.5]]

    Args:
        duration: of the video, in seconds.
        clip: T and the interval.
        hop: from the start of one window to the start of the next, in seconds.
        first: number of the window to begin with.

    Yields:
        Seconds from the start of the video, (T,).

    Raises:
        VideoError: the video is short and clip.short_video is "error".
    """
    room = duration - clip.span_seconds
    if room <= 0:
        if first == 0:
            yield view_times(duration, clip, 1)[0]
        return
    for number in range(first, max(1, math.ceil(room / hop - _WHOLE))):
        yield clip_times(np.array([number * hop]), clip)[0]


def chunk_times(
    duration: float, clip: ClipSpec, frames: int, *, first: int = 0
) -> Iterator[NDArray[np.float64]]:
    """All moments of a video at a clip's interval, so many at a time; the last ones are fewer.

    >>> spec = ClipSpec(num_frames=3, frame_stride=1, fps=2.0)
    >>> [times.tolist() for times in chunk_times(2.2, spec, 4)]
    [[0.0, 0.5, 1.0, 1.5], [2.0]]

    Args:
        duration: of the video, in seconds.
        clip: the interval.
        frames: in a chunk.
        first: number of the chunk to begin with.

    Yields:
        Seconds from the start of the video, (frames,).
    """
    moments = max(1, math.ceil(duration / clip.interval_seconds - _WHOLE))
    for start in range(first * frames, moments, frames):
        steps = np.arange(start, min(start + frames, moments), dtype=np.float64)
        yield steps * clip.interval_seconds


def clip_times(starts: NDArray[np.float64], clip: ClipSpec) -> NDArray[np.float64]:
    """Moments of clips that start at given times, (V,) -> (V, T), in seconds."""
    steps = np.arange(clip.num_frames) * clip.interval_seconds
    return np.asarray(starts[:, None] + steps[None, :], dtype=np.float64)


def frames_at(timestamps: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.intp]:
    """The frame that stands on the screen at each moment.

    Before the first frame that is the first, after the last the last.

    >>> frames_at(np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.05, 0.1, 0.19, 9.0])).tolist()
    [0, 0, 1, 1, 2]

    Args:
        timestamps: of all frames, in seconds, ascending.
        times: moments, any shape.

    Returns:
        Frame numbers, of the shape of times.
    """
    after = np.searchsorted(timestamps, times + EDGE_SECONDS, side="right")
    return np.clip(after - 1, 0, len(timestamps) - 1)


def slide(
    windows: Iterator[NDArray[np.intp]],
    images: Callable[[Iterable[int]], Iterator[Decoded]],
    prepare: Callable[[Decoded], Image],
) -> Iterator[Window]:
    """Gather the frames of windows, each frame decoded and prepared once.

    Only the frames that the windows under way still need are held, so an hour needs as much
    memory as a minute.

    Args:
        windows: frame numbers (T,) of each, of any T; the first one of each is its smallest, and
            they ascend from window to window.
        images: decodes frames by ascending numbers. Where it ends before they do, windows that lack
            frames are not given.
        prepare: turns a decoded frame into what is kept.

    Yields:
        Each window: its numbers (T,) and its frames (T, ...).
    """
    held: dict[int, Image] = {}
    pending = _Pending(windows)

    def complete() -> Iterator[Window]:
        while (numbers := pending.complete(max(held, default=-1))) is not None:
            yield numbers, np.stack([held[int(number)] for number in numbers])
            for number in [number for number in held if number < pending.first]:
                del held[number]

    for image in images(pending.wanted()):
        held[pending.last] = prepare(image)
        yield from complete()
    yield from complete()  # windows of the same frames as the one before


class _Pending:
    """Windows of which frames are still missing.

    Attributes:
        last: the number that was asked for last.
    """

    def __init__(self, windows: Iterator[NDArray[np.intp]]) -> None:
        self.last = -1
        self._windows = windows
        self._next = next(windows, None)
        self._open: deque[NDArray[np.intp]] = deque()

    @property
    def first(self) -> int:
        """The smallest number that a window to come may want."""
        numbers = self._open[0] if self._open else self._next
        return self.last + 1 if numbers is None else int(numbers[0])

    def wanted(self) -> Iterator[int]:
        """Ask for one frame after the other, ascending."""
        while (number := self._smallest()) is not None:
            self.last = number
            yield number

    def complete(self, last: int) -> NDArray[np.intp] | None:
        """The first open window, if it has all its frames up to number `last`; None otherwise."""
        if self._open and self._open[0].max() <= last:
            return self._open.popleft()
        return None

    def _smallest(self) -> int | None:
        """The next number that any window wants; windows are opened as far as it needs."""
        best: int | None = None
        for numbers in self._open:
            best = _lesser(best, numbers, self.last)
        while self._next is not None and (best is None or self._next[0] <= best):
            self._open.append(self._next)
            best = _lesser(best, self._next, self.last)
            self._next = next(self._windows, None)
        return best


def _lesser(best: int | None, numbers: NDArray[np.intp], last: int) -> int | None:
    ahead = numbers[numbers > last]
    if not len(ahead):
        return best
    number = int(ahead.min())
    return number if best is None else min(best, number)
