"""Windows of a timeline from a network that takes a stream: every frame is computed once.

They say what `stdeploy.inference.dense_windows` says, also of networks that stride in time; what
layers keep takes the place of the frames that stretches have in common there.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stdeploy.backends.streams import StreamRuntime, filled, place_weights


class StreamWindows:
    """Takes the frames of a video as they come, gives the logits of windows.

    Args:
        runtime: of the network.
        window: frames in one, T, a multiple of the network's stride in time.
        hop: frames from the start of one to the start of the next, likewise.
    """

    def __init__(self, runtime: StreamRuntime, *, window: int, hop: int = 1) -> None:
        spec = runtime.spec
        self._runtime = runtime
        self._stream = runtime.begin()
        self._window = window // spec.stride_frames
        self._hop = hop // spec.stride_frames
        self._weights = place_weights(self._window, spec.sliding_places)
        self._unknown = spec.delay_places  # places that come first and are none
        self._frames: NDArray[np.uint8] | None = None  # less than a call takes
        self._count = 0
        self._places = np.empty((0, runtime.card.model.num_classes))
        self._given = 0

    def add(self, frames: NDArray[np.uint8]) -> Iterator[NDArray[np.float64]]:
        """Take more frames (n, H, W, 3).

        Yields:
            Logits (m, K) of windows that are now known.
        """
        self._count += len(frames)
        held = frames if self._frames is None else np.concatenate([self._frames, frames])
        each = self._runtime.frames_per_call
        # One call is left, which may be the last, of which not all frames count.
        while len(held) > each:
            self._call(held[:each])
            held = held[each:]
            yield from self._windows()
        self._frames = held.copy()

    def finish(self) -> Iterator[NDArray[np.float64]]:
        """No more frames come.

        Frames behind the last whole stride in time are left out.

        Yields:
            Logits (m, K) of the last windows. A video shorter than a window gives one, of what
            there is.
        """
        if self._frames is None:
            return
        spec = self._runtime.spec
        held = self._frames
        missing = max(spec.stride_frames - self._count, 0)  # of a video shorter than one stride
        if missing:
            held = np.concatenate([held, np.repeat(held[-1:], missing, axis=0)])
        length = (self._count + missing) // spec.stride_frames * spec.stride_frames
        self._stream.length = length
        for _ in range(1 + spec.calls_behind):
            self._call(filled(held, spec.frames_per_call))
        places = length // spec.stride_frames - self._given
        self._places = self._places[: max(places, 0)]
        yield from self._windows()
        if length // spec.stride_frames < self._window:
            weights = place_weights(len(self._places), spec.sliding_places)
            yield (weights @ self._places)[None]

    def _call(self, frames: NDArray[np.uint8]) -> None:
        new = self._runtime.step(frames[None], [self._stream]).places[0]
        skipped = min(self._unknown, len(new))
        self._unknown -= skipped
        self._places = np.concatenate([self._places, new[skipped:].astype(np.float64)])

    def _windows(self) -> Iterator[NDArray[np.float64]]:
        count = (len(self._places) - self._window) // self._hop + 1
        if count < 1:
            return
        starts = range(0, count * self._hop, self._hop)
        windows = [self._weights @ self._places[start : start + self._window] for start in starts]
        yield np.array(windows)
        self._places = self._places[count * self._hop :]
        self._given += count * self._hop
