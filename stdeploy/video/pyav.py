"""Decoding with PyAV: another FFmpeg, for the files that OpenCV's does not read."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stdeploy.errors import VideoError, require
from stdeploy.video.containers import CONTAINERS, PROTOCOLS
from stdeploy.video.decoder import NO_VIDEO, Index
from stdeploy.video.opencv import decoding_threads
from stdeploy.video.transform import Image

if TYPE_CHECKING:
    import av
else:
    av = require("av", extra="pyav", purpose="reading videos with PyAV")

av.logging.set_level(None)
_TIMEOUT_SECONDS = 20.0


class PyAV:
    """See `Decoder`.

    Args:
        streams: that a file may hold.
    """

    name = "pyav"

    def __init__(self, streams: int) -> None:
        self._streams = streams

    def index(self, path: Path) -> Index:
        """All packets; they are read, not decoded."""
        with _container(path, self._streams) as (container, stream):
            packets = [
                (_seconds(packet, stream), packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and not packet.is_discard
            ]
            return Index.of(
                packets,
                fps=float(stream.average_rate or stream.guessed_rate or 0),
                width=stream.codec_context.width,
                height=stream.codec_context.height,
            )

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator["_Stream"]:
        """Open a file to decode it."""
        with _container(path, self._streams) as (container, stream):
            threads = decoding_threads()
            stream.codec_context.thread_type = "NONE" if threads == 1 else "AUTO"
            stream.codec_context.thread_count = threads
            yield _Stream(container, stream)


class _Stream:
    def __init__(self, container: "av.container.InputContainer", stream: "av.VideoStream") -> None:
        self._container = container
        self._stream = stream
        self._frames = self._decoded()
        self._frame: av.VideoFrame | None = None
        self._size: tuple[int, int] | None = None

    def grab(self) -> float | None:
        self._frame = next(self._frames, None)
        return None if self._frame is None else _seconds(self._frame, self._stream)

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
        turns = round(self._frame.rotation / 90)
        return np.asarray(np.ascontiguousarray(np.rot90(image, turns)), dtype=np.uint8)

    def seek(self, seconds: float) -> None:
        start = self._stream.start_time or 0
        offset = start + round(seconds / float(self._stream.time_base or 1))
        self._container.seek(max(offset, start), stream=self._stream)
        self._frames = self._decoded()

    def _decoded(self) -> Iterator["av.VideoFrame"]:
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                return  # what OpenCV does: what comes after damage is not trusted
            yield from frames


@contextlib.contextmanager
def _container(
    path: Path, streams: int
) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    try:
        container = av.open(
            str(path.absolute()),
            options={
                "protocol_whitelist": PROTOCOLS,
                "format_whitelist": CONTAINERS,
                "max_streams": str(streams),
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
        try:
            yield container, stream
        except av.FFmpegError as error:
            raise VideoError(f"cannot be read: {error.strerror}") from error


def _seconds(shown: "av.Packet[av.VideoStream] | av.VideoFrame", stream: "av.VideoStream") -> float:
    """When it is shown, from the start of the stream; 0, as in OpenCV, where nothing says so."""
    # AVI holds no times of presentation, and those that FFmpeg makes up for it are wrong where
    # two frames share a packet; frames leave the decoder in the order of their dts.
    in_order = stream.container.format.name == "avi"
    time = shown.dts if in_order or shown.pts is None else shown.pts
    if time is None or shown.time_base is None:
        return 0.0
    start = (stream.start_time or 0) * float(stream.time_base or 0)
    return time * float(shown.time_base) - start
