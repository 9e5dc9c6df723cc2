"""Decoding with OpenCV and the FFmpeg inside it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from stdeploy.errors import VideoError
from stdeploy.video.decoder import NO_VIDEO, Index, Stream
from stdeploy.video.transform import Image

_TIMEOUT_MS = 20_000
_UNDECODED = -1  # a CAP_PROP_FORMAT: packets as they are
_threads = 0  # of one decoder; 0 is one for each processor


def limit_threads(threads: int) -> None:
    """Decode and resize with so many threads in this process from now on.

    What decodes side by side is to have one thread each: more would only get in each other's
    way. cv2 holds its own number for the whole process, and so does this.

    Args:
        threads: 1 or more; 0 for one of each processor.
    """
    global _threads
    _threads = threads
    cv2.setNumThreads(threads or -1)


def decoding_threads() -> int:
    """What `limit_threads` has set."""
    return _threads


class OpenCV:
    """See `Decoder`."""

    name = "opencv"

    def index(self, path: Path) -> Index:
        """All packets; they are read, not decoded, which takes a hundredth of the time."""
        packets = []
        with _capture(path, cv2.CAP_PROP_FORMAT, _UNDECODED) as capture:
            while capture.grab():
                key = capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) != 0
                packets.append((_seconds(capture), key))
            return Index.of(
                packets,
                fps=capture.get(cv2.CAP_PROP_FPS),
                width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
                height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            )

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator["_Stream"]:
        """Open a file to decode it."""
        with _capture(path, cv2.CAP_PROP_N_THREADS, _threads) as capture:
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
            yield _Stream(capture)


def stream_of(capture: cv2.VideoCapture) -> Stream:
    """The frames of an opened capture."""
    return _Stream(capture)


class _Stream:
    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture

    def grab(self) -> float | None:
        return _seconds(self._capture) if self._capture.grab() else None

    def image(self) -> Image:
        ok, image = self._capture.retrieve()
        if not ok or image is None:
            raise VideoError("holds a frame that cannot be converted; the file is damaged there")
        return np.asarray(image, dtype=np.uint8)

    def seek(self, seconds: float) -> None:
        self._capture.set(cv2.CAP_PROP_POS_MSEC, seconds * 1000)


@contextlib.contextmanager
def _capture(path: Path, *parameters: float) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(
        str(path.absolute()),  # FFmpeg would take "10:30.mp4" for a protocol
        cv2.CAP_FFMPEG,
        (
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS),
            *(int(value) for value in parameters),
        ),
    )
    try:
        if not capture.isOpened():
            raise VideoError(NO_VIDEO)
        yield capture
    finally:
        capture.release()


def _seconds(capture: cv2.VideoCapture) -> float:
    return float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
