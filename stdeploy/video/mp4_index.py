"""What an MP4 or QuickTime file says that it holds, whatever of it can be decoded.

Its index counts every frame before the first one comes. Other containers only say how long they
last, sound and all, and often wrongly.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_OPENED = (b"moov", b"trak", b"mdia", b"minf", b"stbl")  # boxes that hold boxes
_READ = (b"mvhd", b"tkhd", b"hdlr", b"stsd", b"stsz")
_ENCRYPTED = b"encv"  # ISO 14496-12, 8.12: the sample entry of a video that is
_BEFORE_INDEX = {b"ftyp", b"mdat", b"wide", b"free", b"skip", b"pnot", b"uuid"}
_MOST_BOXES = 10_000
_LONGEST = 256  # bytes of a box that are looked at
Matrix = tuple[float, ...]


class Announced(NamedTuple):
    """What an index announces.

    Attributes:
        frames: of the video.
        seconds: that they last, as edited.
        matrix: a, b, u, c, d, v, x, y, w, by which the video is turned; see orientation.py.
        encrypted: whether frames need a key.
    """

    frames: int
    seconds: float
    matrix: Matrix
    encrypted: bool


def announced(path: Path) -> Announced | None:
    """Read the index of a file.

    Returns:
        None where it is no MP4 or QuickTime file, or holds not exactly one video.
    """
    ticks, length, found = 0, 0, []
    visual = encrypted = False
    whole: Matrix = ()
    track: Matrix = ()
    try:
        with path.open("rb") as file:
            for kind, body in _boxes(file):
                # Version 1 has 64 bits for each time.
                wide = 12 if body[0] == 1 else 0
                if kind == b"mvhd":
                    (ticks,) = struct.unpack_from(">I", body, 20 if wide else 12)
                    whole = _matrix(body, 36 + wide)
                elif kind == b"tkhd":
                    (length,) = struct.unpack_from(*(">Q", body, 28) if wide else (">I", body, 20))
                    track = _matrix(body, 40 + wide)
                    visual = False
                elif kind == b"hdlr":
                    visual |= body[8:12] == b"vide"
                elif kind == b"stsd":
                    encrypted = body[12:16] == _ENCRYPTED
                elif visual:
                    (frames,) = struct.unpack_from(">I", body, 8)
                    matrix = _product(track, whole)
                    found.append(Announced(frames, length / ticks, matrix, encrypted))
    except (OSError, ValueError, OverflowError, struct.error, IndexError, ZeroDivisionError):
        return None
    return found[0] if len(found) == 1 else None


def _matrix(body: bytes, offset: int) -> Matrix:
    fixed = struct.unpack_from(">9i", body, offset)
    # 16 binary places, and 30 in the last column.
    return tuple(value / (1 << (30 if place % 3 == 2 else 16)) for place, value in enumerate(fixed))


def _product(one: Matrix, other: Matrix) -> Matrix:
    return tuple(
        sum(one[3 * row + inner] * other[3 * inner + column] for inner in range(3))
        for row in range(3)
        for column in range(3)
    )


def lacks_index(path: Path) -> bool:
    """Whether a file breaks off before the end of its index, asked of one that does not open.

    Recorders write the index last. A copy that was cut off lacks it, and so does a file that is
    still being written. Fragments of a stream have indices of their own, pictures have others.
    """
    begun = False
    try:
        with path.open("rb") as file:
            for kind, end in _outermost(file):
                if kind == b"moov":
                    return end > path.stat().st_size
                if kind not in _BEFORE_INDEX:
                    return False
                begun |= kind in (b"ftyp", b"mdat")
    except (OSError, ValueError, OverflowError, struct.error):  # a size that no file has
        return False
    return begun


def _outermost(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The boxes that are in no other: their kind, and where they end, in bytes."""
    start = 0
    for _ in range(_MOST_BOXES):
        file.seek(start)
        kind, size = _header(file)
        start += size
        if not kind:
            return
        yield kind, start
        if size < 8:  # 0 is to the end of the file
            return


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The boxes that are read, in the order of the file, without their headers."""
    for _ in range(_MOST_BOXES):
        start = file.tell()
        kind, size = _header(file)
        if kind in _OPENED:
            continue
        if size < 8:
            return
        if kind in _READ:
            yield kind, file.read(min(_LONGEST, size - 8))
        file.seek(start + size)


def _header(file: BinaryIO) -> tuple[bytes, int]:
    """The kind of the box that begins here, and its size in bytes; nothing and 0 at the end."""
    head = file.read(8)
    if len(head) < 8:
        return b"", 0
    size, kind = struct.unpack(">I4s", head)
    if size == 1:
        (size,) = struct.unpack(">Q", file.read(8))
    return kind, size
