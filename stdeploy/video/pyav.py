"""Decoding with PyAV: another FFmpeg, for the files that OpenCV's does not read."""

import contextlib
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stdeploy.errors import VideoError
from stdeploy.optional_packages import require
from stdeploy.video.containers import CONTAINERS, PROTOCOLS, demuxer_of
from stdeploy.video.decoder import NO_VIDEO, Coding, Index, Packet
from stdeploy.video.limits import Limits
from stdeploy.video.opencv import decoding_threads
from stdeploy.video.transform import AS_CODED, Image, Orientation

if TYPE_CHECKING:
    import av
    from av.sidedata.sidedata import SideData
else:
    av = require("av", extra="pyav", purpose="reading videos with PyAV")
    SideData = av.sidedata.sidedata.SideData

av.logging.set_level(None)
_TIMEOUT_SECONDS = 20.0
_MOST_STREAMS = 1000  # of FFmpeg itself
_MOST_PIXELS = 2**31 - 1  # likewise
_TRIED_PACKETS = 16  # for a first frame
_FULL_RANGE = 2  # of FFmpeg's AVCOL_RANGE_


class PyAV:
    """See `Decoder`.

    Args:
        limits: of what a file may hold, the number of streams and the size of frames.
    """

    name = "pyav"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def index(self, path: Path) -> Index:
        """All packets, which are read, not decoded; and the first frame."""
        with _container(path, self._limits) as (container, stream):
            packets: list[Packet] = []
            stream.codec_context.thread_type = "NONE"  # gives the first frame at once
            first: av.VideoFrame | None = None
            for packet in _packets(container, stream):
                if not packet.size or packet.is_discard or _shows_nothing(packet, stream):
                    continue
                seconds = float((packet.duration or 0) * (packet.time_base or 0))
                stamp, broken = _stamp(packet, stream), packet.is_corrupt
                packets.append(Packet(stamp, packet.is_keyframe, seconds, broken))
                if first is None and len(packets) <= _TRIED_PACKETS:
                    first = _first_frame(packet, stream)
            return Index.of(
                packets,
                fps=float(stream.average_rate or stream.guessed_rate or 0),
                width=stream.codec_context.width,
                height=stream.codec_context.height,
                orientation=AS_CODED if first is None else _orientation(first),
                interlaced=first is not None and first.interlaced_frame,
                coding=None if first is None else _coding(first),
                first=stream.index == container.streams.video[0].index,
            )

    @contextlib.contextmanager
    def open(self, path: Path, _packets: int, /) -> Iterator["_Stream"]:
        """Open a file to decode it."""
        with _container(path, self._limits) as (container, stream):
            threads = decoding_threads()
            stream.codec_context.thread_type = "NONE" if threads == 1 else "AUTO"
            stream.codec_context.thread_count = threads
            yield _Stream(container, stream)


class _Stream:
    def __init__(self, container: "av.container.InputContainer", stream: "av.VideoStream") -> None:
        self.errors = 0
        self._container = container
        self._stream = stream
        self._frames = self._decoded()
        self._frame: av.VideoFrame | None = None
        self._size: tuple[int, int] | None = None

    def grab(self) -> float | None:
        self._frame = next(self._frames, None)
        return None if self._frame is None else _stamp(self._frame, self._stream)

    def image(self) -> Image:
        assert self._frame is not None
        # What OpenCV does: a stream that changes its size keeps the first, and bicubic is how it
        # asks for colours of which there are fewer than pixels.
        self._size = self._size or (self._frame.width, self._frame.height)
        width, height = self._size
        try:
            image = self._frame.to_ndarray(
                width=width, height=height, format="bgr24", interpolation="BICUBIC"
            )
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(
                "holds a frame that cannot be converted; the file is damaged there"
            ) from error
        return np.asarray(image, dtype=np.uint8)

    def seek(self, seconds: float) -> None:
        start = self._stream.start_time or 0
        offset = start + round(seconds / float(self._stream.time_base or 1))
        self._container.seek(max(offset, start), stream=self._stream)
        self._frames = self._decoded()

    def _decoded(self) -> Iterator["av.VideoFrame"]:
        for packet in _packets(self._container, self._stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.errors += 1
            else:
                yield from frames


def _packets(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> Iterator["av.Packet[av.VideoStream]"]:
    """The packets up to the end of the file, or to where it can be read no further."""
    with contextlib.suppress(av.FFmpegError):
        yield from container.demux(stream)


def _first_frame(
    packet: "av.Packet[av.VideoStream]", stream: "av.VideoStream"
) -> "av.VideoFrame | None":
    """What a packet holds, without waiting for those after it."""
    context = stream.codec_context
    try:
        frames = packet.decode() or context.decode(None)
    except av.FFmpegError:
        frames = []
    context.flush_buffers()
    return frames[0] if frames else None


def _orientation(frame: "av.VideoFrame") -> Orientation | None:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return AS_CODED
    return Orientation.of_matrix(struct.unpack("=9i", bytes(matrix)))


def _coding(frame: "av.VideoFrame") -> Coding:
    full = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
    return Coding(frame.format.name, int(frame.colorspace), full)


def _shows_nothing(packet: "av.Packet[av.VideoStream]", stream: "av.VideoStream") -> bool:
    """Whether a packet of VP8 holds a frame that others only refer to (RFC 6386, 9.1)."""
    if stream.codec_context.name != "vp8":
        return False
    head = bytes(packet)[:6]
    is_frame = bool(head[0] & 0x01) or head[3:] == b"\x9d\x01\x2a"  # those of keys begin so
    return is_frame and not head[0] & 0x10


@contextlib.contextmanager
def _container(
    path: Path, limits: Limits
) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    try:
        container = av.open(
            str(path.absolute()),
            format=demuxer_of(path),
            options={
                "protocol_whitelist": PROTOCOLS,
                "format_whitelist": CONTAINERS,
                "max_streams": str(min(limits.streams, _MOST_STREAMS)),
            },
            metadata_errors="ignore",
            timeout=_TIMEOUT_SECONDS,
        )
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(NO_VIDEO) from error
    with container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
            raise VideoError(NO_VIDEO)
        stream.codec_context.options = {"max_pixels": str(min(limits.pixels, _MOST_PIXELS))}
        try:
            yield container, stream
        except av.FFmpegError as error:
            raise VideoError(f"cannot be read: {error.strerror}") from error


def _stamp(shown: "av.Packet[av.VideoStream] | av.VideoFrame", stream: "av.VideoStream") -> float:
    """When it is shown, in seconds from the start of the stream; NaN where nothing says so."""
    # AVI holds no times of presentation, and those that FFmpeg makes up for it are wrong where
    # two frames share a packet; frames leave the decoder in the order of their dts.
    in_order = stream.container.format.name == "avi"
    time = shown.dts if in_order else shown.pts
    if time is None or shown.time_base is None:
        return math.nan
    start = (stream.start_time or 0) * float(stream.time_base or 0)
    return time * float(shown.time_base) - start
