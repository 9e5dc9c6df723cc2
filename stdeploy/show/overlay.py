"""The video again, with the labels drawn on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

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
_CODEC = "mp4v"  # what the wheels of OpenCV can write

# What to write at a moment: lines of text with a share (0 to 1) of the bar behind each.
LinesAt = Callable[[float], list[tuple[str, float]]]


def write_with_labels(
    video: Path, lines_at: LinesAt, path: Path, *, decoder: DecoderName = "auto"
) -> None:
    """Write a video with bars and labels in its corner. It has no sound.

    Args:
        video: the file.
        lines_at: gives what to draw at a moment, in seconds.
        path: ends in .mp4.
        decoder: see `VideoReader`.

    Raises:
        VideoError: it cannot be read, or not be written.
    """
    reader = VideoReader(video, decoder=decoder)
    count = len(reader.timing.timestamps)
    fps = min(_MOST_FPS, max(1.0, count / reader.timing.duration))

    def choose(timing: Timing, first: int) -> Iterator[NDArray[np.intp]]:
        moments = np.arange(first, max(1, round(timing.duration * fps))) / fps
        for number in frames_at(timing.timestamps, moments):
            yield np.array([number])

    with whole_file(path) as temporary:
        writer: cv2.VideoWriter | None = None
        try:
            for number, (_, frames) in enumerate(reader.slide(choose, _even)):
                image = frames[0].copy()
                _draw(image, lines_at(number / fps))
                if writer is None:
                    size = (image.shape[1], image.shape[0])
                    code = cv2.VideoWriter.fourcc(*_CODEC)
                    writer = cv2.VideoWriter(str(temporary), cv2.CAP_FFMPEG, code, fps, size)
                    if not writer.isOpened():
                        raise VideoError(f"cannot be written again at {size[0]}x{size[1]} px")
                writer.write(image)
        finally:
            if writer is not None:
                writer.release()


def _even(image: Image) -> Image:
    """Not larger than needed, and of an even size, which the codec wants."""
    height, width = image.shape[:2]
    factor = min(1.0, _LONGEST_PX / max(height, width))
    size = tuple(max(2, round(side * factor) // 2 * 2) for side in (width, height))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _draw(image: Image, lines: list[tuple[str, float]]) -> None:
    """Draw lines of text into an image (H, W, 3), in place."""
    scale = max(0.4, min(image.shape[:2]) / 600)
    step, margin = round(34 * scale), round(10 * scale)
    width = min(image.shape[1] - 2 * margin, round(420 * scale))
    for row, (text, share) in enumerate(lines):
        top = margin + row * step
        bottom = min(top + step - round(4 * scale), image.shape[0])
        back = image[top:bottom, margin : margin + width]
        if not back.size:
            return
        back[:] = back // 3
        filled = image[top:bottom, margin : margin + round(width * min(share, 1.0))]
        filled[:] = filled // 2 + np.array([100, 70, 20], np.uint8)
        cv2.putText(
            image,
            text.encode("ascii", "replace").decode(),  # the only signs that OpenCV's font has
            (margin + round(8 * scale), bottom - round(9 * scale)),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.62 * scale,
            (255, 255, 255),
            max(1, round(1.4 * scale)),
            cv2.LINE_AA,
        )
