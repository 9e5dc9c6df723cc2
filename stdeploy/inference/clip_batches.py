"""Clips of several videos in the batches of the network; a video is done when its last clip is."""

import dataclasses
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.frames import Frames, stacked
from stdeploy.backends.base import RunsClips
from stdeploy.errors import VideoError
from stdeploy.video.clips import Clips


@dataclasses.dataclass
class DecodedVideo:
    """A video on its way through the network.

    Attributes:
        video: the file.
        clips: of the video; None where it gave none.
        error: why not.
        decode_ms: how long decoding took.
        logits: of the clips that are done.
        infer_ms: its share of the time that the batches took.
    """

    video: Path
    clips: Clips | None
    error: VideoError | None
    decode_ms: float
    logits: list[NDArray[np.float32]] = dataclasses.field(default_factory=list)
    infer_ms: float = 0.0

    @property
    def missing(self) -> int:
        """How many clips have not been through the network."""
        return 0 if self.clips is None else len(self.clips.frames) - len(self.logits)


class ClipBatches:
    """Fills batches with the clips of videos, in the order in which those came.

    Args:
        runtime: runs the network.
        size: clips of a batch, from 1.
    """

    def __init__(self, runtime: RunsClips, size: int) -> None:
        self._runtime = runtime
        self._size = size
        self._waiting: deque[DecodedVideo] = deque()

    def add(self, decoded: DecodedVideo) -> Iterator[DecodedVideo]:
        """Take a video and run the batches that are full.

        Yields:
            Videos that are done, in order.
        """
        self._waiting.append(decoded)
        while self._missing >= self._size:
            self._run_one()
        yield from self._done()

    def finish(self) -> Iterator[DecodedVideo]:
        """Run what is left.

        Yields:
            The other videos, in order.
        """
        while self._missing:
            self._run_one()
        yield from self._done()

    @property
    def _missing(self) -> int:
        return sum(decoded.missing for decoded in self._waiting)

    def _run_one(self) -> None:
        """Run one batch of the clips that have waited longest."""
        batch: list[tuple[DecodedVideo, Frames]] = []
        for decoded in self._waiting:
            if decoded.clips is not None:
                room = self._size - len(batch)
                first = len(decoded.logits)
                batch += [(decoded, clip) for clip in decoded.clips.frames[first : first + room]]
        start = time.perf_counter()
        logits = self._runtime.run(stacked([clip for _, clip in batch]))
        each_ms = 1e3 * (time.perf_counter() - start) / len(batch)
        for (decoded, _), row in zip(batch, logits, strict=True):
            decoded.logits.append(row)
            decoded.infer_ms += each_ms

    def _done(self) -> Iterator[DecodedVideo]:
        while self._waiting and not self._waiting[0].missing:
            yield self._waiting.popleft()
