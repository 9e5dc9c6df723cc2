"""Windows one frame apart share nearly all their frames; here they share the work as well.

A network without temporal stride ends in an average over time, so the trunk can run once over a
long stretch, and each window is the average of its frames' features. Features near the ends of a
stretch would see zeros where the video goes on, so stretches overlap by the frames that a feature
depends on: before its own and behind it, or before it alone if the network is causal. What is given
does not depend on where they were cut.

NOTE: a window of its own sees zeros before its first frame and after its last; these windows see
the real neighbours there. So the answers differ, most for short windows and long filters.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Trunk(Protocol):
    """A network up to its average over time.

    Attributes:
        before: how many frames before its own a feature depends on.
        after: and behind it; 0 of a causal network.
    """

    before: int
    after: int

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map frames (T, H, W, 3), any T, to features averaged over space (T, C)."""
        ...

    def logits(self, averages: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map features averaged over time (N, C) to logits (N, K)."""
        ...


class DenseWindows:
    """Takes the frames of a video as they come, gives the logits of windows.

    Args:
        trunk: of the network.
        window: frames in one, T.
        hop: frames from the start of one to the start of the next.
        stretch: frames that the trunk gives features for at a time.
    """

    def __init__(self, trunk: Trunk, *, window: int, hop: int = 1, stretch: int = 64) -> None:
        self._trunk = trunk
        self._window = window
        self._hop = hop
        self._stretch = stretch
        self._frames: NDArray[np.uint8] | None = None
        self._first_frame = 0  # number of the first one held
        self._features: NDArray[np.float64] | None = None
        self._first_feature = 0  # likewise, and the start of the next window

    def add(self, frames: NDArray[np.uint8]) -> Iterator[NDArray[np.float64]]:
        """Take more frames (n, H, W, 3).

        Yields:
            Logits (m, K) of windows that are now known.
        """
        held = self._frames
        self._frames = frames if held is None else np.concatenate([held, frames])
        while self._end - self._known >= self._stretch + self._trunk.after:
            yield from self._advance(self._known + self._stretch)

    def finish(self) -> Iterator[NDArray[np.float64]]:
        """No more frames come.

        Yields:
            Logits (m, K) of the last windows. A video shorter than a window gives one, of what
            there is.
        """
        if self._frames is None:
            return
        short = self._end < self._window
        if self._known < self._end:
            yield from self._advance(self._end)
        if short and self._features is not None:
            yield self._trunk.logits(self._features.mean(axis=0, keepdims=True))

    @property
    def _end(self) -> int:
        assert self._frames is not None
        return self._first_frame + len(self._frames)

    @property
    def _known(self) -> int:
        """The first frame whose feature is not known."""
        return self._first_feature + (0 if self._features is None else len(self._features))

    def _advance(self, to: int) -> Iterator[NDArray[np.float64]]:
        """Make the features before frame `to` known, and give the windows that end there."""
        assert self._frames is not None
        before, after = self._trunk.before, self._trunk.after
        start, end = max(self._known - before, 0), min(to + after, self._end)
        part = self._frames[start - self._first_frame : end - self._first_frame]
        new = self._trunk.features(part)[self._known - start : to - start].astype(np.float64)
        keep = max(to - before, 0)
        self._frames = self._frames[keep - self._first_frame :].copy()
        self._first_frame = keep
        held = self._features
        self._features = new if held is None else np.concatenate([held, new])
        yield from self._windows()

    def _windows(self) -> Iterator[NDArray[np.float64]]:
        assert self._features is not None
        count = (len(self._features) - self._window) // self._hop + 1
        if count < 1:
            return
        starts = np.arange(count) * self._hop
        sums = np.concatenate([np.zeros_like(self._features[:1]), self._features.cumsum(axis=0)])
        averages = (sums[starts + self._window] - sums[starts]) / self._window
        yield self._trunk.logits(averages)
        self._features = self._features[count * self._hop :]
        self._first_feature += count * self._hop
