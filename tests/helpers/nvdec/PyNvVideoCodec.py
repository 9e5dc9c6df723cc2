"""What stdeploy uses of PyNvVideoCodec 2.2, on the CPU: PyAV decodes, and gives planes of NV12.

It stands in for a GPU where there is none, in tests and rehearsals alone. Its decoder writes over
the frames that it gave before, as the real one does; it has no AV1, like a Hopper GPU.
"""

import enum
from types import MappingProxyType

import av
import numpy as np

__version__ = "2.2 (stand-in)"


class cudaVideoCodec(enum.Enum):  # noqa: N801 - its name there
    """Codecs, by their names and numbers there."""

    MPEG1, MPEG2, MPEG4, VC1, H264, JPEG = range(6)
    HEVC, VP8, VP9, AV1 = range(8, 12)


class OutputColorType(enum.Enum):
    """Kinds of frames."""

    NATIVE, RGB, RGBP = range(3)


cudaVideoChromaFormat = enum.Enum(  # noqa: N816 - likewise
    "cudaVideoChromaFormat", {"Monochrome": 0, "420": 1, "422": 2, "444": 3}
)
_CODECS = {
    "h264": cudaVideoCodec.H264,
    "hevc": cudaVideoCodec.HEVC,
    "vp8": cudaVideoCodec.VP8,
    "vp9": cudaVideoCodec.VP9,
    "libdav1d": cudaVideoCodec.AV1,
    "mpeg4": cudaVideoCodec.MPEG4,
    "mpeg2video": cudaVideoCodec.MPEG2,
}
_LEAST = MappingProxyType({"width_min": 48, "height_min": 16})
_MOST = MappingProxyType({"width_max": 4096, "height_max": 4096, "mb_num_max": 65536})


class PyNvVCException(Exception):  # noqa: N818 - likewise
    """What the library raises."""


def GetDecoderCaps(  # noqa: N802 - as what follows
    gpuid=0,
    codec=cudaVideoCodec.H264,
    chromaformat=cudaVideoChromaFormat["420"],
    bitdepth=8,
) -> dict[str, int]:
    """What the GPU can decode."""
    del gpuid, chromaformat, bitdepth
    engines = 0 if codec is cudaVideoCodec.AV1 else 7
    return {
        "num_decoder_engines": engines,
        **_LEAST,
        **(_MOST if engines else dict.fromkeys(_MOST, 0)),
    }


class PacketData:
    """A packet; without data at the end of a file."""

    def __init__(self, packet: av.Packet | None = None) -> None:
        self.packet = packet
        self.bsl = 0 if packet is None else packet.size
        self.pts = 0 if packet is None else packet.pts
        self.key = 0 if packet is None else int(packet.is_keyframe)


class PyNvDemuxer:
    """The packets of a file."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._begin()

    def _begin(self) -> None:
        try:
            self._container = av.open(self._filename, metadata_errors="ignore")
        except (av.FFmpegError, ValueError) as error:
            raise PyNvVCException(f"CreateFormatContext : {error}") from error
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_type = "NONE"
        self._packets = self._container.demux(self._stream)

    def Width(self) -> int:  # noqa: N802
        return self._stream.codec_context.width

    def Height(self) -> int:  # noqa: N802
        return self._stream.codec_context.height

    def GetNvCodecId(self) -> cudaVideoCodec:  # noqa: N802
        return _CODECS[self._stream.codec_context.name]

    def GetTimebaseNum(self) -> int:  # noqa: N802
        return self._stream.time_base.numerator

    def GetTimebaseDen(self) -> int:  # noqa: N802
        return self._stream.time_base.denominator

    def Demux(self) -> PacketData:  # noqa: N802
        packet = next(self._packets, None)
        return PacketData(packet if packet is not None and packet.size else None)

    def Seek(self, index: int) -> PacketData:  # noqa: N802
        """The packet of the last key frame that is not behind the one of that number."""
        self._begin()
        keys = [n for n in range(index + 1) if self.Demux().key]
        self._begin()
        for _ in range(keys[-1]):
            self.Demux()
        return self.Demux()


class DecodedFrame:
    """A frame whose memory belongs to its decoder."""

    def __init__(self, planes: np.ndarray, time: int) -> None:
        self._planes, self._time = planes, time

    def getPTS(self) -> int:  # noqa: N802
        return self._time

    def __dlpack__(self, stream=0):
        del stream
        return self._planes.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._planes.__dlpack_device__()


class PyNvDecoder:
    """Decodes packets one after the other."""

    def __init__(self, codec: cudaVideoCodec) -> None:
        self._codec = codec
        self._given: list[np.ndarray] = []
        self._context: av.CodecContext | None = None

    def Decode(self, packet: PacketData) -> list[DecodedFrame]:  # noqa: N802
        """Frames that are done, in the order in which they are shown."""
        for planes in self._given:
            planes[:] = 0
        try:
            if packet.packet is not None:
                self._context = packet.packet.stream.codec_context
                frames = packet.packet.decode()
            else:
                frames = [] if self._context is None else self._context.decode(None)
        except av.FFmpegError as error:
            raise PyNvVCException(f"Decode : {error}") from error
        shown = [(nv12_of(frame), frame.pts) for frame in frames]
        self._given = [planes for planes, _ in shown]
        return [DecodedFrame(planes, time) for planes, time in shown]


def CreateDemuxer(filename: str) -> PyNvDemuxer:  # noqa: N802
    """Open a file."""
    return PyNvDemuxer(filename)


def CreateDecoder(  # noqa: N802
    gpuid=0,
    codec=cudaVideoCodec.H264,
    cudacontext=0,
    cudastream=0,
    usedevicememory=False,
    maxwidth=0,
    maxheight=0,
    outputColorType=OutputColorType.NATIVE,  # noqa: N803
) -> PyNvDecoder:
    """Begin to decode."""
    del gpuid, cudacontext, cudastream, maxwidth, maxheight
    assert usedevicememory
    assert outputColorType is OutputColorType.NATIVE
    return PyNvDecoder(codec)


def nv12_of(frame: av.VideoFrame) -> np.ndarray:
    """Planes (H * 3 / 2, W) of a frame in 4:2:0 with 8 bits, levels as they are."""
    luma, u, v = (
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    chroma = np.stack([u, v], axis=-1).reshape(len(u), -1)
    return np.concatenate([luma, chroma])
