"""Video files to frames with timestamps, through OpenCV and the FFmpeg inside it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# FFmpeg opens whatever a file says it is: a text file named .mp4 can be a list of other local
# files, and a playlist can name URLs. Only real containers, only local files. OpenCV reads
# these variables when it opens a video; a user's own setting is left alone.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg,gif,mjpeg,"
    "h264,hevc,ivf,av1,obu,dv,nut,rm"
)
os.environ.setdefault(
    "OPENCV_FFMPEG_CAPTURE_OPTIONS", f"protocol_whitelist;file|format_whitelist;{_DEMUXERS}"
)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import cv2  # noqa: E402 - after the variables that it reads
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from stdeploy.errors import VideoError  # noqa: E402
from stdeploy.video.transform import Image  # noqa: E402

_CAPTURE_PARAMETERS = (
    cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
    20_000,
    cv2.CAP_PROP_READ_TIMEOUT_MSEC,
    20_000,
)
_FALLBACK_FPS = 25.0
_threads = 0  # of one decoder; 0 is one for each processor
_LEAP_SECONDS = 300.0


def limit_threads(threads: int) -> None:
    """Decode and resize with so many threads in this process from now on.

    Processes that decode side by side are to have one each: more would only get in each other's
    way. cv2 holds its own number for the whole process, and so does this.

    Args:
        threads: 1 or more; 0 for one of each processor.
    """
    global _threads
    _threads = threads
    cv2.setNumThreads(threads or -1)


class VideoReader:
    """One video file: all its timestamps, and any of its frames, upright.

    A file is decoded once to learn when its frames are shown, because headers lie about how
    many there are, and once more to fetch those that are wanted.

    Args:
        path: of the file.

    Raises:
        VideoError: no such file, or nothing in it that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        _check_file(path)
        self.path = path
        self.timestamps, self.fps = self._scan()

    def gather(
        self, frame_numbers: NDArray[np.intp], prepare: Callable[[Image], Image]
    ) -> NDArray[np.uint8]:
        """Fetch frames by number; each is decoded once, skipped ones are not converted.

        Args:
            frame_numbers: of any shape, each 0 to len(timestamps) - 1.
            prepare: turns a decoded frame (H, W, 3), BGR and upright, into what is kept.

        Returns:
            The prepared frames, frame_numbers.shape + (h, w, 3).

        Raises:
            VideoError: a frame that the scan saw cannot be decoded any more.
        """
        wanted = np.unique(frame_numbers)
        gathered: NDArray[np.uint8] | None = None
        with self._capture() as capture:
            position = -1
            for number in wanted:
                while position < number and capture.grab():
                    position += 1
                ok, image = capture.retrieve() if position == number else (False, None)
                if not ok or image is None:
                    raise VideoError(f"frame {number} cannot be decoded; the file is damaged there")
                try:
                    frame = prepare(np.asarray(image, dtype=np.uint8))
                except cv2.error as error:
                    size = "x".join(str(side) for side in image.shape[1::-1])
                    raise VideoError(f"frame {number} of {size} px cannot be resized") from error
                if gathered is None:
                    gathered = np.empty((*frame_numbers.shape, *frame.shape), dtype=np.uint8)
                gathered[frame_numbers == number] = frame
        assert gathered is not None
        return gathered

    @contextlib.contextmanager
    def _capture(self) -> Iterator[cv2.VideoCapture]:
        capture = cv2.VideoCapture(
            str(self.path.absolute()),  # FFmpeg would take "10:30.mp4" for a protocol
            cv2.CAP_FFMPEG,
            (*_CAPTURE_PARAMETERS, cv2.CAP_PROP_N_THREADS, _threads),
        )
        try:
            if not capture.isOpened():
                raise VideoError(
                    "is no video that can be read here: no known container with a video stream"
                )
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
            yield capture
        finally:
            capture.release()

    def _scan(self) -> tuple[NDArray[np.float64], float]:
        """Timestamps of all frames in seconds from the first, and the frame rate announced."""
        raw: list[float] = []
        with self._capture() as capture:
            announced = capture.get(cv2.CAP_PROP_FPS)
            while capture.grab():
                raw.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        if not raw:
            raise VideoError("holds no frame that can be decoded here")
        fps = announced if 0 < announced < 1000 else _FALLBACK_FPS
        return mend_timestamps(np.asarray(raw), fps=fps), fps


def _check_file(path: Path) -> None:
    """Say in words what OpenCV would not.

    Raises:
        VideoError: there is no such file, or it cannot be read.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise VideoError("has a name that is no UTF-8; rename the file") from error
    try:
        if not path.is_file():
            what = "is a folder without a video" if path.is_dir() else "does not exist"
            raise VideoError(f"{what}; name a video file")
        if path.stat().st_size == 0:
            raise VideoError("is empty (0 bytes)")
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from error
    if not os.access(path, os.R_OK):
        raise VideoError("cannot be read: permission denied")


def mend_timestamps(raw: NDArray[np.float64], *, fps: float) -> NDArray[np.float64]:
    """Make timestamps start at 0 and ascend without leaps.

    Some containers leave timestamps out (AVI with reordered frames loses the last one): those
    that do not ascend are put one typical interval after the frame before. Streams that were
    joined leap by hours: a leap of more than five minutes, forwards or back, becomes one typical
    interval, and what follows moves along.

    >>> mend_timestamps(np.array([2.0, 2.5, 0.0, 3.5]), fps=2.0).tolist()
    [0.0, 0.5, 1.0, 1.5]

    Args:
        raw: in seconds, in the order in which frames are decoded.
        fps: gives the interval where no two timestamps ascend.
    """
    steps = np.diff(raw)
    usual = steps[(steps > 0) & (steps <= _LEAP_SECONDS)]
    interval = float(np.median(usual)) if len(usual) else 1.0 / fps
    mended = np.zeros_like(raw)
    offset = -raw[0]
    for index in range(1, len(raw)):
        step = raw[index] - raw[index - 1]
        if abs(step) > _LEAP_SECONDS:
            offset += interval - step
        time = raw[index] + offset
        mended[index] = time if time > mended[index - 1] else mended[index - 1] + interval
    return mended
