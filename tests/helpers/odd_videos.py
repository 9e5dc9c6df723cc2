"""Odd video files as people have them, written by PyAV's encoders."""

import contextlib
import io
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.helpers.videos import number_of, numbered_frames

WIDTH, HEIGHT = 128, 96


def coloured_frames(count: int, *, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """Numbered bars above, a moving coloured pattern below; BGR."""
    bars = numbered_frames(count, height=height // 2, width=width)
    y, x = np.mgrid[0 : height - height // 2, 0:width]
    frames = []
    for number, top in enumerate(bars):
        below = np.stack([x * 2 + number, y * 4, x + y + 5 * number], axis=-1) % 230 + 12
        frames.append(np.concatenate([top, below.astype(np.uint8)]))
    return frames


def number_in(frame: np.ndarray) -> int:
    """Which of `coloured_frames` this is."""
    return number_of(frame[: frame.shape[0] // 2 - 4])


@contextlib.contextmanager
def _ordinary_priority() -> Iterator[None]:
    """Take back what SVT-AV1 does where root encodes: real-time priority, for the process too.

    Two such processes that wait for threads of theirs hold both cores, and wait for ever.
    """
    try:
        yield
    finally:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # one that has ended
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


def encode(
    path: Path | io.IOBase,
    frames: Sequence[np.ndarray],
    codec: str,
    *,
    rate: int = 25,
    times: Sequence[int] | None = None,
    pixels: str = "yuv420p",
    rotation: int = 0,
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> None:
    """Write a video.

    Args:
        path: or an open file.
        frames: BGR.
        codec: name of an encoder.
        rate: frames a second.
        times: when each frame is shown, in 1/1000 s; None is evenly.
        pixels: the format that is coded.
        rotation: display rotation in degrees, counter-clockwise.
        matrix: nine numbers of a display matrix instead.
        aspect: of a pixel.
        container_format: where the name does not tell.
        container_options: of the muxer.
        options: of the encoder; _ stands for -.
    """
    file = path if isinstance(path, io.IOBase) else str(path)
    with (
        _ordinary_priority(),
        av.open(file, "w", format=container_format, options=container_options or {}) as container,
    ):
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.options = {name.replace("_", "-"): value for name, value in options.items()}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            stream.set_display_matrix(matrix)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate) if times is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _plain(codec: str, **settings: object) -> Callable[[Path], None]:
    return lambda path: encode(path, coloured_frames(40), codec, **settings)  # type: ignore[arg-type]


def _uneven(path: Path) -> None:
    steps = [33, 33, 50, 100, 17, 250, 40, 33] * 5
    times = [sum(steps[:number]) for number in range(40)]
    encode(path, coloured_frames(40), "libx264", times=times, bf="2")


def _later(path: Path) -> None:
    encode(path, coloured_frames(40), "libx264", times=[2000 + 40 * n for n in range(40)])


def _without_duration(path: Path) -> None:
    class Pipe(io.RawIOBase):  # nothing can be written into the header afterwards
        def __init__(self) -> None:
            self.content = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.content += bytes(data)  # type: ignore[arg-type]
            return len(bytes(data))  # type: ignore[arg-type]

    pipe = Pipe()
    encode(pipe, coloured_frames(40), "libvpx-vp9", container_format="webm")
    path.write_bytes(pipe.content)


def _lying_header(path: Path) -> None:
    encode(path, coloured_frames(40), "mpeg4")
    content = bytearray(path.read_bytes())
    main, stream = content.index(b"avih") + 8, content.index(b"strh") + 8
    struct.pack_into("<I", content, main + 16, 4444)
    struct.pack_into("<I", content, stream + 32, 4444)
    path.write_bytes(content)


def _truncated(path: Path) -> None:
    encode(path, coloured_frames(40), "libx264", container_format="mpegts", g="10", bf="2")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _with_cover(path: Path) -> None:
    """A picture before the video, as players of music show it."""
    cover = np.full((64, 64, 3), 200, np.uint8)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mjpeg", rate=1)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        container.mux(picture.encode(av.VideoFrame.from_ndarray(cover, format="bgr24")))
        container.mux(picture.encode(None))
        for number, image in enumerate(coloured_frames(40)):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))


def _two_sizes(path: Path) -> None:
    """A stream whose frames change their size in the middle, as a broadcast's do."""
    parts = []
    for start, (width, height) in ((0, (WIDTH, HEIGHT)), (20, (256, 192))):
        file = io.BytesIO()
        frames = coloured_frames(40, width=width, height=height)[start : start + 20]
        times = [40 * (start + number) for number in range(20)]
        encode(file, frames, "libx264", times=times, container_format="mpegts")
        parts.append(file.getvalue())
    path.write_bytes(b"".join(parts))


def _joined(path: Path) -> None:
    """Two recordings one after the other in a stream: the clock of the second starts anew."""
    parts = []
    for start in (0, 20):
        file = io.BytesIO()
        encode(
            file,
            coloured_frames(40)[start : start + 20],
            "mpeg2video",
            container_format="mpegts",
            rate=25,
        )
        parts.append(file.getvalue())
    path.write_bytes(b"".join(parts))


# Every one holds frames 0 to 39 of `coloured_frames`, unless its comment says otherwise.
ODD_VIDEOS: dict[str, Callable[[Path], None]] = {
    "h264.mp4": _plain("libx264"),
    "h264-b-frames.mp4": _plain("libx264", bf="3", g="12"),
    "h264-b-frames.mkv": _plain("libx264", bf="3", g="12"),
    "h264-raw.h264": _plain("libx264", container_format="h264"),
    "h264-fragmented.mp4": _plain(
        "libx264", bf="2", container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "hevc.mp4": _plain("libx265", x265_params="log-level=none"),
    "hevc-10-bit.mp4": _plain("libx265", pixels="yuv420p10le", x265_params="log-level=none"),
    "av1.mkv": _plain("libsvtav1"),
    "av1.mp4": _plain("libsvtav1"),
    "vp8.webm": _plain("libvpx"),
    "vp8-hidden-frames.webm": _plain("libvpx", auto_alt_ref="1", lag_in_frames="16"),
    "vp9.webm": _plain("libvpx-vp9"),
    "vp9-hidden-frames.webm": _plain("libvpx-vp9", auto_alt_ref="1", lag_in_frames="16"),
    "mpeg4.avi": _plain("mpeg4"),
    "mpeg4-b-frames.avi": _plain("mpeg4", bf="2"),
    "mpeg4-b-frames.mp4": _plain("mpeg4", bf="2"),
    "mpeg2.mpg": _plain("mpeg2video", bf="2"),
    "cinepak.avi": _plain("cinepak", pixels="rgb24"),
    "mjpeg.avi": _plain("mjpeg", pixels="yuvj420p"),
    "ffv1.mkv": _plain("ffv1"),
    "prores.mov": _plain("prores_ks", pixels="yuv422p10le"),
    "rotated-90.mp4": _plain("libx264", rotation=90),
    "rotated-180.mp4": _plain("libx264", rotation=180),
    "rotated-270.mov": _plain("libx264", rotation=270),
    "rotated-90.mkv": _plain("libx264", rotation=90),
    "non-square-pixels.mp4": _plain("libx264", aspect=Fraction(64, 51)),
    "interlaced.mpg": _plain("mpeg2video", flags="+ildct+ilme"),
    "full-range-444.mkv": _plain("libx264", pixels="yuvj444p"),
    "variable-rate.mp4": _uneven,
    "variable-rate.mkv": _uneven,
    "later-start.mp4": _later,
    "later-start.ts": _later,
    "no-duration.webm": _without_duration,
    "lying-header.avi": _lying_header,
    "truncated.ts": _truncated,  # fewer
    "cover-picture.mp4": _with_cover,
    "two-sizes.ts": _two_sizes,
    "joined.ts": _joined,
    "odd-size.mkv": lambda path: encode(  # one pixel narrower and lower
        path, [f[:-1, :-1] for f in coloured_frames(40)], "libx264", pixels="yuv444p"
    ),
    "one-frame.mp4": lambda path: encode(path, coloured_frames(1), "libx264"),  # one
}
