"""A small video of every kind of file whose name says that it is one."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.helpers.odd_videos import coloured_frames, encode

_DV_WIDTH, _DV_HEIGHT = 720, 576
_CIF_WIDTH, _CIF_HEIGHT = 352, 288


def write_dav(path: Path, frames: Sequence[np.ndarray], *, rate: int = 25) -> None:
    """H.264 as Dahua's recorders write it, for which FFmpeg has no writer."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.height, encoder.width = frames[0].shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, rate)
    encoder.options = {"bf": "0", "g": "10"}
    packets = []
    for number, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    height, width = frames[0].shape[:2]
    path.write_bytes(
        b"".join(
            dav_chunk(bytes(packet), number, size=(width, height), key=packet.is_keyframe)
            for number, packet in enumerate(packets)
        )
    )


def dav_chunk(
    data: bytes,
    number: int,
    *,
    rate: int = 25,
    size: tuple[int, int] = (128, 96),
    key: bool = True,
    length: int | None = None,
    day: int = 14,
) -> bytes:
    """One frame with its header.

    Args:
        data: what was coded.
        number: of the frame.
        rate: frames a second.
        size: width and height that are announced.
        key: whether it can be decoded alone.
        length: that is announced; None is the right one.
        day: of the month in which it was recorded.
    """
    milliseconds = number * 1000 // rate
    minutes, seconds = divmod(milliseconds // 1000, 60)
    date = 26 << 26 | 3 << 22 | day << 17 | 9 << 12 | minutes << 6 | seconds
    more = struct.pack("<4B", 0x81, 0, 2, rate) + struct.pack("<4B2H", 0x82, 0, 0, 0, *size)
    length = 32 + len(more) + len(data) if length is None else length
    head = struct.pack(
        "<4s4BIIIHBB",
        *(b"DHAV", 0xFD if key else 0xFC, 0, 0, 0),
        *(number, length, date, milliseconds % 65535, len(more), 0),
    )
    return head + more + data + b"dhav" + struct.pack("<I", length)


def _written(
    codec: str,
    container: str | None = None,
    *,
    pixels: str = "yuv420p",
    width: int = 128,
    height: int = 96,
    **options: str,
) -> Callable[[Path], None]:
    frames = coloured_frames(20, width=width, height=height)
    return lambda path: encode(
        path, frames, codec, pixels=pixels, container_format=container, **options
    )


_HEVC = {"x265_params": "log-level=none"}
_DV = {"pixels": "yuv420p", "width": _DV_WIDTH, "height": _DV_HEIGHT}
_CIF = {"width": _CIF_WIDTH, "height": _CIF_HEIGHT}

# By suffix; each holds frames 0 to 19 of `coloured_frames`.
KINDS: dict[str, Callable[[Path], None]] = {
    ".264": _written("libx264", "h264"),
    ".265": _written("libx265", "hevc", **_HEVC),
    ".3g2": _written("libx264"),
    ".3gp": _written("libx264"),
    ".apng": _written("apng", pixels="rgb24"),
    ".asf": _written("msmpeg4"),
    ".avi": _written("mpeg4"),
    ".dav": lambda path: write_dav(path, coloured_frames(20)),
    ".divx": _written("mpeg4", "avi"),
    ".dv": _written("dvvideo", **_DV),
    ".f4v": _written("libx264"),
    ".flv": _written("libx264"),
    ".gif": _written("gif", pixels="rgb8"),
    ".h264": _written("libx264", "h264"),
    ".h265": _written("libx265", "hevc", **_HEVC),
    ".hevc": _written("libx265", "hevc", **_HEVC),
    ".ivf": _written("libvpx-vp9"),
    ".m1v": _written("mpeg1video"),
    ".m2t": _written("mpeg2video", "mpegts"),
    ".m2ts": _written("mpeg2video"),
    ".m2v": _written("mpeg2video"),
    ".m4v": _written("libx264", "mp4"),
    ".mjpeg": _written("mjpeg", "mjpeg", pixels="yuvj420p", **_CIF),
    ".mjpg": _written("mjpeg", "mjpeg", pixels="yuvj420p", **_CIF),
    ".mkv": _written("libx264"),
    ".mov": _written("libx264"),
    ".mp4": _written("libx264"),
    ".mpe": _written("mpeg1video", "mpeg"),
    ".mpeg": _written("mpeg1video"),
    ".mpg": _written("mpeg1video"),
    ".mts": _written("mpeg2video", "mpegts"),
    ".mxf": _written("mpeg2video"),
    ".nut": _written("mpeg4"),
    ".obu": _written("libsvtav1", "obu"),
    ".ogv": _written("libvpx"),
    ".qt": _written("libx264", "mov"),
    ".rm": _written("rv20", **_CIF),
    ".rmvb": _written("rv20", "rm", **_CIF),
    ".ts": _written("mpeg2video"),
    ".vob": _written("mpeg2video"),
    ".webm": _written("libvpx-vp9"),
    ".wmv": _written("wmv2"),
    ".y4m": _written("wrapped_avframe"),
}
