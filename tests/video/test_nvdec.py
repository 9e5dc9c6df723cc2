"""Reading on a GPU, with a stand-in for PyNvVideoCodec that decodes by PyAV and gives NV12.

Its frames and times are real; what a GPU alone can show is in tests/gpu/test_nvdec.py.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from stdeploy.artifacts.frames import on_host
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import BackendError, MissingExtraError
from stdeploy.video import libraries, nvdec
from stdeploy.video.clips import ClipRequest, Clips, read_clips
from stdeploy.video.decoder import Coding
from stdeploy.video.nv12 import rgb_of
from stdeploy.video.reader import VideoReader
from tests.helpers.nvdec_stand_in import stand_in
from tests.helpers.odd_videos import ODD_VIDEOS, coloured_frames, encode

CLIP = ClipSpec(num_frames=8, frame_stride=2, fps=25.0, short_side_px=64, crop_px=56)
ON_GPU = "it was decoded on the GPU"


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    with stand_in():
        yield


def clips_of(path: Path, decoder: str, **wanted: object) -> list[Clips]:
    request = ClipRequest.parse({"clip": CLIP.model_dump(), "decoder": decoder} | wanted)
    return list(read_clips(path, request))


def assert_same(found: list[Clips], expected: list[Clips]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(on_host(one.frames), on_host(other.frames))
        np.testing.assert_array_equal(one.times_seconds, other.times_seconds)


# What a Hopper GPU does not decode, and files whose packets it may see in another way.
REASONS = {
    "h264-raw.h264": "its packets do not say when its frames are shown",
    "hevc-10-bit.mp4": "its frames are yuv420p10le, not 4:2:0 in 8 bits",
    "av1.mkv": "the GPU has no decoder for AV1",
    "av1.mp4": "the GPU has no decoder for AV1",
    "mpeg4.avi": "its container is AVI",
    "mpeg4-b-frames.avi": "its container is AVI",
    "mpeg2.mpg": "its container is MPEG",
    "cinepak.avi": "its frames are rgb24",
    "mjpeg.avi": "its container is AVI",
    "ffv1.mkv": "PyNvVideoCodec cannot decode it",
    "prores.mov": "its frames are yuv422p10le",
    "interlaced.mpg": "it is interlaced",
    "full-range-444.mkv": "its frames are yuvj444p",
    "later-start.ts": "its container is MPEG transport stream",
    "lying-header.avi": "its container is AVI",
    "truncated.ts": "its container is MPEG transport stream",
    "two-sizes.ts": "its container is MPEG transport stream",
    "joined.ts": "its container is MPEG transport stream",
    "odd-size.mkv": "its frames are yuv444p",
}


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_frames_of_every_kind_are_those_of_the_cpu(name: str, tmp_path: Path) -> None:
    """To the bit: video codecs say what comes out of them, and the rest is whole numbers."""
    path = tmp_path / name
    ODD_VIDEOS[name](path)
    expected, found = (clips_of(path, decoder, views=3, crops=3) for decoder in ("auto", "nvdec"))
    assert_same(found, expected)
    notes = found[0].flaws.notes
    if name in REASONS:
        assert any(f"not on the GPU: {REASONS[name]}" in note for note in notes)
    elif "hidden-frames" not in name:
        assert any(note.startswith(ON_GPU) for note in notes), notes
        assert isinstance(found[0].frames, torch.Tensor)


def test_shared_videos_are_those_of_the_cpu(shared_videos: Path) -> None:
    on_gpu = 0
    for path in sorted(shared_videos.glob("*.[mw]*")):
        if path.suffix in (".mp3", ".mpg"):
            continue
        expected, found = (clips_of(path, decoder, views=3) for decoder in ("auto", "nvdec"))
        assert_same(found, expected)
        on_gpu += any(note.startswith(ON_GPU) for note in found[0].flaws.notes)
    assert on_gpu >= 10


@pytest.mark.parametrize(
    "how",
    [
        {"hop_seconds": 0.2, "group": 2},
        {"chunk_frames": 5},
        {"hop_seconds": 0.2, "group": 2, "shortest_shot_seconds": 0.2},
        {"chunk_frames": 5, "shortest_shot_seconds": 0.2},
    ],
)
def test_windows_and_chunks_are_those_of_the_cpu(how: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode(path, coloured_frames(40) + coloured_frames(40)[::-1], "libx264", bf="2", rotation=90)
    expected, found = (clips_of(path, decoder, **how) for decoder in ("auto", "nvdec"))
    assert_same(found, expected)
    assert found[-1].flaws.notes[0].startswith(ON_GPU)


def test_frames_far_apart_are_sought(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        path = tmp_path / name
        encode(path, coloured_frames(600), "libx264", bf="3", g="25")
        reader, sought = VideoReader(path, decoder="nvdec"), []
        wanted = [5, 300, 310, 599]
        expected = list(VideoReader(path).images(wanted))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nvdec._Stream, "seek", noting(nvdec._Stream.seek, sought))
            found = list(reader.images(wanted))
        assert len(sought) == 2
        assert reader.on_gpu
        np.testing.assert_array_equal(found, expected)


def noting(
    seek: Callable[[object, float], None], sought: list[float]
) -> Callable[[object, float], None]:
    def seeks(stream: object, seconds: float) -> None:
        sought.append(seconds)
        seek(stream, seconds)

    return seeks


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 7, 9])
def test_colours_are_those_of_ffmpeg(matrix: int, full_range: bool) -> None:
    rng = np.random.default_rng(matrix)
    planes = rng.integers(0, 256, (96, 128), np.uint8)
    frame = av.VideoFrame(128, 64, "yuvj420p" if full_range else "yuv420p")
    frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
    chroma = planes[64:].reshape(32, 64, 2)
    for plane, values in zip(
        frame.planes, (planes[:64], chroma[..., 0], chroma[..., 1]), strict=True
    ):
        plane.update(np.ascontiguousarray(values))
    expected = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
    coding = Coding(frame.format.name, matrix, full_range)
    (found,) = rgb_of(torch.from_numpy(planes)[None], coding).numpy()
    # Beyond what 16 bits hold, FFmpeg stops at levels that are none; both are then black or white.
    np.testing.assert_array_equal(found, expected)


def test_a_decoder_that_gives_other_times_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    encode(path, coloured_frames(40), "libx264", bf="2")
    module = nvdec.library()
    expected = clips_of(path, "auto")
    given = module.DecodedFrame.getPTS
    monkeypatch.setattr(module.DecodedFrame, "getPTS", lambda frame: given(frame) + 512)
    found = clips_of(path, "nvdec")
    assert_same(found, expected)
    assert "not on the GPU" in found[0].flaws.notes[0]


@pytest.mark.parametrize("at", [0, 7])
def test_a_decoder_that_fails_on_the_way_is_left(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    encode(path, coloured_frames(40), "libx264")
    module = nvdec.library()
    expected, decode, calls = clips_of(path, "auto"), module.PyNvDecoder.Decode, []

    def fails(decoder: object, packet: object) -> object:
        calls.append(packet)
        if len(calls) > at:
            raise RuntimeError("CUDA error: out of memory")
        return decode(decoder, packet)

    monkeypatch.setattr(module.PyNvDecoder, "Decode", fails)
    for how in ({}, {"hop_seconds": 0.2}):
        calls.clear()
        found = clips_of(path, "nvdec", **how)
        assert_same(found, expected if not how else clips_of(path, "auto", **how))
        (note,) = found[-1].flaws.notes
        assert note.endswith(
            "not on the GPU: PyNvVideoCodec cannot decode it: CUDA error: out of memory"
        )


def test_a_frame_of_another_size_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    encode(path, coloured_frames(40), "libx264")
    expected = clips_of(path, "auto")
    planes_of = nvdec.library().nv12_of
    monkeypatch.setattr(nvdec.library(), "nv12_of", lambda frame: planes_of(frame)[:-3])
    found = clips_of(path, "nvdec")
    assert_same(found, expected)
    assert "a frame of it came as torch.uint8 (141, 128), not uint8" in found[0].flaws.notes[0]


def test_auto_takes_the_gpu_for_large_frames_only(tmp_path: Path) -> None:
    large, small = tmp_path / "large.mp4", tmp_path / "small.mp4"
    picture = np.zeros((1080, 1920, 3), np.uint8)
    encode(large, [picture] * 2, "libx264", preset="ultrafast")
    encode(small, coloured_frames(2), "libx264")
    assert VideoReader(large, large_on_gpu=True).decoder == "nvdec"
    assert VideoReader(large).decoder == "opencv"
    assert VideoReader(small, large_on_gpu=True).decoder == "opencv"
    assert VideoReader(large, decoder="pyav", large_on_gpu=True).decoder == "pyav"


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", None)
    nvdec._examined.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'stdeploy\[nvdec\]'"):
        libraries.decodes_on_gpu("nvdec")
    assert not libraries.decodes_on_gpu("auto")
    assert not libraries.decodes_on_gpu("opencv")


def test_without_a_driver_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError("Failed to open dynamic library: cuvid:\n libnvcuvid.so.1: no such file")

    monkeypatch.setattr(nvdec.library(), "GetDecoderCaps", fails)
    nvdec._examined.cache_clear()
    with pytest.raises(BackendError, match=r"libnvcuvid.*leave --reader out") as raised:
        libraries.decodes_on_gpu("nvdec")
    assert "\n" not in str(raised.value)
    assert not libraries.decodes_on_gpu("auto")


def test_what_the_gpu_decodes_is_told() -> None:
    found = nvdec.decodable()
    assert list(found)[:2] == ["H264", "HEVC"]
    assert "AV1" not in found
    assert found["H264"] == (4096, 4096)


def test_reading_on_the_cpu_loads_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode(path, coloured_frames(4), "libx264")
    code = (
        "import sys; from pathlib import Path; from stdeploy.video.clips import *;"
        f"read_views(Path({str(path)!r}), ClipSpec(num_frames=2), 1);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
