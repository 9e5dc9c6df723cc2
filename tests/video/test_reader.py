import os
from pathlib import Path

import numpy as np
import pytest

from stdeploy.errors import VideoError
from stdeploy.video.reader import VideoReader
from stdeploy.video.timing import Timing
from tests.helpers.videos import number_of, numbered_frames, set_rotation, write_video


def same(image: np.ndarray) -> np.ndarray:
    return image


def gather(reader: VideoReader, numbers: np.ndarray) -> np.ndarray:
    return reader.gather(lambda _timing: numbers, same)[1]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.webm", "VP80")]
)
def test_every_frame_comes_with_its_timestamp(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, numbered_frames(12), fps=10.0, codec=codec)
    reader = VideoReader(path)
    np.testing.assert_allclose(reader.timing.timestamps, np.arange(12) / 10, atol=1e-3)
    assert reader.timing.fps == pytest.approx(10.0, rel=0.01)
    frames = gather(reader, np.arange(12))
    assert [number_of(frame) for frame in frames] == list(range(12))


def test_gather_keeps_shape_order_and_repeats(tmp_path: Path) -> None:
    reader = VideoReader(write_video(tmp_path / "a.mp4", numbered_frames(12)))
    wanted = np.array([[7, 2, 2], [11, 0, 7]])
    frames = gather(reader, wanted)
    assert frames.shape == (2, 3, 48, 64, 3)
    assert [[number_of(frame) for frame in row] for row in frames] == wanted.tolist()


def test_only_wanted_frames_are_prepared(tmp_path: Path) -> None:
    reader = VideoReader(write_video(tmp_path / "a.mp4", numbered_frames(12)))
    seen = []
    reader.gather(
        lambda _timing: np.array([3, 9, 3]), lambda image: seen.append(number_of(image)) or image
    )
    assert seen == [3, 9]


@pytest.mark.parametrize(
    ("degrees", "shape", "red_at"),
    [  # where the red top of the coded frame goes, as (row, column) fractions
        (0, (48, 64, 3), (0.1, 0.5)),
        (90, (64, 48, 3), (0.5, 0.9)),
        (180, (48, 64, 3), (0.9, 0.5)),
        (270, (64, 48, 3), (0.5, 0.1)),
    ],
)
def test_frames_are_upright_whatever_the_rotation_tag(
    tmp_path: Path, degrees: int, shape: tuple[int, ...], red_at: tuple[float, float]
) -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:16] = (0, 0, 255)
    path = write_video(tmp_path / "a.mp4", [frame] * 3)
    set_rotation(path, degrees)
    reader = VideoReader(path)
    upright = gather(reader, np.array([1]))[0]
    assert upright.shape == shape
    assert reader.frame_shape == shape[:2]
    row, column = (int(f * size) for f, size in zip(red_at, shape, strict=False))
    assert upright[row, column, 2] > 200
    assert upright[shape[0] // 2, shape[1] // 2, 2] < 100


def test_a_truncated_video_gives_the_frames_that_are_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", numbered_frames(40), codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = VideoReader(path)
    numbers, frames = reader.gather(lambda timing: np.arange(len(timing.timestamps)), same)
    assert 5 < len(numbers) < 35
    assert [number_of(frame) for frame in frames[:5]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"no video at all\n" * 50, "is no video that can be read here"),
        (bytes(5000), "is no video that can be read here"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=message):
        VideoReader(tmp_path / "a.mp4")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="is a folder"):
        VideoReader(tmp_path)


@pytest.mark.parametrize("name", ["10:30.mp4", "file:a.mp4", "Ж 视频 [1].mp4", "%03d.mp4", "-.mp4"])
def test_odd_names_are_files_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_video(tmp_path / "plain.mp4", numbered_frames(5)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(VideoReader(Path(name)).timing.timestamps) == 5


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    write_video(tmp_path / "plain.mp4", numbered_frames(5)).rename(os.fsdecode(raw))
    with pytest.raises(VideoError, match="no UTF-8; rename"):
        VideoReader(Path(os.fsdecode(raw)))


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"cannot be read: File name too long|does not exist"):
        VideoReader(tmp_path / ("x" * 300 + ".mp4"))


def test_a_list_of_other_files_is_not_followed(tmp_path: Path) -> None:
    secret = write_video(tmp_path / "secret.mp4", numbered_frames(5))
    for name, text in (
        ("a.mp4", f"ffconcat version 1.0\nfile {secret.name}\n"),
        ("b.mp4", f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="is no video"):
            VideoReader(tmp_path / name)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ([5.0, 5.1, 5.2], [0, 0.1, 0.2]),  # a start that is not 0
        ([0.2, 0.3, 0.4, 0.0], [0, 0.1, 0.2, 0.3]),  # the last one left out
        ([0.0, 0.0, 0.0], [0, 0.04, 0.08]),  # none at all: the announced rate
        ([0.0, 0.1, 0.1, 0.3, 0.4, 0.5], [0, 0.1, 0.10001, 0.3, 0.4, 0.5]),  # two alike
        ([1.0], [0]),
        # one frame stamped hours ahead; a stream that was joined; both fall into place
        ([0.0, 0.1, 3600.0, 0.3, 0.4], [0, 0.1, 0.2, 0.3, 0.4]),
        ([0.0, 0.1, 95443.7, 95443.8, 95444.0], [0, 0.1, 0.2, 0.3, 0.5]),
        ([9000.0, 9000.1, 0.0, 0.1], [0, 0.1, 0.2, 0.3]),
        ([0.0, 0.1, 60.0, 60.1], [0, 0.1, 60.0, 60.1]),  # a long still picture is no leap
    ],
)
def test_timestamps_are_made_to_ascend_from_zero(raw: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(Timing.of(np.array(raw), 25.0).timestamps, expected, atol=1e-12)


# Frames that FFmpeg's own tools decode; headers announce 444, -1, 73, 75, 50 and 37 for some.
FRAMES_OF_SHARED_VIDEOS = {
    "R6llTwEh07w.mp4": (303, (256, 340)),
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi": (72, (240, 560)),
    "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi": (74, (240, 320)),
    "av1_video.mkv": (125, (360, 640)),
    "awesome_movie.mov": (123, (480, 640)),
    "basketball.mp4": (333, (360, 640)),
    "corrupted.mp4": (49, (720, 1280)),
    "demo.mp4": (280, (256, 340)),
    "h265_10bits.mp4": (30, (200, 200)),
    "nasa_13013_rotated.mp4": (17, (480, 270)),
    "testsrc2_mpeg4.mp4": (1, (64, 64)),
    "testsrc2_odd_height_and_width_444.mp4": (25, (241, 321)),
    "testsrc2_vp9.webm": (30, (720, 1280)),
    "torchcodec__test_non_zero_start.mp4": (12, (112, 200)),
    "transparent.webm": (150, (200, 200)),
    "v_SoccerJuggling_g23_c01.avi": (240, (240, 320)),
    "weird_aspect.small.mpg": (36, (288, 352)),
}


@pytest.mark.parametrize("name", FRAMES_OF_SHARED_VIDEOS)
def test_odd_videos_give_all_their_frames(shared_videos: Path, name: str) -> None:
    count, size = FRAMES_OF_SHARED_VIDEOS[name]
    reader = VideoReader(shared_videos / name)
    reader.scan()
    assert len(reader.timing.timestamps) == count
    assert reader.timing.timestamps[0] == 0
    assert (np.diff(reader.timing.timestamps) > 0).all()
    assert gather(reader, np.array([0, count - 1])).shape == (2, *size, 3)


@pytest.mark.parametrize("name", ["empty.flv", "nasa_13013.mp4.audio.mp3"])
def test_files_without_a_picture_are_refused(shared_videos: Path, name: str) -> None:
    with pytest.raises(VideoError, match="is no video that can be read here"):
        VideoReader(shared_videos / name)
