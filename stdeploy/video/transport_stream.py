"""What an MPEG transport stream says about its programs (ISO 13818-1, 2.4), and where it changes.

A recording of a broadcast, or several that were joined, may go over to another codec or another
stream. FFmpeg then decodes on what it began with, without a word about the rest.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SYNC = 0x47
_PACKET_BYTES = 188
_STEPS = (188, 192, 204)  # from packet to packet: TS, M2TS, DVB
_BLOCK_BYTES = 2**20
_MOST_BLOCKS = 64  # of a longer file so many, evenly spaced, are looked at
_PROGRAMS_PID = 0
_PROGRAMS_TABLE, _STREAMS_TABLE = 0, 2
_CODECS = {
    0x01: "MPEG-1",
    0x02: "MPEG-2",
    0x10: "MPEG-4",
    0x1B: "H.264",
    0x24: "HEVC",
    0x33: "VVC",
    0x42: "AVS",
    0xEA: "VC-1",
}


class VideoStream(NamedTuple):
    """A stream of pictures.

    Attributes:
        pid: number of its packets.
        codec: for people.
    """

    pid: int
    codec: str


class Programs(NamedTuple):
    """What was seen of a transport stream.

    Attributes:
        videos: the streams of pictures, in the order in which they are first announced.
        changes: whether some are announced in one part of the file and not in another.
        scrambled: whether packets of pictures are encrypted.
    """

    videos: tuple[VideoStream, ...]
    changes: bool
    scrambled: bool


def programs(path: Path) -> Programs | None:
    """Look at the tables of a file.

    Returns:
        None where it is no transport stream.
    """
    tables: set[int] = set()
    announced: dict[int, set[tuple[VideoStream, ...]]] = {}  # by program
    videos: dict[VideoStream, None] = {}
    scrambled: set[int] = set()
    try:
        for packet in _packets(path):
            pid = (packet[1] & 0x1F) << 8 | packet[2]
            if packet[3] & 0xC0:
                scrambled.add(pid)
            if not packet[1] & 0x40 or not (pid == _PROGRAMS_PID or pid in tables):
                continue  # no table begins here
            section = _section(packet)
            if pid == _PROGRAMS_PID and section[:1] == bytes([_PROGRAMS_TABLE]):
                tables |= set(_table_pids(section))
            elif pid in tables and section[:1] == bytes([_STREAMS_TABLE]):
                streams = tuple(_video_streams(section))
                announced.setdefault(section[3] << 8 | section[4], set()).add(streams)
                videos |= dict.fromkeys(streams)
    except (OSError, IndexError):
        return None
    if not announced:
        return None
    return Programs(
        tuple(videos),
        any(len(states) > 1 for states in announced.values()),
        any(stream.pid in scrambled for stream in videos),
    )


def _packets(path: Path) -> Iterator[bytes]:
    """Whole packets of the blocks that are looked at."""
    size = path.stat().st_size
    blocks = min(_MOST_BLOCKS, -(-size // _BLOCK_BYTES))
    with path.open("rb") as file:
        for block in range(blocks):
            start = block * (size - _BLOCK_BYTES) // (blocks - 1) if blocks > 1 else 0
            file.seek(start)
            content = file.read(_BLOCK_BYTES)
            layout = _layout(content)
            if layout is None:
                continue
            first, step = layout
            for begin in range(first, len(content) - _PACKET_BYTES + 1, step):
                if content[begin] == _SYNC:
                    yield content[begin : begin + _PACKET_BYTES]


def _layout(content: bytes) -> tuple[int, int] | None:
    """Where the first packet begins, and how far apart they lie."""
    for step in _STEPS:
        for first in range(min(step, len(content))):
            if all(content[first + step * n : first + step * n + 1] == b"G" for n in range(4)):
                return first, step
    return None


def _section(packet: bytes) -> bytes:
    """The table that begins in a packet; the video streams of one program fit into the first."""
    start = 4
    if packet[3] & 0x20:  # an adaptation field
        start += 1 + packet[4]
    return packet[start + 1 + packet[start] :]


def _table_pids(section: bytes) -> Iterator[int]:
    for place in range(8, _end(section) - 3, 4):
        if section[place] << 8 | section[place + 1]:  # 0 is the network's own table
            yield (section[place + 2] & 0x1F) << 8 | section[place + 3]


def _video_streams(section: bytes) -> Iterator[VideoStream]:
    place, end = 12 + ((section[10] & 0x0F) << 8 | section[11]), _end(section)
    while place + 5 <= end:
        kind, pid = section[place], (section[place + 1] & 0x1F) << 8 | section[place + 2]
        if kind in _CODECS:
            yield VideoStream(pid, _CODECS[kind])
        place += 5 + ((section[place + 3] & 0x0F) << 8 | section[place + 4])


def _end(section: bytes) -> int:
    """Where the entries of a table end: before its checksum, and with the packet."""
    return min(len(section), 3 + ((section[1] & 0x0F) << 8 | section[2]) - 4)
