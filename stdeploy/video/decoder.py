"""What a decoder has to offer: the timestamps of packets, and frames one after the other."""

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stdeploy.video.transform import Image

DecoderName = Literal["auto", "opencv", "pyav"]

NO_VIDEO = "is no video that can be read here: no known container with a video stream"


@dataclasses.dataclass(frozen=True)
class Index:
    """What the packets of a stream say about its frames, without decoding them.

    Attributes:
        times: float64, seconds, ascending; when each frame is shown, by the container's clock.
        keys: bool, which of them can be decoded without those before.
        fps: the frame rate that is announced; 0 where none is.
        width: that is announced, in pixels.
        height: likewise.
    """

    times: NDArray[np.float64]
    keys: NDArray[np.bool_]
    fps: float
    width: int
    height: int

    @staticmethod
    def of(packets: list[tuple[float, bool]], *, fps: float, width: int, height: int) -> "Index":
        """Sort packets, which come in the order of decoding, by when they are shown."""
        times = np.array([time for time, _ in packets], dtype=np.float64)
        keys = np.array([key for _, key in packets], dtype=np.bool_)
        order = np.argsort(times, kind="stable")
        return Index(times[order], keys[order], fps, width, height)


class Stream(Protocol):
    """The video stream of an opened file; frames come in the order in which they are shown."""

    def grab(self) -> float | None:
        """Decode the next frame.

        Returns:
            When it is shown, in seconds by the container's clock; None after the last frame.
        """

    def image(self) -> Image:
        """The frame that was grabbed last, converted: (H, W, 3), BGR, upright.

        Raises:
            VideoError: it cannot be converted.
        """

    def seek(self, seconds: float) -> None:
        """Go on near a moment; the next `grab` tells where."""


class Decoder(Protocol):
    """A library that decodes videos."""

    @property
    def name(self) -> str:
        """For people: "opencv" or "pyav"."""

    def index(self, path: Path) -> Index:
        """Read all packets of a file.

        Raises:
            VideoError: it has no video stream.
        """

    def open(self, path: Path) -> AbstractContextManager[Stream]:
        """Open a file to decode it from its start.

        Raises:
            VideoError: it has no video stream.
        """
