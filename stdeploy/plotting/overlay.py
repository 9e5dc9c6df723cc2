"""The video again, with the labels in a strip below the picture."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.files import whole_file
from stdeploy.errors import VideoError
from stdeploy.video.decoder import DecoderName, Picture
from stdeploy.video.libraries import on_host
from stdeploy.video.opencv import apply_opencv_settings
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
_LEAST_ROW_PX = 18  # of a line of text; smaller letters run together
_ROWS = 18  # lines that would fill the shorter side of a larger picture
_PAPER, _BAR, _INK = 24, (140, 92, 28), (255, 255, 255)  # BGR

# What to write at a moment: labels with their scores (0 to 1), best first, always as many.
LinesAt = Callable[[float], list[tuple[str, float]]]


def write_with_labels(
    video: Path, lines_at: LinesAt, path: Path, *, decoder: DecoderName = "auto"
) -> None:
    """Write a video with bars and labels in a strip below the picture. It has no sound.

    The strip is added, not laid over the picture: what a camera writes along an edge, the time
    or its name, stays to be read, and what lies where in the picture stays there.

    It is H.264 where PyAV is installed, which browsers play; MPEG-4 Part 2 otherwise.

    Args:
        video: the file.
        lines_at: gives what to draw at a moment, in seconds.
        path: ends in .mp4.
        decoder: see `VideoReader`.

    Raises:
        VideoError: it cannot be read, or not be written.
    """
    reader = VideoReader(video, decoder=on_host(decoder))
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
        yield np.vstack([frames[0], _strip(lines_at(number / fps), frames[0].shape[:2])])


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
    apply_opencv_settings()
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


def _even(image: Picture) -> Image:
    """Not larger than needed, and of an even size, which the codec wants."""
    assert isinstance(image, np.ndarray)  # no reader of ours that is on a GPU comes here
    height, width = image.shape[:2]
    factor = min(1.0, _LONGEST_PX / max(height, width))
    size = tuple(max(2, round(side * factor) // 2 * 2) for side in (width, height))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _strip(lines: list[tuple[str, float]], size: tuple[int, int]) -> Image:
    """Scores, labels and bars as long as the scores.

    Args:
        lines: labels with their scores, best first.
        size: (height, width) of the picture above.

    Returns:
        BGR, (rows of an even height, width, 3).
    """
    width = size[1]
    step = max(_LEAST_ROW_PX, round(min(size) / _ROWS / 2) * 2)
    scale, thickness, indent = step / 40, max(1, round(step / 26)), step // 3
    strip = np.full((len(lines) * step, width, 3), _PAPER, np.uint8)
    for row, (label, score) in enumerate(lines):
        top, bottom = row * step, (row + 1) * step
        strip[top + 1 : bottom - 1, : round(width * min(score, 1.0))] = _BAR
        cv2.putText(
            strip,
            fitted(f"{score:.2f}  ", label, width - 2 * indent, scale, thickness),
            (indent, bottom - round(0.28 * step)),
            _FONT,
            scale,
            _INK,
            thickness,
            cv2.LINE_AA,
        )
    return strip


def fitted(score: str, label: str, width: int, scale: float, thickness: int) -> str:
    """A score and its label in so many pixels, the label shortened where it has to be.

    Args:
        score: stands first, whole.
        label: of any signs; those that OpenCV's font lacks become question marks.
        width: in pixels.
        scale: of OpenCV's font.
        thickness: of its lines, in pixels.
    """
    label = label.encode("ascii", "replace").decode()  # the only signs that OpenCV's font has
    text = score + label
    for length in range(len(label) - 1, -1, -1):
        if cv2.getTextSize(text, _FONT, scale, thickness)[0][0] <= width:
            break
        text = score + label[:length].rstrip() + _ELLIPSIS
    return text
