"""The video again, with the labels drawn on it."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from stdeploy.errors import VideoError
from stdeploy.files import whole_file
from stdeploy.video.decoder import DecoderName
from stdeploy.video.reader import VideoReader
from stdeploy.video.sampling import frames_at
from stdeploy.video.timing import Timing
from stdeploy.video.transform import Image

_MOST_FPS = 60.0
_LONGEST_PX = 1280
_H264: Final = "libx264"
_MPEG4 = "mp4v"  # the best that the wheels of OpenCV can write
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_ELLIPSIS = "..."

# What to write at a moment: labels with their scores (0 to 1), best first.
LinesAt = Callable[[float], list[tuple[str, float]]]


def write_with_labels(
    video: Path, lines_at: LinesAt, path: Path, *, decoder: DecoderName = "auto"
) -> None:
    """Write a video with bars and labels in its corner. It has no sound.

    It is H.264 where PyAV is installed, which browsers play; MPEG-4 Part 2 otherwise.

    Args:
        video: the file.
        lines_at: gives what to draw at a moment, in seconds.
        path: ends in .mp4.
        decoder: see `VideoReader`.

    Raises:
        VideoError: it cannot be read, or not be written.
    """
    reader = VideoReader(video, decoder=decoder)
    fps = min(_MOST_FPS, max(1.0, len(reader.timing.timestamps) / reader.timing.duration))
    images = _drawn(reader, fps, lines_at)
    first = next(images)
    height, width = first.shape[:2]
    writing = _with_pyav if _has_h264() else _with_opencv
    with whole_file(path) as temporary, writing(temporary, fps, (width, height)) as write:
        for image in itertools.chain([first], images):
            write(image)


def _drawn(reader: VideoReader, fps: float, lines_at: LinesAt) -> Iterator[Image]:
    def choose(timing: Timing, first: int) -> Iterator[NDArray[np.intp]]:
        moments = np.arange(first, max(1, round(timing.duration * fps))) / fps
        for number in frames_at(timing.timestamps, moments):
            yield np.array([number])

    for number, (_, frames) in enumerate(reader.slide(choose, _even)):
        image = frames[0].copy()
        _draw(image, lines_at(number / fps))
        yield image


def _has_h264() -> bool:
    try:
        import av
    except ModuleNotFoundError:
        return False
    return _H264 in av.codecs_available


@contextlib.contextmanager
def _with_pyav(path: Path, fps: float, size: tuple[int, int]) -> Iterator[Callable[[Image], None]]:
    import av

    rate = Fraction(fps).limit_denominator(1001)  # 30000/1001 is a usual one
    try:
        # The index first, so that a browser can begin before it has all.
        with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream(_H264, rate=rate)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            numbers = itertools.count()

            def write(image: Image) -> None:
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts, frame.time_base = next(numbers), 1 / rate
                container.mux(stream.encode(frame))

            yield write
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise _unwritable(size) from error


@contextlib.contextmanager
def _with_opencv(
    path: Path, fps: float, size: tuple[int, int]
) -> Iterator[Callable[[Image], None]]:
    code = cv2.VideoWriter.fourcc(*_MPEG4)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, size)
    try:
        if not writer.isOpened():
            raise _unwritable(size)
        yield writer.write
    finally:
        writer.release()


def _unwritable(size: tuple[int, int]) -> VideoError:
    return VideoError(f"cannot be written again at {size[0]}x{size[1]} px")


def _even(image: Image) -> Image:
    """Not larger than needed, and of an even size, which the codec wants."""
    height, width = image.shape[:2]
    factor = min(1.0, _LONGEST_PX / max(height, width))
    size = tuple(max(2, round(side * factor) // 2 * 2) for side in (width, height))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _draw(image: Image, lines: list[tuple[str, float]]) -> None:
    """Draw labels and scores into an image (H, W, 3), in place."""
    scale = max(0.4, min(image.shape[:2]) / 600)
    step, margin, indent = round(34 * scale), round(10 * scale), round(8 * scale)
    width = min(image.shape[1] - 2 * margin, round(420 * scale))
    thickness = max(1, round(1.4 * scale))
    for row, (label, score) in enumerate(lines):
        top = margin + row * step
        bottom = min(top + step - round(4 * scale), image.shape[0])
        back = image[top:bottom, margin : margin + width]
        if not back.size:
            return
        back[:] = back // 3
        filled = image[top:bottom, margin : margin + round(width * min(score, 1.0))]
        filled[:] = filled // 2 + np.array([100, 70, 20], np.uint8)
        cv2.putText(
            image,
            _fitted(label, f"  {score:.2f}", width - 2 * indent, 0.62 * scale, thickness),
            (margin + indent, bottom - round(9 * scale)),
            _FONT,
            0.62 * scale,
            (255, 255, 255),
            thickness,
            cv2.LINE_AA,
        )


def _fitted(label: str, score: str, width: int, scale: float, thickness: int) -> str:
    """A label and its score in so many pixels, the label shortened where it has to be."""
    label = label.encode("ascii", "replace").decode()  # the only signs that OpenCV's font has
    text = label + score
    for length in range(len(label) - 1, -1, -1):
        if cv2.getTextSize(text, _FONT, scale, thickness)[0][0] <= width:
            break
        text = label[:length].rstrip() + _ELLIPSIS + score
    return text
