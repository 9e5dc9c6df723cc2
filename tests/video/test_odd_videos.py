"""Every odd file: OpenCV's frames against PyAV's, and both against what was written."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stdeploy.errors import MissingExtraError, VideoError
from stdeploy.video.decoder import DecoderName
from stdeploy.video.reader import VideoReader
from tests.helpers.odd_videos import ODD_VIDEOS, coloured_frames, encode, number_in

BLIND = {"interlaced.mpg": "is interlaced, which OpenCV cannot convert"}
FRAMES = {"truncated.ts": 26, "one-frame.mp4": 1}
TURNS = {"rotated-90.mp4": 1, "rotated-90.mkv": 1, "rotated-180.mp4": 2, "rotated-270.mov": 3}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("odd")

    def make(name: str) -> Path:
        if not (folder / name).exists():
            ODD_VIDEOS[name](folder / name)
        return folder / name

    return make


def every_frame(path: Path, decoder: DecoderName) -> tuple[np.ndarray, np.ndarray, str]:
    """Timestamps, frames and the library that decoded them."""
    reader = VideoReader(path, decoder=decoder)
    _, frames = reader.gather(lambda timing: np.arange(len(timing.timestamps)), lambda image: image)
    return reader.timing.timestamps, frames, reader.decoder


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_all_frames_come_in_order(odd: Callable[[str], Path], name: str) -> None:
    timestamps, frames, decoder = every_frame(odd(name), "auto")
    assert decoder == ("pyav" if name in BLIND else "opencv")
    assert len(frames) == FRAMES.get(name, 40)
    as_coded = np.rot90(frames, -TURNS.get(name, 0), axes=(1, 2))
    numbers = [number_in(frame) for frame in as_coded]
    assert numbers == list(range(len(frames)))
    assert timestamps[0] == 0
    assert (np.diff(timestamps) > 0).all()


@pytest.mark.parametrize("name", [name for name in ODD_VIDEOS if name not in BLIND])
def test_opencv_and_pyav_agree(odd: Callable[[str], Path], name: str) -> None:
    assert_alike(odd(name))


def assert_alike(path: Path) -> None:
    times, frames, _ = every_frame(path, "opencv")
    other_times, other_frames, _ = every_frame(path, "pyav")
    np.testing.assert_allclose(times, other_times, atol=1e-3)
    np.testing.assert_array_equal(frames, other_frames)


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_nothing_is_missing_from_an_odd_video(odd: Callable[[str], Path], name: str) -> None:
    for decoder in ("opencv", "pyav") if name not in BLIND else ("pyav",):
        assert damage(odd(name), decoder) == (None, None)


def damage(path: Path, decoder: DecoderName) -> tuple[float | None, float | None]:
    """After which second a video is damaged, by its index and once all of it is decoded."""
    reader = VideoReader(path, decoder=decoder)
    before = reader.damaged_after
    reader.scan()
    return before, reader.damaged_after


def test_timestamps_of_an_uneven_video_are_the_written_ones(odd: Callable[[str], Path]) -> None:
    steps = [33, 33, 50, 100, 17, 250, 40, 33] * 5
    written = np.cumsum([0, *steps[:-1]]) / 1000
    for decoder in ("opencv", "pyav"):
        for name in ("variable-rate.mp4", "variable-rate.mkv"):
            timestamps, *_ = every_frame(odd(name), decoder)
            np.testing.assert_allclose(timestamps, written, atol=1e-3)


def test_interlaced_video_is_refused_where_pyav_is_missing(
    odd: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "stdeploy.video.pyav", raising=False)
    with pytest.raises(VideoError, match=r"interlaced.*pip install 'stdeploy\[pyav\]'"):
        every_frame(odd("interlaced.mpg"), "auto")
    with pytest.raises(MissingExtraError, match=r"stdeploy\[pyav\]"):
        VideoReader(odd("h264.mp4"), decoder="pyav")


def test_a_still_video_is_no_interlaced_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "still.mkv"
    encode(path, coloured_frames(1) * 12, "ffv1")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "stdeploy.video.pyav", raising=False)
    _, frames, decoder = every_frame(path, "auto")
    assert decoder == "opencv"
    assert [number_in(frame) for frame in frames] == [0] * 12


def test_what_only_pyav_might_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all\n" * 50)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "stdeploy.video.pyav", raising=False)
    with pytest.raises(VideoError, match=r"plays elsewhere, PyAV may read it: pip install"):
        VideoReader(tmp_path / "a.mp4")


# Open groups of pictures: frames before a key frame that need frames before those.
LONG = {
    "h264.mp4": ("libx264", {"g": "30", "bf": "3", "x264_params": "open-gop=1"}),
    "hevc.mkv": ("libx265", {"x265_params": "keyint=30:open-gop=1:log-level=none"}),
    "mpeg2.ts": ("mpeg2video", {"g": "15", "bf": "2"}),
    "vp9.webm": ("libvpx-vp9", {"g": "30", "auto_alt_ref": "1", "lag_in_frames": "16"}),
    "mjpeg.avi": ("mjpeg", {"pixels": "yuvj420p"}),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("decoder", ["opencv", "pyav"])
def test_frames_that_are_sought_are_those_that_are_decoded_on_the_way(
    tmp_path: Path, name: str, decoder: DecoderName
) -> None:
    codec, options = LONG[name]
    encode(tmp_path / name, coloured_frames(250) + coloured_frames(250), codec, **options)
    _, frames, _ = every_frame(tmp_path / name, decoder)
    for wanted in ([470], [180, 181, 420, 421], [2, 499], [239, 240, 241, 242]):
        reader = VideoReader(tmp_path / name, decoder=decoder)
        _, gathered = reader.gather(lambda _timing, w=wanted: np.array(w), lambda image: image)
        np.testing.assert_array_equal(gathered, frames[wanted])


SHARED_SILENT = {"empty.flv", "nasa_13013.mp4.audio.mp3"}


def test_shared_videos_are_alike_in_opencv_and_pyav(shared_videos: Path) -> None:
    for path in sorted(shared_videos.iterdir()):
        if path.name in SHARED_SILENT:
            for decoder in ("opencv", "pyav"):
                with pytest.raises(VideoError, match="is no video that can be read here"):
                    VideoReader(path, decoder=decoder)
        elif path.is_file() and path.name not in SHARED_LOST:
            assert_alike(path)


# FFmpeg conceals what a damaged frame lacks, not twice in the same way, so pixels tell nothing.
SHARED_LOST = {"corrupted.mp4": 1}


@pytest.mark.parametrize("decoder", ["opencv", "pyav"])
def test_shared_videos_are_whole_but_one(shared_videos: Path, decoder: DecoderName) -> None:
    for path in sorted(shared_videos.iterdir()):
        if path.is_file() and path.name not in SHARED_SILENT:
            reader = VideoReader(path, decoder=decoder)
            reader.scan()
            assert reader.damaged_after is None
            assert (reader.flaws.lost_frames, path.name) == (
                SHARED_LOST.get(path.name, 0),
                path.name,
            )
