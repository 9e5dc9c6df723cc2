"""Where a video is cut: pictures that change all at once, and for good. No file is touched here.

The change from a picture to the next is a cut if it is large, stands out among those around it,
and no picture soon after it looks like one just before. So flashes (the old picture returns), fast
pans, shakes and fades (changes beside it are large as well) and lights that go on (the same shapes,
brighter) are none.

NOTE: PySceneDetect has the first two of these conditions only: its AdaptiveDetector took nine of
ten flashes for cuts, see docs/architecture.md.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stdeploy.video.transform import Image

_SMALL = (64, 36)  # width and height at which pictures are compared
_LEAST_CHANGE = 8.0  # mean over pixels and colours, of 255 levels
_LASTS = 0.6  # of the change has to be left between any picture before and any after
# How alike pictures before and after may be (the correlation of their brightness), and how many
# times the largest change around it the change then has to be.
_STANDS_OUT = ((0.5, 1.5), (0.8, 2.0))
_AROUND_SECONDS = 0.25
_AROUND_FRAMES = 2  # at least, however few a second there are


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
