"""Decoding with OpenCV and the FFmpeg inside it.

The wheels of OpenCV 4.13 to 5.0 hand interlaced frames to a conversion that refuses them, and
then give the picture before, or memory as it came, as if all were well. The only sign is a line
that FFmpeg prints, so a process of its own has to look: `refused_by_opencv`.
"""

import contextlib
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from stdeploy.errors import VideoError
from stdeploy.video.containers import (
    CAPTURE_OPTIONS,
    WITHOUT_TIMES,
    announced,
    capture_options,
    container_in,
)
from stdeploy.video.decoder import NO_VIDEO, HostStream, Index, Packet
from stdeploy.video.transform import Image, Orientation

_OTHER_STREAM = (
    "holds several streams of pictures, of which OpenCV decodes another than the one that a player "
    "shows"
)
_TIMEOUT_MS = 20_000
_UNDECODED = -1  # a CAP_PROP_FORMAT: packets as they are
# OpenCV takes a file for ended after 4,096 packets of sound or data without one of the video, and
# reads this variable when the first file is grabbed from.
_READ_ATTEMPTS = "OPENCV_FFMPEG_READ_ATTEMPTS"
_FFMPEG_LOG_LEVEL = "OPENCV_FFMPEG_LOGLEVEL"
_LOG_LEVEL = "OPENCV_LOG_LEVEL"
_settings_lock = threading.Lock()
_threads = 0  # of one decoder; 0 is one for each processor
_INTERLACED_REFUSED = "Cannot convert interlaced"
_FRAMES_TRIED = 300
_TRIAL_SECONDS = 30.0


def apply_opencv_settings() -> None:
    """Limit which files the FFmpeg in OpenCV opens, and what both of them print.

    Called before every video that is opened or written, and not when a module is imported, because
    it changes the environment of the process: OpenCV takes these settings from there alone. What
    the user has set stays. The user's own capture options are kept beside the limits, unless they
    set a whitelist themselves.
    """
    with _settings_lock:
        users = os.environ.get(CAPTURE_OPTIONS, "")
        if "whitelist" not in users:
            os.environ[CAPTURE_OPTIONS] = "|".join(filter(None, (users, capture_options())))
        os.environ.setdefault(_FFMPEG_LOG_LEVEL, "-8")
        os.environ.setdefault(_READ_ATTEMPTS, str(2**31 - 1))
        if _LOG_LEVEL not in os.environ:
            os.environ[_LOG_LEVEL] = "SILENT"  # for processes that this one starts
            # cv2 has read the variable when it was loaded.
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


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


@contextlib.contextmanager
def without_threads() -> Iterator[None]:
    """End OpenCV's own threads while processes are forked in here.

    A forked process has none of them, but waits for them, for ever, as soon as it sets their
    number.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def decoding_threads() -> int:
    """What `limit_threads` has set."""
    return _threads


@contextlib.contextmanager
def one_thread_each(jobs: int) -> Iterator[None]:
    """Where several videos are decoded at once, one thread for each is the fastest."""
    before = decoding_threads()
    if jobs > 1:
        limit_threads(1)
    try:
        yield
    finally:
        limit_threads(before)


class OpenCV:
    """See `Decoder`.

    What OpenCV does not tell: timestamps that are missing (containers that may leave them out are
    known, and 0 is taken for none there), how long a last frame stands and mirrored pictures
    (MP4 and QuickTime files are asked themselves), and frames that show nothing.
    """

    name = "opencv"

    def index(self, path: Path) -> Index:
        """All packets; they are read, not decoded, which takes a hundredth of the time."""
        packets = []
        said = announced(path)
        with _capture(path, cv2.CAP_PROP_FORMAT, _UNDECODED) as capture:
            clock = _Clock(capture, may_omit=_may_omit_times(path))
            while capture.grab() or capture.grab():  # see `_READ_ATTEMPTS`
                key = capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) != 0
                packets.append(Packet(clock.now(), key))
            if said is not None and said.frames == len(packets):
                last_seconds = said.seconds - max(packet.stamp for packet in packets)
            else:
                last_seconds = 0.0
            width, height = _size(capture)
            turned = _turn_of(path, width, height) if said is None else None
            return Index.of(
                packets,
                fps=capture.get(cv2.CAP_PROP_FPS),
                width=width,
                height=height,
                last_seconds=max(0.0, last_seconds),
                orientation=turned if said is None else Orientation.of_matrix(said.matrix),
            )

    @contextlib.contextmanager
    def open(self, path: Path, packets: int, /) -> Iterator["_Stream"]:
        """Open a file to decode it."""
        with _capture(path, cv2.CAP_PROP_N_THREADS, _threads) as capture:
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
            clock = _Clock(capture, may_omit=_may_omit_times(path))
            yield _Stream(capture, clock, packets)


def stream_of(capture: cv2.VideoCapture) -> HostStream:
    """The frames of an opened capture, up to the first that fails."""
    return _Stream(capture, _Clock(capture, may_omit=False), 0)


class _Stream:
    def __init__(self, capture: cv2.VideoCapture, clock: "_Clock", packets: int) -> None:
        self.errors = 0
        self._capture, self._clock, self._packets = capture, clock, packets
        self._left = packets

    def grab(self) -> float | None:
        # A packet that cannot be decoded ends one call, as the end of the file ends all; only the
        # number of packets tells them apart.
        failures = 0
        while not self._capture.grab():
            failures += 1
            self._left -= 1
            if self._left <= 0:
                return None
        self._left -= 1
        self.errors += failures
        return self._clock.now()

    def image(self) -> Image:
        ok, image = self._capture.retrieve()
        if not ok or image is None:
            raise VideoError("holds a frame that cannot be converted; the file is damaged there")
        return np.asarray(image, dtype=np.uint8)

    def seek(self, seconds: float) -> None:
        self._capture.set(cv2.CAP_PROP_POS_MSEC, seconds * 1000)
        self._left = self._packets


class _Clock:
    """When the packet or frame that was grabbed last is shown."""

    def __init__(self, capture: cv2.VideoCapture, *, may_omit: bool) -> None:
        self._capture, self._may_omit = capture, may_omit
        self._last = math.nan

    def now(self) -> float:
        """In seconds by the clock of the container; NaN where nothing says so."""
        seconds = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        # Where there is no timestamp, the one property is 0 and the other stays as it was.
        ticks = self._capture.get(cv2.CAP_PROP_PTS)
        missing = self._may_omit and seconds == 0 and ticks == self._last
        self._last = ticks
        return math.nan if missing else seconds


def _size(capture: cv2.VideoCapture) -> tuple[int, int]:
    width, height = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
    return int(capture.get(width)), int(capture.get(height))


def _turn_of(path: Path, width: int, height: int) -> Orientation:
    """Which way up a file is shown whose packets are of a stream of that size.

    Raises:
        VideoError: OpenCV would decode another stream: it lists what FFmpeg calls the best one, and
            decodes the first.
    """
    with _capture(path) as capture:
        if sorted(_size(capture)) != sorted((width, height)):  # which it turns by itself
            raise VideoError(_OTHER_STREAM)
        return Orientation.of_quarters(round(capture.get(cv2.CAP_PROP_ORIENTATION_META) / 90))


def _may_omit_times(path: Path) -> bool:
    return container_in(path) in WITHOUT_TIMES


@contextlib.contextmanager
def _capture(path: Path, *parameters: float) -> Iterator[cv2.VideoCapture]:
    apply_opencv_settings()
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


def refused_by_opencv(path: Path) -> bool:
    """Convert the first frames of a video, and see whether FFmpeg complains.

    Args:
        path: of a video that OpenCV opens.
    """
    try:
        result = subprocess.run(
            [sys.executable, "-P", "-m", __name__, str(path.absolute())],
            env=os.environ | {_FFMPEG_LOG_LEVEL: "16"},  # errors
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=_TRIAL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False  # nothing was complained about as far as it went
    return result.returncode == 0 and _INTERLACED_REFUSED in result.stdout.decode(errors="replace")


def main() -> None:
    """Convert frames; what FFmpeg says about it is the result."""
    apply_opencv_settings()
    capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
    for _ in range(_FRAMES_TRIED):
        if not capture.grab():
            break
        capture.retrieve()


if __name__ == "__main__":
    main()
