"""Windows that slide over a video share their frames. Pure bookkeeping; no file is touched here."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from stdeploy.video.transform import Image

Window = tuple[NDArray[np.intp], NDArray[np.uint8]]


def slide(
    windows: Iterator[NDArray[np.intp]],
    images: Callable[[Iterable[int]], Iterator[Image]],
    prepare: Callable[[Image], Image],
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
