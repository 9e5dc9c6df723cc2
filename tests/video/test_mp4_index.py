import os
import struct
from pathlib import Path

import pytest

from stdeploy.errors import VideoError
from stdeploy.video.containers import Announced, announced, lacks_index
from stdeploy.video.reader import VideoReader
from tests.helpers.odd_videos import coloured_frames, encode

AS_IT_IS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """200 frames in 8 s, with the index before them."""
    front = {"movflags": "faststart"}
    encode(tmp_path / "whole.mp4", coloured_frames(200), "libx264", container_options=front, g="20")
    return tmp_path / "whole.mp4"


def test_an_index_announces_frames_and_seconds(whole: Path, tmp_path: Path) -> None:
    assert announced(whole) == Announced(200, 8.0, AS_IT_IS, encrypted=False)
    encode(tmp_path / "behind.mov", coloured_frames(10), "libx264")
    assert announced(tmp_path / "behind.mov") == Announced(10, 0.4, AS_IT_IS, encrypted=False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF....AVI ",
        bytes(1000),
        b"\xff" * 1000,
        b"\0\0\0\x08moov" * 1000,
        b"\0\0\0\x01free" + b"\xff" * 8,
        b"\0\0\0\x09tkhd\x01",
        b"\0\0\0\x08stsz" * 20_000,
    ],
)
def test_what_is_no_index_announces_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert announced(tmp_path / "a.mp4") is None


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}], ids=["behind", "front"])
def test_a_file_that_breaks_off_before_its_index_says_so(
    tmp_path: Path, options: dict[str, str]
) -> None:
    path = tmp_path / "a.mp4"
    encode(path, coloured_frames(50), "libx264", container_options=options)
    assert not lacks_index(path)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov") + 200])
    with pytest.raises(VideoError, match=r"breaks off before its index .*copy it again"):
        VideoReader(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no video at all\n",
        bytes(1000),
        b"\0\0\0\x18ftypheic" + bytes(12) + b"\0\0\0\x20meta" + bytes(24),
        b"\0\0\0\x08styp\0\0\0\x08moof\0\0\0\x08mdat",
        b"\0\0\0\x01free" + b"\xff" * 8 + bytes(16),
    ],
)
def test_what_never_had_an_index_lacks_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert not lacks_index(tmp_path / "a.mp4")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def spoilt(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + os.urandom(len(content) - half)


@pytest.mark.parametrize("decoder", ["opencv", "pyav"])
@pytest.mark.parametrize("spoil", [cut, spoilt])
def test_damage_is_noticed_once_frames_are_decoded(
    whole: Path, spoil: object, decoder: str
) -> None:
    whole.write_bytes(spoil(whole.read_bytes()))
    reader = VideoReader(whole, decoder=decoder)
    reader.scan()
    assert reader.damaged_after == reader.timing.duration
    assert 2.0 < reader.timing.duration < 6.0


def test_a_missing_end_of_half_a_second_is_none(whole: Path) -> None:
    content = bytearray(whole.read_bytes())
    samples = content.index(b"stsz") + 12
    reader = VideoReader(whole)
    for frames, damaged in ((202, False), (203, True)):  # 8 s are there, 9 are announced
        struct.pack_into(">I", content, samples, frames)
        whole.write_bytes(content)
        index = announced(whole)
        assert index is not None
        reader._said = index._replace(seconds=9.0)
        assert (reader.damaged_after is not None) == damaged
        reader._said = index._replace(seconds=8.5)
        assert reader.damaged_after is None


@pytest.mark.parametrize("track", ["as edited", "longer than its edits"])
def test_frames_that_an_edit_leaves_out_are_not_missing(whole: Path, track: str) -> None:
    content = bytearray(whole.read_bytes())
    (all_of_it,) = struct.unpack_from(">I", content, content.index(b"elst") + 12)
    struct.pack_into(">I", content, content.index(b"elst") + 12, all_of_it // 2)
    if track == "as edited":
        struct.pack_into(">I", content, content.index(b"tkhd") + 24, all_of_it // 2)
    whole.write_bytes(content)
    reader = VideoReader(whole)
    reader.scan()
    assert announced(whole) == Announced(200, 4.0, AS_IT_IS, encrypted=False)
    assert len(reader.timing.timestamps) < 130
    assert reader.damaged_after is None
