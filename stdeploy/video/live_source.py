"""Opening a live source: a camera, a network stream, a pipe, or a file that is played in real time.

`opener` says how, once what the user named is known to be one; a source that breaks off is opened
with it again.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import cv2

from stdeploy.errors import SpecError, VideoError
from stdeploy.video.containers import CAPTURE_OPTIONS, capture_options
from stdeploy.video.decoder import HostStream
from stdeploy.video.opencv import apply_opencv_settings, stream_of
from stdeploy.video.transform import Image

STANDARD_INPUT = "-"
_URL_PROTOCOLS = "udp,rtp,rtsp,rtmp,srt,tcp,http,https,tls,crypto"
_TIMEOUT_MS = 10_000
_LONGEST_GAP = 30.0  # s between two frames of a file that are waited for
_MOST_CAMERAS = 1000

_OPENING = threading.Lock()

Opener = Callable[[], AbstractContextManager[HostStream]]


class NoStreamError(VideoError):
    """A source that cannot be opened, or sends no video."""


def opener(source: str, *, files: bool = False) -> Opener:
    """How to open a source: the number of a camera, a URL, or "-" for a pipe.

    Args:
        source: see above.
        files: it may be the path of a file, too, which is played in real time.

    Raises:
        SpecError: it is none of these.
    """
    if source == STANDARD_INPUT:
        if sys.stdin is None:
            raise SpecError("there is no pipe: standard input is closed")
        return lambda: _opened(f"pipe:{sys.stdin.fileno()}", "protocol_whitelist;pipe")
    if source.isdecimal() and int(source) < _MOST_CAMERAS:
        return lambda: _camera(int(source))
    if files and Path(source).is_file():
        path = Path(source).absolute()  # FFmpeg would take "10:30.mp4" for a protocol
        return lambda: _played(path)
    scheme = source.partition("://")[0]
    if "://" not in source or scheme not in _URL_PROTOCOLS.split(","):
        raise SpecError(
            f"{source!r} is no live source: give the number of a camera, a URL "
            f"({_URL_PROTOCOLS.replace(',', ', ')}) or - for a pipe; "
            + ("no file has this name" if files else "files are for stdeploy classify")
        )
    # Without a buffer, what was read to find out about the stream is not shown, late, first.
    # And FFmpeg's own thread for UDP, which it ends by cancelling it, is not needed: this reads
    # without pause.
    return lambda: _opened(
        source,
        f"protocol_whitelist;{_URL_PROTOCOLS}|fflags;nobuffer|flags;low_delay"
        "|fifo_size;0|buffer_size;8388608",
    )


@contextlib.contextmanager
def _opened(address: str, options: str) -> Iterator[HostStream]:
    # OpenCV takes options from the environment, which is the whole program's, and files have
    # others: one live source is opened at a time in a process, and a program that opens files
    # meanwhile would open them with these. `stdeploy watch` opens none, and of many sources each
    # has a process of its own (live_reader.py).
    apply_opencv_settings()
    with _OPENING:
        before = os.environ[CAPTURE_OPTIONS]
        os.environ[CAPTURE_OPTIONS] = options
        try:
            capture = cv2.VideoCapture(
                address,
                cv2.CAP_FFMPEG,
                (
                    *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS),
                    *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS),
                    *(cv2.CAP_PROP_N_THREADS, 1),  # more would hold frames back
                ),
            )
        finally:
            os.environ[CAPTURE_OPTIONS] = before
    with _released(capture):
        yield stream_of(capture)


class _Played:
    """A file whose frames come when they are shown."""

    def __init__(self, stream: HostStream) -> None:
        self.errors = 0
        self._stream = stream
        self._begun: float | None = None  # `time.monotonic()` of the moment 0 of the file
        self._last = 0.0

    def grab(self) -> float | None:
        shown = self._stream.grab()
        if shown is None:
            return None
        now = time.monotonic()
        # Times that go back, or leap, are those of a clock that was set anew.
        if self._begun is None or not 0 <= shown - self._last <= _LONGEST_GAP:
            self._begun = now - shown
        self._last = shown
        time.sleep(max(0.0, self._begun + shown - now))
        return shown

    def image(self) -> Image:
        return self._stream.image()

    def seek(self, seconds: float) -> None:
        self._stream.seek(seconds)


@contextlib.contextmanager
def _played(path: Path) -> Iterator[HostStream]:
    with _opened(str(path), capture_options()) as stream:
        yield _Played(stream)


@contextlib.contextmanager
def _camera(number: int) -> Iterator[HostStream]:
    apply_opencv_settings()
    with _released(cv2.VideoCapture(number)) as capture:
        yield stream_of(capture)


@contextlib.contextmanager
def _released(capture: cv2.VideoCapture) -> Iterator[cv2.VideoCapture]:
    try:
        if not capture.isOpened():
            raise NoStreamError("cannot be opened, or sends no video")
        yield capture
    finally:
        capture.release()
