"""What a decoder has to offer: the timestamps of packets, and frames one after the other."""

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.frames import DecoderName as DecoderName
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.video.timing import Stamps, order_shown
from stdeploy.video.transform import AS_CODED, Image, Orientation

NO_VIDEO = "is no video that can be read here: no known container with a video stream"
_ROUNDING_SECONDS = 2e-3  # of Matroska, twice


class IndexMisleadsError(Exception):
    """Frames did not come as the packets had announced them; ask again, all is known now."""


class LeavesGpuError(Exception):
    """Why a file is not decoded on the GPU: what follows "was decoded on the CPU: "."""


class Packet(NamedTuple):
    """What one packet says about its frame.

    Attributes:
        stamp: when it is shown, in seconds by the container's clock; NaN where nothing says so.
        key: whether it can be decoded without those before.
        seconds: how long it is shown; 0 where nothing says so.
        broken: whether some of it is missing in the file, or was lost before it was written.
    """

    stamp: float
    key: bool
    seconds: float = 0.0
    broken: bool = False


class Coding(NamedTuple):
    """How the pixels of a stream are coded, by its first frame.

    Attributes:
        pixel_format: by FFmpeg's name: "yuv420p".
        matrix: from luma and chroma to RGB, by the numbers of ITU-T H.273; 2 where nothing is said.
        full_range: whether levels are 0 to 255, not 16 to 235.
    """

    pixel_format: str
    matrix: int
    full_range: bool


@dataclasses.dataclass(frozen=True)
class Index:
    """What the packets of a stream say about its frames, and what the first frame shows.

    Attributes:
        stamps: float64 (P,), seconds by the container's clock, in the order in which frames are
            shown. With NaN among them, that order is not known, and this is that of decoding.
        keys: bool (P,), which of them can be decoded without those before.
        fps: the frame rate that is announced; 0 where none is.
        width: that is announced, in pixels.
        height: likewise.
        last_seconds: how long the last frame is said to stand; 0 where nothing says so.
        orientation: which way up the frames are shown; None where that is no turn or mirror.
        interlaced: whether the first frame is.
        coding: of its pixels; None where the library does not tell.
        first: whether it is the first stream of pictures in its file, which OpenCV decodes.
        broken: (B,), numbers of the packets of which some is missing, ascending.
    """

    stamps: Stamps
    keys: NDArray[np.bool_]
    fps: float
    width: int
    height: int
    last_seconds: float
    orientation: Orientation | None = AS_CODED
    interlaced: bool = False
    coding: Coding | None = None
    first: bool = True
    broken: NDArray[np.intp] = dataclasses.field(default_factory=lambda: np.zeros(0, np.intp))

    @staticmethod
    def of(
        packets: list[Packet],
        *,
        fps: float,
        width: int,
        height: int,
        last_seconds: float | None = None,
        orientation: Orientation | None = AS_CODED,
        interlaced: bool = False,
        coding: Coding | None = None,
        first: bool = True,
    ) -> "Index":
        """Sort packets, which come in the order of decoding, by when they are shown.

        Args:
            packets: all of them.
            fps: see above, as what follows.
            width: see above.
            height: see above.
            last_seconds: None is what the packet shown last says.
            orientation: see above.
            interlaced: see above.
            coding: see above.
            first: see above.
        """
        stamps = np.array([packet.stamp for packet in packets], dtype=np.float64)
        keys = np.array([packet.key for packet in packets], dtype=np.bool_)
        broken = np.array([packet.broken for packet in packets], dtype=np.bool_)
        if not np.isnan(stamps).any():
            order = order_shown(stamps)
            stamps, keys, broken = stamps[order], keys[order], broken[order]
            if last_seconds is None:
                seconds = np.array([packet.seconds for packet in packets], dtype=np.float64)
                last_seconds = _last_seconds(stamps, seconds[order])
        last_seconds = last_seconds or 0.0
        return Index(
            stamps=stamps,
            keys=keys,
            fps=fps,
            width=width,
            height=height,
            last_seconds=last_seconds,
            orientation=orientation,
            interlaced=interlaced,
            coding=coding,
            first=first,
            broken=np.flatnonzero(broken),
        )


def _last_seconds(stamps: Stamps, seconds: Stamps) -> float:
    """How long the last frame stands, if what is said of the others is true.

    FFmpeg makes durations up from the average rate where the container has none.
    """
    if len(stamps) < 2:
        return float(seconds.sum())
    steps = np.diff(stamps)
    true = np.abs(seconds[:-1] - steps) <= np.maximum(_ROUNDING_SECONDS, steps / 10)
    return float(seconds[-1]) if true.mean() >= 0.5 else 0.0


class DeviceFrame(Protocol):
    """A frame that lies on a GPU, as its decoder gave it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the picture as it is coded, (H, W, 3)."""

    def turned(self, orientation: Orientation, /) -> "DeviceFrame":
        """The same frame, to be shown in an orientation."""

    def to_host(self) -> Image:
        """The picture (H, W, 3), BGR and upright."""

    def clip_frame(self, clip: ClipSpec, /) -> Image:
        """What `stdeploy.video.transform.clip_frame` makes of it, made on the GPU."""


Picture = Image | DeviceFrame


class Stream(Protocol):
    """The video stream of an opened file; frames come in the order in which they are shown.

    Attributes:
        errors: how often a packet could not be decoded on the way to a later frame.
    """

    errors: int

    def grab(self) -> float | None:
        """Decode the next frame that can be decoded.

        Returns:
            When it is shown, in seconds by the container's clock, NaN where nothing says so; None
            after the last frame.
        """

    def image(self) -> Picture:
        """The frame that was grabbed last: converted, (H, W, 3), BGR, as it is coded.

        Raises:
            VideoError: it cannot be converted.
        """

    def seek(self, seconds: float) -> None:
        """Go on near a moment; the next `grab` tells where."""


class HostStream(Stream, Protocol):
    """One whose frames lie in the memory of this program."""

    def image(self) -> Image:
        """See `Stream.image`."""


class Decoder(Protocol):
    """A library that decodes videos."""

    @property
    def name(self) -> str:
        """For people: "opencv", "pyav" or "nvdec"."""

    def index(self, path: Path) -> Index:
        """Read all packets of a file.

        Raises:
            VideoError: it has no video stream.
        """

    def open(self, path: Path, packets: int, /) -> AbstractContextManager[Stream]:
        """Open a file to decode it from its start.

        Args:
            path: of the file.
            packets: how many it has, after which no frame is waited for.

        Raises:
            VideoError: it has no video stream.
        """
