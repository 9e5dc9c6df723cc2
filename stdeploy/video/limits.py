"""How much of this machine one video may use, and what keeps the memory of a process flat."""

import contextlib
import ctypes
import dataclasses
from typing import TYPE_CHECKING, Any

from stdeploy.errors import VideoError

if TYPE_CHECKING:  # a limit needs no OpenCV
    from stdeploy.video.decoder import Index

_MIB = 2**20
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt
_LARGE_BYTES = 4 * 2**20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one video may hold, and what decoding it may cost.

    A file of 400 kB can hold 60 GB of pixels. The reader checks what a file holds; what it costs
    can only be limited from outside, for a process (see `decode_pool`).

    Attributes:
        pixels: of one frame, width x height.
        frames: of a file.
        seconds: that a video may last, by its timestamps.
        streams: of a file: pictures, sound, subtitles.
        memory_bytes: address space of the process that decodes.
        cpu_seconds: processor time of one video.
        wall_seconds: from asking for a video to having it.
    """

    pixels: int = 7680 * 4320
    frames: int = 1_000_000
    seconds: float = 86_400.0
    streams: int = 128
    memory_bytes: int = 2048 * _MIB
    cpu_seconds: int = 120
    wall_seconds: float = 180.0

    def to_message(self) -> dict[str, Any]:
        """Plain data, from which the constructor makes it again."""
        return dataclasses.asdict(self)

    @property
    def too_much_memory(self) -> str:
        """What is wrong with a video that needs more memory."""
        return f"needs more than {self.memory_bytes // _MIB} MiB of memory to decode"

    def check(self, index: "Index") -> None:
        """Compare with what the packets and the header announce.

        Raises:
            VideoError: it is more.
        """
        self.check_size(index.width, index.height)
        self.check_frames(len(index.stamps))

    def check_size(self, width: int, height: int) -> None:
        """Compare with the size of a frame.

        Raises:
            VideoError: it is larger.
        """
        if width * height > self.pixels:
            raise VideoError(
                f"has frames of {width}x{height} px; at most {self.pixels / 1e6:.1f} million "
                "pixels are allowed"
            )

    def check_frames(self, count: int) -> None:
        """Compare with the number of frames.

        Raises:
            VideoError: there are more.
        """
        if count > self.frames:
            raise VideoError(f"has more than {self.frames} frames, which is not allowed")

    def check_duration(self, seconds: float) -> None:
        """Compare with how long a video lasts: a few frames can be made to last for years.

        Raises:
            VideoError: it is longer.
        """
        if seconds > self.seconds:
            found, most = lasting(seconds), lasting(self.seconds)
            if found == most:
                found, most = f"{seconds:.10g} s", f"{self.seconds:.10g} s"
            raise VideoError(f"lasts {found} by its timestamps; the longest allowed is {most}")


def lasting(seconds: float) -> str:
    """How long something lasts, in words.

    >>> lasting(10), lasting(90), lasting(3600), lasting(5400), lasting(31_536_000)
    ('10 s', '1.5 min', '1 hour', '1.5 hours', '8,760 hours')
    """
    unit, name = (3600, "hours") if seconds >= 3600 else (60, "min") if seconds >= 60 else (1, "s")
    number = f"{seconds / unit:,.1f}".removesuffix(".0")
    return "1 hour" if (number, name) == ("1", "hours") else f"{number} {name}"


_UNLIMITED = 2**62
NO_LIMITS = Limits(
    pixels=_UNLIMITED,
    frames=_UNLIMITED,
    seconds=float("inf"),
    streams=_UNLIMITED,
    memory_bytes=_UNLIMITED,
    cpu_seconds=_UNLIMITED,
    wall_seconds=float("inf"),
)


def give_back_large_arrays() -> None:
    """Let arrays of 4 MiB and more go back to the system as soon as they are freed.

    glibc learns from the first large arrays that are freed to keep later ones; of clips whose sizes
    differ from video to video it then keeps gigabytes that fit nothing. Other C libraries have no
    such switch, and need none.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
