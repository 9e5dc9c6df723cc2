"""Decoding on an NVIDIA GPU (NVDEC) by PyNvVideoCodec; frames stay there.

Which frames a file has, and when they are shown, is read by the other libraries. A file whose
packets PyNvVideoCodec sees in another way, or that the chip has no decoder for, is refused, and
decoded by those.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stdeploy.errors import BackendError, MissingExtraError
from stdeploy.hardware import gpus
from stdeploy.optional_packages import require
from stdeploy.video.containers import container_in
from stdeploy.video.decoder import Coding, Index, LeavesGpuError
from stdeploy.video.timing import SAME_SECONDS

require("torch", extra="nvdec", purpose="decoding on a GPU")

import torch  # noqa: E402 - after the check for it
from torch.utils.dlpack import from_dlpack  # noqa: E402

from stdeploy.video.nv12 import Nv12Frame, reason_against  # noqa: E402

_PURPOSE = "decoding on a GPU"
# Its packets have times of their own, and it can be no list of other files.
_CONTAINERS = ("MP4 or QuickTime", "Matroska or WebM")
_CHROMA_420 = "420"
_CODECS = ("H264", "HEVC", "VP9", "AV1", "MPEG4", "VP8", "MPEG2")


def library() -> Any:
    """PyNvVideoCodec, once it is known to work here.

    Raises:
        MissingExtraError: it, torch or PyAV is not installed.
        BackendError: no driver that decodes, or a torch without CUDA.
    """
    found = _examined()
    if isinstance(found, BackendError):
        raise found
    return found


def reserve() -> None:
    """Open the GPU for this process, which takes address space and files; one thread of torch.

    Raises:
        BackendError: see `library`.
    """
    library()
    torch.set_num_threads(1)  # many such processes work side by side
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")


@functools.cache
def _examined() -> Any:
    """The library, or the error that says why not."""
    try:
        return _imported()
    except BackendError as error:
        return error


def _imported() -> Any:
    require("av", extra="nvdec", purpose=_PURPOSE)  # knows colours, and interlaced frames
    # It logs to standard output, where results go.
    os.environ.setdefault("LOGGER_LEVEL", "FATAL")
    try:
        codec = require("PyNvVideoCodec", extra="nvdec", purpose=_PURPOSE)
        codec.GetDecoderCaps(gpuid=0, codec=codec.cudaVideoCodec.H264)
    except MissingExtraError:
        raise
    except Exception as error:  # importing it raises RuntimeError without a driver
        reason = " ".join(str(error).partition("===")[0].split())[:160]
        raise BackendError(
            f"--reader nvdec needs an NVIDIA driver with libnvcuvid, which PyNvVideoCodec does not "
            f"find: {reason}; leave --reader out, or give a container "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        ) from error
    if gpus() and not torch.cuda.is_available():
        raise BackendError(
            "--reader nvdec needs a torch for CUDA, and the one installed here sees no GPU; "
            "leave --reader out, or see https://pytorch.org/get-started/locally"
        )
    return codec


def decodable() -> dict[str, tuple[int, int]]:
    """Codecs that the GPU decodes in 4:2:0 with 8 bits, and the largest frame of each.

    Returns:
        Name to (width, height) in pixels, in the order of use.

    Raises:
        BackendError: see `library`.
    """
    codec = library()
    found = {}
    for name in _CODECS:
        caps = _capabilities(codec, codec.cudaVideoCodec.__members__[name])
        if _has_decoder(caps):
            found[name] = int(caps["width_max"]), int(caps["height_max"])
    return found


class Nvdec:
    """See `Decoder`; it reads no index.

    Args:
        index: of the file, by another library.

    Raises:
        BackendError: see `library`.
    """

    name = "nvdec"

    def __init__(self, index: Index) -> None:
        self._codec = library()
        self._index = index

    def index(self, path: Path) -> Index:
        """The index that it was made with; `path` is its file."""
        del path
        return self._index

    @contextlib.contextmanager
    def open(self, path: Path, _packets: int, /) -> Iterator["_Stream"]:
        """Open a file to decode it from its start.

        Raises:
            LeavesGpuError: it is not decoded here.
        """
        with _refusing():
            stream = _open(self._codec, path, self._index)
        try:
            yield stream
        finally:
            stream.close()


def _open(codec: Any, path: Path, index: Index) -> "_Stream":
    coding = index.coding
    reason = reason_against(coding)
    if reason:
        raise LeavesGpuError(reason)
    assert coding is not None
    if index.interlaced:
        raise LeavesGpuError("it is interlaced")
    if index.width % 2 or index.height % 2:
        raise LeavesGpuError(f"its frames are {index.width}x{index.height} px, an odd number")
    container = container_in(path)
    if container not in _CONTAINERS:
        raise LeavesGpuError(f"its container is {container}, not MP4, QuickTime, Matroska or WebM")
    source = codec.CreateDemuxer(str(path.absolute()))
    size = (source.Width(), source.Height())
    if size != (index.width, index.height):
        raise LeavesGpuError(f"PyNvVideoCodec sees frames of {size[0]}x{size[1]} px in it")
    _check_capabilities(codec, source, index)
    times = _times_of(source)
    if not _same_steps(times, source, index):
        raise LeavesGpuError("PyNvVideoCodec sees other packets in it")
    return _Stream(codec, path, index, coding, times)


def _check_capabilities(codec: Any, source: Any, index: Index) -> None:
    kind = source.GetNvCodecId()
    caps = _capabilities(codec, kind)
    if not _has_decoder(caps):
        raise LeavesGpuError(f"the GPU has no decoder for {kind.name}")
    least, most = ((caps[f"width_{end}"], caps[f"height_{end}"]) for end in ("min", "max"))
    if not (least[0] <= index.width <= most[0] and least[1] <= index.height <= most[1]):
        raise LeavesGpuError(
            f"the GPU decodes {kind.name} from {least[0]}x{least[1]} to {most[0]}x{most[1]} px, "
            f"not {index.width}x{index.height}"
        )


def _has_decoder(caps: dict[str, int]) -> bool:
    return caps["num_decoder_engines"] > 0 and caps["width_max"] > 0


def _capabilities(codec: Any, kind: Any) -> dict[str, int]:
    chroma = codec.cudaVideoChromaFormat.__members__[_CHROMA_420]
    found: dict[str, int] = codec.GetDecoderCaps(
        gpuid=_gpu(), codec=kind, chromaformat=chroma, bitdepth=8
    )
    return found


def _times_of(source: Any) -> list[int]:
    """When the frames of all packets are shown, in ticks, in the order of decoding."""
    times = []
    while (packet := source.Demux()).bsl:
        times.append(packet.pts)
    return times


def _same_steps(times: list[int], source: Any, index: Index) -> bool:
    """Whether packets are shown one after the other as the index says."""
    if len(set(times)) != len(index.stamps) or len(times) != len(index.stamps):
        return False
    tick = source.GetTimebaseNum() / source.GetTimebaseDen()
    shown = (np.sort(np.array(times, dtype=np.float64)) - min(times)) * tick
    return bool((np.abs(shown - (index.stamps - index.stamps[0])) <= SAME_SECONDS).all())


class _Stream:
    """See `Stream`.

    Args:
        codec: the library.
        path: of the file.
        index: of it.
        coding: of its pixels.
        times: of its packets in ticks, in the order of decoding; those of the index.
    """

    def __init__(
        self, codec: Any, path: Path, index: Index, coding: Coding, times: list[int]
    ) -> None:
        self.errors = 0
        self._codec, self._index, self._coding = codec, index, coding
        self._path = path
        self._times = times
        self._seconds = dict(zip(sorted(times), map(float, index.stamps), strict=True))
        self._frame: Any = None
        self._decoder: Any = None
        self._source: Any = None
        self._frames: Iterator[Any] = self._decoded(None)

    def grab(self) -> float | None:
        with _refusing():
            self._frame = next(self._frames, None)
            if self._frame is None:
                return None
            time = self._frame.getPTS()
        if time not in self._seconds:
            raise LeavesGpuError("a frame came out of it that no packet announces")
        return self._seconds[time]

    def image(self) -> Nv12Frame:
        with _refusing():
            planes = from_dlpack(self._frame)
            expected = self._index.height * 3 // 2, self._index.width
            if planes.dtype != torch.uint8 or planes.numel() != expected[0] * expected[1]:
                raise LeavesGpuError(
                    f"a frame of it came as {planes.dtype} {tuple(planes.shape)}, not uint8 "
                    f"{expected}"
                )
            # The decoder writes its next frames into the same memory.
            planes = planes.reshape(expected).clone()
            if planes.is_cuda:
                torch.cuda.current_stream(planes.device).synchronize()
        return Nv12Frame(planes, self._coding)

    def seek(self, seconds: float) -> None:
        place = int(np.abs(self._index.stamps - seconds).argmin())
        shown = sorted(self._times)[place]
        self._frames = self._decoded(self._times.index(shown))

    def close(self) -> None:
        """Let go of decoder and file."""
        self._frames, self._frame = iter(()), None
        self._decoder = self._source = None

    def _decoded(self, first: int | None) -> Iterator[Any]:
        """Frames in the order in which they are shown; each is valid until the next is asked for.

        Args:
            first: the packet of a key frame to begin at; None begins at the start.
        """
        # A decoder that has begun elsewhere still holds frames of there.
        self._source = self._codec.CreateDemuxer(str(self._path.absolute()))
        self._decoder = self._codec.CreateDecoder(
            gpuid=_gpu(),
            codec=self._source.GetNvCodecId(),
            usedevicememory=True,
            outputColorType=self._codec.OutputColorType.NATIVE,
        )
        packet = self._source.Demux() if first is None else self._source.Seek(first)
        while True:
            # Without data, at the end, it gives what it still holds.
            yield from self._decoder.Decode(packet)
            if not packet.bsl:
                return
            packet = self._source.Demux()


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What the library raises, as the reason to decode the file elsewhere."""
    try:
        yield
    except LeavesGpuError:
        raise
    except Exception as error:  # PyNvVCException, RuntimeError of CUDA and of torch
        reason = " ".join(str(error).split())[:160]
        raise LeavesGpuError(f"PyNvVideoCodec cannot decode it: {reason}") from error


def _gpu() -> int:
    return torch.cuda.current_device() if torch.cuda.is_available() else 0
