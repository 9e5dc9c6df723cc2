"""What people look at: timelines as pictures, labels on videos, tables."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stdeploy.cli.formatters import clock
from stdeploy.inference.timeline import Timeline, TimelineMaker, TimelineOptions
from stdeploy.plotting import overlay
from stdeploy.plotting.overlay import write_with_labels
from stdeploy.plotting.timeline_plot import draw_timeline, ticks_seconds
from stdeploy.video.reader import VideoReader
from tests.helpers.odd_videos import coloured_frames, encode

LABELS = ("up", "down", "never high")


def timeline_of(scores: list[list[float]]) -> Timeline:
    options = TimelineOptions()
    maker = TimelineMaker(2.0, options, LABELS)
    for row in scores:
        maker.add(np.array(row))
    cells, segments = maker.finish(len(scores) + 1.0)
    return Timeline(
        video="a$b.mp4",
        labels=LABELS,
        duration_seconds=len(scores) + 1.0,
        options=options,
        cells=cells,
        segments=segments,
        how="windows",
        device="here",
        artifact_sha256="00",
    )


def words_of(path: Path) -> list[str]:
    """The texts of an .svg, which matplotlib names in comments."""
    lines = path.read_text().splitlines()
    return [line.strip()[5:-4] for line in lines if line.strip().startswith("<!-- ")]


def test_labels_that_never_begin_have_a_key_but_no_row(tmp_path: Path) -> None:
    high, low = [0.9, 0.05, 0.05], [0.3, 0.25, 0.45]
    draw_timeline(timeline_of([high] * 5 + [low] * 5), tmp_path / "a.svg")
    words = words_of(tmp_path / "a.svg")
    assert words.count("up") == 1
    assert words.count("never high") == 1
    assert words[words.index("never high") - 1] == "below 0.5 all the time"
    assert {"0:00", "0:02", "0:10", "time, m:ss", "score", "a$b.mp4"} <= set(words)


def test_a_timeline_without_segments_is_drawn(tmp_path: Path) -> None:
    draw_timeline(timeline_of([[0.3, 0.25, 0.45], [0.4, 0.35, 0.25]]), tmp_path / "a.svg")
    assert {"up", "never high", "below 0.5 all the time"} <= set(words_of(tmp_path / "a.svg"))


def ink(path: Path) -> int:
    """Pixels of a picture in the colour of the first label."""
    blue, green, red, opaque = np.moveaxis(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), 2, 0)
    return int(((blue > 200) & (red < 120) & (green < 180) & (opaque > 100)).sum())


def test_an_hour_is_no_fence(tmp_path: Path) -> None:
    flicker = [[0.45, 0.0, 0.0], [0.05, 0.0, 0.0]]
    draw_timeline(timeline_of(flicker * 100), tmp_path / "minutes.png")
    draw_timeline(timeline_of(flicker * 2000), tmp_path / "hour.png")
    assert ink(tmp_path / "hour.png") * 5 < ink(tmp_path / "minutes.png")
    draw_timeline(timeline_of(flicker * 2000), tmp_path / "hour.svg")
    assert {"mean of 27 windows", "1:00:00", "time, h:mm:ss"} <= set(
        words_of(tmp_path / "hour.svg")
    )


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.5, [0]),
        (3.5, [0, 1, 2, 3]),
        (57.0, [0, 10, 20, 30, 40, 50]),
        (3606.0, [0, 600, 1200, 1800, 2400, 3000, 3600]),
    ],
)
def test_ticks_are_round(duration: float, expected: list[int]) -> None:
    assert ticks_seconds(duration) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0:00.0"), (62.46, "1:02.5"), (3599.97, "1:00:00"), (3723.4, "1:02:03")],
)
def test_hours_have_a_place_of_their_own(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


@pytest.mark.parametrize("width", [60, 150, 300, 10_000])
def test_long_labels_are_cut_to_their_room(width: int) -> None:
    label = "using remote controller (not gaming)"
    text = overlay.fitted("0.93  ", label, width, 0.62, 1)
    assert text.startswith("0.93  ")
    size = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.62, 1)[0][0]
    assert size <= max(width, 100)  # the score is never left out
    assert (text == f"0.93  {label}") == (width == 10_000)
    assert text.endswith("...") == (width != 10_000)


@pytest.fixture
def without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)


def drawn(tmp_path: Path, lines: list[tuple[str, float]]) -> Path:
    source, written = tmp_path / "a.mkv", tmp_path / "a.mp4"
    if not source.exists():
        encode(source, coloured_frames(20), "libx264")
    write_with_labels(source, lambda _: lines, written, decoder="opencv")
    return written


def codec_of(path: Path) -> str:
    capture = cv2.VideoCapture(str(path))
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    capture.release()
    return code


def test_a_labelled_video_is_one_for_browsers(tmp_path: Path) -> None:
    written = drawn(tmp_path, [("up", 0.5)])
    assert codec_of(written) in ("h264", "avc1")
    content = written.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert VideoReader(written).timing.duration == pytest.approx(0.8)


def test_without_pyav_a_labelled_video_is_mpeg_4(tmp_path: Path, without_pyav: None) -> None:
    written = drawn(tmp_path, [("up", 0.5)])
    assert codec_of(written) in ("mp4v", "FMP4")
    assert len(VideoReader(written).timing.timestamps) == 20


@pytest.mark.parametrize(
    ("size", "of_picture", "row_px"),
    [
        ((320, 240), (320, 240), 18),
        ((270, 480), (270, 480), 18),
        ((97, 65), (96, 64), 18),
        ((1920, 1080), (1280, 720), 40),
    ],
)
def test_labels_stand_below_a_picture_that_stays_whole(
    tmp_path: Path, size: tuple[int, int], of_picture: tuple[int, int], row_px: int
) -> None:
    source, written = tmp_path / "a.mkv", tmp_path / "a.mp4"
    across = np.linspace(40, 200, size[0])[None, :, None]
    frame = np.broadcast_to(across, (size[1], size[0], 3)).astype(np.uint8)
    edge = size[1] // 10
    frame[:edge, ::2] = frame[-edge:, ::2] = 250  # as a camera writes the time
    encode(source, [frame] * 3, "libx264", pixels="yuv444p")
    lines = [("a label that is far too long for its line " * 3, 0.75), ("down", 0.0)]
    write_with_labels(source, lambda _: lines, written)
    (image,) = VideoReader(written).gather(lambda _timing: np.array([1]), lambda image: image)[1]
    picture, strip = image[: -2 * row_px].astype(int), image[-2 * row_px :]
    assert picture.shape == (*of_picture[::-1], 3)
    whole = cv2.resize(frame, of_picture, interpolation=cv2.INTER_AREA)
    assert np.abs(picture - whole).mean(axis=(1, 2)).max() < 16
    filled = strip[2, :, 0] > 80  # above the letters
    assert filled.sum() == pytest.approx(0.75 * len(filled), abs=8)
    ink = (strip.min(axis=2) > 160).reshape(2, row_px, -1).any(axis=1)
    assert ink[:, : 4 * row_px].sum(axis=1).min() > row_px / 2
    assert not ink[:, -row_px // 5 :].any()  # cut, not run over the edge
