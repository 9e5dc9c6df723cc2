"""Files that are made to do harm: read other files, or use up time and memory."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from tests.helpers.odd_videos import HEIGHT, WIDTH, coloured_frames, encode
from tests.helpers.video_kinds import KINDS, dav_chunk, write_dav

# What an attacker would like to see: its frames are wider than those of any other file here.
SECRET_WIDTH = 2 * WIDTH


def write_secret(path: Path) -> Path:
    encode(path, coloured_frames(10, width=SECRET_WIDTH), "mpeg4")
    return path


def concat_list(path: Path, secret: Path) -> None:
    """FFmpeg opens it as a list of other files, whatever its name."""
    path.write_text(f"ffconcat version 1.0\nfile {secret.name}\n")


def playlist(path: Path, secret: Path) -> None:
    """A playlist may name any address."""
    path.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST"
    )


def dash_manifest(path: Path, secret: Path) -> None:
    path.write_text(
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        f'<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="9">'
        f"<BaseURL>file://{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )


def session_description(path: Path, _secret: Path) -> None:
    """It makes FFmpeg wait for packets from the network."""
    path.write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )


def image_pattern(path: Path, _secret: Path) -> None:
    """A picture, not a video: FFmpeg would look for others with numbered names."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def large_frames(path: Path, _secret: Path) -> None:
    """A few hundred kB that hold gigabytes of pixels."""
    flat = np.zeros((8192, 8192, 3), np.uint8)
    encode(path, [flat] * 2, "libx264", preset="ultrafast")


def growing_frames(path: Path, _secret: Path) -> None:
    """Frames of an ordinary size, announced as such, then enormous ones."""
    parts = []
    for start, side in ((0, 64), (3, 8192)):
        file = io.BytesIO()
        frames = [np.zeros((side, side, 3), np.uint8)] * 3
        times = [40 * (start + number) for number in range(5)]
        encode(file, frames, "libx264", times=times, container_format="mpegts", preset="ultrafast")
        parts.append(file.getvalue())
    path.write_bytes(b"".join(parts))


def slow_frames(path: Path, _secret: Path) -> None:
    """Allowed in size, but thousands of them: 60 GB of pixels in 100 kB."""
    file = io.BytesIO()
    flat = np.zeros((2160, 3840, 3), np.uint8)
    encode(file, [flat] * 25, "libx264", container_format="h264", preset="ultrafast")
    path.write_bytes(file.getvalue() * 100)


def many_streams(path: Path, _secret: Path) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.height, video.width, video.pix_fmt = 96, WIDTH, "yuv420p"
        for _ in range(300):
            sound = container.add_stream("pcm_s16le", rate=8000)
            sound.layout = "mono"
        for image in coloured_frames(40):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(video.encode(None))


def noise(path: Path, _secret: Path) -> None:
    path.write_bytes(b"\x00\x00\x00\x18ftypmp42" + np.random.default_rng(0).bytes(100_000))


def broken_packets(path: Path, _secret: Path) -> None:
    """A good video of which every hundredth byte is wrong."""
    encode(path, coloured_frames(40), "libx264", g="10")
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    content[600::100] ^= 0x5A
    path.write_bytes(content.tobytes())


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _apng(width: int, height: int, frames: int, *, between: bytes = b"") -> bytes:
    """A black picture, and further frames that change one pixel of it.

    Args:
        width: in pixels.
        height: likewise.
        frames: in all.
        between: chunks after the first frame.
    """

    def control(number: int, width: int, height: int) -> bytes:
        shown = (number, width, height, 0, 0, 1, 25, 0, 0)
        return _png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", *shown))

    rows = zlib.compressobj(9)
    black = bytes(1 + 3 * width)
    picture = b"".join(rows.compress(black) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [
        b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header),
        _png_chunk(b"acTL", struct.pack(">II", frames, 0)),
        control(0, width, height) + _png_chunk(b"IDAT", picture) + between,
    ]
    pixel = zlib.compress(bytes(4))
    for number in range(1, 2 * frames - 2, 2):
        parts.append(control(number, 1, 1))
        parts.append(_png_chunk(b"fdAT", struct.pack(">I", number + 1) + pixel))
    return b"".join(parts) + _png_chunk(b"IEND", b"")


def large_apng(path: Path, _secret: Path) -> None:
    path.write_bytes(_apng(8192, 8192, 2))


def giant_apng(path: Path, _secret: Path) -> None:
    """More pixels than a number of 32 bits can count."""
    content = _apng(64, 64, 2)
    path.write_bytes(content.replace(struct.pack(">II", 64, 64), b"\x7f\xff\xff\xff" * 2, 1))


def endless_apng(path: Path, _secret: Path) -> None:
    """Frames of 99 bytes, each of which costs a copy of an allowed 33 million pixels."""
    path.write_bytes(_apng(7680, 4320, 1500))


def swelling_apng(path: Path, _secret: Path) -> None:
    """A chunk of 200 kB that is 200 MB when it is unpacked."""
    packer = zlib.compressobj(9)
    swollen = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    profile = _png_chunk(b"iCCP", b"x\0\0" + swollen)
    path.write_bytes(_apng(64, 64, 3, between=profile))


def long_chunk(path: Path, _secret: Path) -> None:
    """A chunk that says it is 2 GB long."""
    content = _apng(64, 64, 2)
    path.write_bytes(content.replace(b"fcTL", b"\x7f\xff\xff\xf0iCCP", 1))


def giant_y4m(path: Path, _secret: Path) -> None:
    path.write_bytes(b"YUV4MPEG2 W65535 H65535 F25:1 C420jpeg\nFRAME\n" + bytes(1000))


def endless_y4m(path: Path, _secret: Path) -> None:
    """Frames of 7 bytes each."""
    path.write_bytes(b"YUV4MPEG2 W1 H1 F25:1 Cmono\n" + b"FRAME\n\0" * 300_000)


def slow_y4m(path: Path, _secret: Path) -> None:
    """A frame every 68 years."""
    header = b"YUV4MPEG2 W16 H16 F1:2147483647 C420jpeg\n"
    path.write_bytes(header + (b"FRAME\n" + bytes(16 * 16 * 3 // 2)) * 100)


def long_header(path: Path, _secret: Path) -> None:
    path.write_bytes(b"YUV4MPEG2 " + b"X" * 4_000_000)


def _mxf(path: Path) -> bytes:
    encode(path, coloured_frames(20), "mpeg2video", container_format="mxf")
    return path.read_bytes()


# Of an MXF: what sets and elements of the essence begin with, the latter up to the kind.
_SET = bytes.fromhex("060e2b34025301010d010101010137")  # of a source package
_ESSENCE = bytes.fromhex("060e2b34010201010d010301")


def many_sets(path: Path, _secret: Path) -> None:
    """Thousands of descriptions of a source: FFmpeg looks each up among all others."""
    content = _mxf(path)
    at = content.index(_SET)
    long = content[at + 16] == 0x81  # its length takes a byte of its own
    one = content[at : at + 17 + long + content[at + 16 + long]]
    path.write_bytes(content[:at] + one * 25_000 + content[at:])


def giant_mxf(path: Path, _secret: Path) -> None:
    """Frames of two thousand million pixels squared, as the descriptor has it."""
    content = _mxf(path)
    for tag in (0x3203, 0x3202):
        for size in (HEIGHT, WIDTH):
            item = struct.pack(">HHI", tag, 4, size)
            content = content.replace(item, struct.pack(">HHI", tag, 4, 0x7FFFFFFF))
    path.write_bytes(content)


def long_essence(path: Path, _secret: Path) -> None:
    """A frame that says it is eight exabytes long."""
    content = _mxf(path)
    at = content.index(_ESSENCE) + 16
    path.write_bytes(content[:at] + b"\x88\x7f" + b"\xff" * 7 + content[at + 4 :])


def ring_of_partitions(path: Path, _secret: Path) -> None:
    """Each partition names the next as the one before it."""
    content = bytearray(_mxf(path))
    pack = bytes.fromhex("060e2b34020501010d01020101")
    starts = [at for at in range(len(content)) if content[at : at + len(pack)] == pack]
    packs = [at for at in starts if content[at + 13] in (2, 3, 4)]
    for number, at in enumerate(packs):
        previous = at + 20 + 16
        content[previous : previous + 8] = packs[(number + 1) % len(packs)].to_bytes(8)
    path.write_bytes(content)


def located_elsewhere(path: Path, secret: Path) -> None:
    """Its pictures are said to lie in another file."""
    content = _mxf(path)
    url = f"file://{secret}".encode("utf-16-be")
    body = struct.pack(">HH", 0x3C0A, 16) + b"L" * 16 + struct.pack(">HH", 0x4001, len(url)) + url
    key = bytes.fromhex("060e2b34025301010d01010101013200")
    locator = key + b"\x83" + len(body).to_bytes(3) + body
    at = content.index(_SET)
    end = content.index(_ESSENCE)
    path.write_bytes(content[:at] + locator + content[at:end])


def giant_dav(path: Path, _secret: Path) -> None:
    data = b"\0\0\0\1" + bytes(60)
    path.write_bytes(b"".join(dav_chunk(data, n, size=(65535, 65535)) for n in range(20)))


def nested_dav(path: Path, _secret: Path) -> None:
    """Each frame says that it holds all that come after it."""
    path.write_bytes(b"".join(dav_chunk(b"", n, length=100_000) for n in range(20_000)))


def negative_dav(path: Path, _secret: Path) -> None:
    """Lengths that are no lengths, among good frames."""
    write_dav(path, coloured_frames(20))
    wrong = b"".join(dav_chunk(b"xx", n, length=length) for n, length in enumerate((0, 2**32 - 1)))
    path.write_bytes(path.read_bytes() + wrong * 1000 + path.read_bytes())


def searched_dav(path: Path, _secret: Path) -> None:
    """What begins like a frame, again and again, and is none."""
    path.write_bytes(b"DHAV\xfd" + b"DHA" * 1_000_000)


def jumping_dav(path: Path, _secret: Path) -> None:
    """A frame a day, from the first of the month to the last and back."""
    write_dav(path, coloured_frames(40))
    content = path.read_bytes()
    (date,) = struct.unpack_from("<I", content, 16)
    for day in (31, 1, 30):
        content += content.replace(
            struct.pack("<I", date), struct.pack("<I", date & ~(31 << 17) | day << 17)
        )
    path.write_bytes(content)


def _fuzzed(make: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    """Every fiftieth byte of a good video is another one, and its last third is missing."""

    def write(path: Path, _secret: Path) -> None:
        make(path)
        content = np.frombuffer(path.read_bytes(), np.uint8).copy()
        rng = np.random.default_rng(0)
        wrong = rng.integers(40, len(content), len(content) // 50)
        content[wrong] = rng.integers(0, 256, len(wrong))
        path.write_bytes(content[: len(content) * 2 // 3].tobytes())

    return write


# With the limits of the tests.
TOO_LONG = r"took more than 1 s of processor time|took more than 6 s"

# What is expected of each: a pattern in the error; None where frames may come out.
ATTACKS: dict[str, tuple[Callable[[Path, Path], None], str | None]] = {
    "concat.mp4": (concat_list, "is no video that can be read here"),
    "playlist.mp4": (playlist, "is no video that can be read here"),
    "manifest.mp4": (dash_manifest, "is no video that can be read here"),
    "session.mp4": (session_description, "is no video that can be read here"),
    "%03d.png.mp4": (image_pattern, "is no video that can be read here"),
    "large.mp4": (large_frames, "has frames of 8192x8192 px; at most 33.2 million"),
    "growing.ts": (growing_frames, None),
    "slow.h264": (slow_frames, TOO_LONG),
    "streams.mkv": (many_streams, None),  # those that are too many are left out
    "noise.mp4": (noise, "is no video that can be read here|holds no frame"),
    "broken.mp4": (broken_packets, None),
    "large.apng": (large_apng, "has frames of 8192x8192 px|" + TOO_LONG),
    "giant.apng": (giant_apng, "is no video that can be read here"),
    "endless.apng": (endless_apng, TOO_LONG),
    "swelling.apng": (swelling_apng, None),
    "long-chunk.apng": (long_chunk, "is no video that can be read here"),
    "fuzzed.apng": (_fuzzed(KINDS[".apng"]), None),
    "giant.y4m": (giant_y4m, "is no video that can be read here"),
    "endless.y4m": (endless_y4m, None),
    "slow.y4m": (slow_y4m, "hours by its timestamps; the longest allowed is 24 hours"),
    "long-header.y4m": (long_header, "is no video that can be read here"),
    "fuzzed.y4m": (_fuzzed(KINDS[".y4m"]), None),
    "many-sets.mxf": (many_sets, None),
    "giant.mxf": (giant_mxf, None),  # the frames say themselves how large they are
    "long-essence.mxf": (long_essence, "is no video that can be read here|holds no frame"),
    "partitions.mxf": (ring_of_partitions, None),
    "elsewhere.mxf": (located_elsewhere, "is no video that can be read here|holds no frame"),
    "fuzzed.mxf": (_fuzzed(_mxf), None),
    "giant.dav": (giant_dav, "holds no frame that can be decoded here"),
    "nested.dav": (nested_dav, "is no video that can be read here|holds no frame"),
    "negative.dav": (negative_dav, None),
    "searched.dav": (searched_dav, "is no video that can be read here|holds no frame"),
    "jumping.dav": (jumping_dav, None),
    "fuzzed.dav": (_fuzzed(KINDS[".dav"]), None),
}
