"""Files that are made to do harm: read other files, or use up time and memory."""

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from tests.video.odd import WIDTH, coloured_frames, encode

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


# What is expected of each: a pattern in the error; None where frames may come out.
ATTACKS: dict[str, tuple[Callable[[Path, Path], None], str | None]] = {
    "concat.mp4": (concat_list, "is no video that can be read here"),
    "playlist.mp4": (playlist, "is no video that can be read here"),
    "manifest.mp4": (dash_manifest, "is no video that can be read here"),
    "session.mp4": (session_description, "is no video that can be read here"),
    "%03d.png.mp4": (image_pattern, "is no video that can be read here"),
    "large.mp4": (large_frames, "has frames of 8192x8192 px; at most 33.2 million"),
    "growing.ts": (growing_frames, None),
    "slow.h264": (slow_frames, r"took more than 1 s of processor time|took more than 6 s"),
    "streams.mkv": (many_streams, None),  # those that are too many are left out
    "noise.mp4": (noise, "is no video that can be read here|holds no frame"),
    "broken.mp4": (broken_packets, None),
}
