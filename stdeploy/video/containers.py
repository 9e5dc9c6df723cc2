"""Which files FFmpeg may open, and what an MP4 or a transport stream says that it holds.

FFmpeg opens whatever a file says it is: a text file named .mp4 can be a list of other local
files, and a playlist can name URLs. Only real containers, only local files.
"""

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg,gif,mjpeg,"
    "h264,hevc,ivf,av1,obu,dv,nut,rm,mxf,yuv4mpegpipe,apng,dhav"
)
PROTOCOLS = "file"
CAPTURE_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # a variable that OpenCV reads


def capture_options(streams: int | None = None) -> str:
    """What `CAPTURE_OPTIONS` has to be, for files like these only.

    Args:
        streams: that a file may hold; None leaves that to FFmpeg.
    """
    options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": CONTAINERS}
    if streams is not None:
        options["max_streams"] = str(streams)
    return "|".join(f"{name};{value}" for name, value in options.items())


# By their contents FFmpeg takes these for one JPEG picture, which is no video.
_DEMUXERS = {".mjpeg": "mjpeg", ".mjpg": "mjpeg"}


def demuxer_of(path: Path) -> str | None:
    """What FFmpeg has to take a file for where its name tells more than its contents.

    Returns:
        A name of `CONTAINERS`; None where the contents decide, as they nearly always do.
    """
    return _DEMUXERS.get(path.suffix.lower())


TRANSPORT_STREAM = "MPEG transport stream"
_PACKET = 188  # bytes, of an MPEG transport stream
_STARTS = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"FLV\x01": "FLV",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "ASF",
    b"OggS": "Ogg",
    b"GIF8": "GIF",
    b"\x00\x00\x01\xba": "MPEG",
    b"\x00\x00\x01\xb3": "MPEG video",
    b"DKIF": "IVF",
    b".RMF": "RealMedia",
    b"nut/multimedia container\0": "NUT",
    b"YUV4MPEG2 ": "Y4M",
    b"DHAV": "Dahua DAV",
    b"DAHUA": "Dahua DAV",
    b"\x12\x00\x0a": "AV1 video",  # a temporal delimiter, then a sequence header
    b"\x1f\x07\x00": "DV",
    # A partition pack of the header. What may stand before it is found by decoding alone.
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02": "MXF",
}
# Of `container_of`: those whose packets need not say when they are shown.
WITHOUT_TIMES = {
    "MPEG",
    "MPEG video",
    TRANSPORT_STREAM,
    "H.264, HEVC or MPEG-4 video",
    "AVI",  # the last frames, where they are reordered
}
_PNG = b"\x89PNG\r\n\x1a\n"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
HEAD_BYTES = 2 * _PACKET


def container_of(head: bytes) -> str | None:
    """Which container a file seems to be, by its first bytes.

    It tells pictures, texts and archives from videos before anything is decoded; what really is
    in the file, decoding tells.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of a shorter one.

    Returns:
        A name for people; None where it is none of those that are read here.
    """
    for start, name in _STARTS.items():
        if head.startswith(start):
            return name
    if head.startswith(_PNG) and b"acTL" in head:
        return "APNG"  # other PNG files are pictures
    if head[4:8] in _BOXES:
        return "MP4 or QuickTime"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    # M2TS has four bytes before each packet.
    for first, step in ((0, _PACKET), (4, _PACKET + 4)):
        if head[first : first + 1] == b"G" and head[first + step : first + step + 1] == b"G":
            return TRANSPORT_STREAM
    if head[:4] == b"\x00\x00\x00\x01" or head[:3] == b"\x00\x00\x01":
        return "H.264, HEVC or MPEG-4 video"
    return None


def container_in(path: Path) -> str | None:
    """`container_of` a file."""
    with path.open("rb") as file:
        return container_of(file.read(HEAD_BYTES))


# What an MP4 or QuickTime file says that it holds, whatever of it can be decoded.
#
# Its index counts every frame before the first one comes. Other containers only say how long they
# last, sound and all, and often wrongly.

_OPENED = (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl")  # boxes that hold boxes
_READ = (b"mvhd", b"tkhd", b"elst", b"hdlr", b"stsd", b"stsz")
_ENCRYPTED = b"encv"  # ISO 14496-12, 8.12: the sample entry of a video that is
_BEFORE_INDEX = {b"ftyp", b"mdat", b"wide", b"free", b"skip", b"pnot", b"uuid"}
_MOST_BOXES = 10_000
_LONGEST = 256  # bytes of a box that are looked at
Matrix = tuple[float, ...]


class Announced(NamedTuple):
    """What an index announces.

    Attributes:
        frames: of the video.
        seconds: that they last, as edited, from the first of them on.
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
    ticks, length, edited, found = 0, 0, None, []
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
                    visual, edited = False, None
                elif kind == b"elst":
                    edited = _edited(body)
                elif kind == b"hdlr":
                    visual |= body[8:12] == b"vide"
                elif kind == b"stsd":
                    encrypted = body[12:16] == _ENCRYPTED
                elif visual:
                    (frames,) = struct.unpack_from(">I", body, 8)
                    matrix = _product(track, whole)
                    seconds = (length if edited is None else edited) / ticks
                    found.append(Announced(frames, seconds, matrix, encrypted))
    except (OSError, ValueError, OverflowError, struct.error, IndexError, ZeroDivisionError):
        return None
    return found[0] if len(found) == 1 else None


def _edited(body: bytes) -> int | None:
    """How long all edits last, without those before the first frame, when nothing is shown.

    Returns:
        In ticks of the file; None where an edit does not say, or not all edits were read.
    """
    (count,) = struct.unpack_from(">I", body, 4)
    edit = struct.Struct(">Qq4x" if body[0] == 1 else ">Ii4x")
    if not count or 8 + count * edit.size > len(body):
        return None
    edits = [edit.unpack_from(body, 8 + number * edit.size) for number in range(count)]
    shown = list(itertools.dropwhile(lambda each: each[1] < 0, edits))
    return sum(length for length, _ in shown) if all(length for length, _ in shown) else None


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


# What an MPEG transport stream says about its programs (ISO 13818-1, 2.4), and where it changes.
#
# A recording of a broadcast, or several that were joined, may go over to another codec or another
# stream. FFmpeg then decodes on what it began with, without a word about the rest.

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
    if container_in(path) != TRANSPORT_STREAM:
        return None
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
