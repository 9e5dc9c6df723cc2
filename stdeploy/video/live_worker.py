"""The process that reads one live source: python -m stdeploy.video.live_worker SOCKET.

It is told what to read over a socket, whose number is its argument, and sends the due frames back
over it, for `LiveReader`. FFmpeg has faults that a stream can use, its calls can hang, and OpenCV
takes options from the environment of the process: so each source has a process of its own, with
limits, and one that crashes takes no other with it.
"""

import contextlib
import os
import resource
import socket
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import SpecError, VideoError
from stdeploy.video.limits import give_back_large_arrays
from stdeploy.video.live import SourceFollower
from stdeploy.video.live_source import opener
from stdeploy.video.messages import receive, send
from stdeploy.video.opencv import limit_threads
from stdeploy.video.transform import Image, clip_frame

_MEMORY_BYTES = 2048 * 2**20  # address space
_FILES = 64  # that may be open at once


class Pictures(NamedTuple):
    """Which frames are handed on as pictures to look at, beside those for the network.

    Attributes:
        interval_seconds: from one to the next, by the clock of the stream; 0 takes all of the
            source.
        longest_px: larger ones are made smaller.
        quality: of JPEG, 1 to 100.
    """

    interval_seconds: float = 0.0
    longest_px: int = 1280
    quality: int = 85


def jpeg_of(image: Image, pictures: Pictures) -> bytes:
    """A picture as JPEG.

    Args:
        image: (H, W, 3), BGR.
        pictures: how large, how good.

    Raises:
        VideoError: it cannot be encoded.
    """
    height, width = image.shape[:2]
    factor = pictures.longest_px / max(height, width)
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    ok, encoded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, pictures.quality))
    if not ok:
        raise VideoError("holds a frame that cannot be written as a picture")
    return encoded.tobytes()


class _Sender:
    """Tells the other side what is read; see `ReceivesFrames`."""

    def __init__(self, file: BinaryIO, clip: ClipSpec, pictures: Pictures | None) -> None:
        self._file = file
        self._clip = clip
        self._pictures = pictures

    def begins(self) -> None:
        send(self._file, {"kind": "begins"})

    def frame(self, seconds: float, arrived: float, image: Image) -> None:
        when = {"seconds": seconds, "arrived": arrived}
        send(self._file, {"kind": "frame", **when}, clip_frame(image, self._clip))

    def picture(self, seconds: float, arrived: float, image: Image) -> None:
        assert self._pictures is not None
        when = {"seconds": seconds, "arrived": arrived}
        jpeg = np.frombuffer(jpeg_of(image, self._pictures), np.uint8)
        send(self._file, {"kind": "picture", **when}, jpeg)

    def breaks(self, reason: str, pause_seconds: float) -> None:
        message = {"kind": "breaks", "text": reason, "pause_seconds": pause_seconds}
        send(self._file, message)

    def notices(self, text: str) -> None:
        send(self._file, {"kind": "notices", "text": text})


def main() -> None:
    """Read until the source ends or the other side is gone."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.settimeout(None)
    with connection.makefile("rwb", buffering=0) as raw:
        file: BinaryIO = raw  # type: ignore[assignment]
        settings = _settings(file)
        # Nothing comes after the settings but the end.
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        limit_threads(1)
        give_back_large_arrays()
        _confine()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            _read(file, settings)


def _settings(file: BinaryIO) -> dict[str, Any]:
    def read_into(buffer: memoryview) -> None:
        while buffer:
            count = file.readinto(buffer)  # type: ignore[attr-defined]
            if not count:
                sys.exit()
            buffer = buffer[count:]

    return receive(read_into, most_bytes=0)[0]


def _end_with(connection: socket.socket) -> None:
    """Leave when the other side does, whatever this one waits for."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(0)


def _read(file: BinaryIO, settings: dict[str, Any]) -> None:
    clip = ClipSpec.model_validate(settings["clip"])
    pictures = None if settings["pictures"] is None else Pictures(*settings["pictures"])
    error: str | None = None
    try:
        SourceFollower(
            opener(settings["address"], files=True),
            clip.interval_seconds,
            _Sender(file, clip, pictures),
            picture_seconds=None if pictures is None else pictures.interval_seconds,
            reconnect=settings["reconnect"],
            tries=None,
            stop=threading.Event(),
        ).follow()
    except (VideoError, SpecError) as found:
        error = str(found)
    except (MemoryError, cv2.error):  # what cv2 raises here is want of memory
        error = f"the source needs more than {_MEMORY_BYTES // 2**20} MiB of memory to decode"
    send(file, {"kind": "ends", "error": error})


def _confine() -> None:
    """Give up what reading does not need."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes no file
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go; it is started again


if __name__ == "__main__":
    main()
