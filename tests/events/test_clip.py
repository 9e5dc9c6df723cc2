"""Videos around events, of frames that are kept as they come."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from stdeploy.events.clip import ClipSettings, clip_name, write_clip
from stdeploy.events.event import Event, Moment
from tests.events.feeding import answer, pipeline
from tests.helpers.full_disk import files_of_at_most
from tests.helpers.receivers import until
from tests.helpers.videos import number_of, numbered_frames

av = pytest.importorskip("av")

EVENT = Event(
    kind="start",
    event="0123456789ab",
    rule="a fight?",
    source="front door/1",
    labels=("fight",),
    start=Moment(4.0, 1_800_000_000.0),
    peak=Moment(4.0, 1_800_000_000.0),
    peak_score=0.9,
    mean_score=0.9,
    answers=1,
)
PICTURES = numbered_frames(256)


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


JPEGS = [jpeg(picture) for picture in PICTURES]


def frames_of(path: Path) -> list[tuple[float, int]]:
    """Times and numbers of the frames of a file."""
    with av.open(str(path)) as container:
        return [
            (round(frame.time, 3), number_of(frame.to_ndarray(format="bgr24")))
            for frame in container.decode(video=0)
        ]


def play(events, *, first: int, last: int, score: float, source: str = "door") -> None:
    """Ten frames a second, frame n at n / 10 s, with an answer at each second."""
    for number in range(first, last):
        events.tap(source, JPEGS[number], number / 10)
        if number % 10 == 0:
            events.take(answer(number / 10, score, source))


def clip(**fields: object) -> dict:
    return {"kind": "clip", "before_seconds": 1.0, "after_seconds": 0.5, **fields}


def written(folder: Path) -> list[Path]:
    return sorted((folder / "clips").glob("*.mp4"))


def test_a_clip_begins_before_the_event_and_ends_after_it(tmp_path: Path) -> None:
    with pipeline(tmp_path, clip()) as events:
        play(events, first=0, last=40, score=0.1)
        play(events, first=40, last=60, score=0.9)
        play(events, first=60, last=80, score=0.1)
        until(lambda: events.counts().sinks["clip"].delivered == 1)
    (file,) = written(tmp_path)
    assert frames_of(file) == [((n - 30) / 10, n) for n in range(30, 66)]
    with av.open(str(file)) as container:
        comment = json.loads(container.metadata["comment"])
    assert (comment["source"], comment["kind"], comment["end_seconds"]) == ("door", "end", 6.0)
    assert file.name == f"door_fight_20270115T080004.000Z_{comment['event'][:8]}.mp4"


def test_events_of_two_sources_at_once_have_each_their_frames(tmp_path: Path) -> None:
    with pipeline(tmp_path, clip()) as events:
        for first, score in ((0, 0.1), (10, 0.1), (20, 0.9), (30, 0.1), (40, 0.1)):
            play(events, first=first, last=first + 10, score=score)
            play(events, first=100 + first, last=110 + first, score=score, source="yard")
        until(lambda: events.counts().sinks["clip"].delivered == 2)
    door, yard = written(tmp_path)
    assert [number for _, number in frames_of(door)] == list(range(10, 36))
    assert [number for _, number in frames_of(yard)] == list(range(110, 136))


def test_an_event_without_end_is_cut_off(tmp_path: Path) -> None:
    with pipeline(tmp_path, clip(longest_seconds=3.0)) as events:
        play(events, first=0, last=20, score=0.1)
        play(events, first=20, last=80, score=0.9)
        until(lambda: events.counts().sinks["clip"].delivered == 1)
    (file,) = written(tmp_path)
    assert [number for _, number in frames_of(file)] == list(range(10, 41))


def test_a_source_that_breaks_off_ends_the_clip_at_once(tmp_path: Path) -> None:
    with pipeline(tmp_path, clip()) as events:
        play(events, first=0, last=25, score=0.9)
        events.source_stopped("door", "source_broke_off")
        until(lambda: events.counts().sinks["clip"].delivered == 1, seconds=5)
    (file,) = written(tmp_path)
    assert [number for _, number in frames_of(file)] == list(range(25))


@pytest.mark.parametrize("stops", [True, False])
def test_frames_that_came_before_the_end_was_known_are_left_out(
    tmp_path: Path, *, stops: bool
) -> None:
    with pipeline(tmp_path, clip()) as events:
        play(events, first=0, last=21, score=0.9)
        for number in range(21, 70):  # without answers
            events.tap("door", JPEGS[number], number / 10)
        if stops:
            events.source_stopped("door", "source_ended")
        else:
            events.take(answer(2.2, 0.1, "door"))
        until(lambda: events.counts().sinks["clip"].delivered == 1)
    (file,) = written(tmp_path)
    assert [number for _, number in frames_of(file)] == list(range(26 if stops else 28))


def test_a_clock_that_goes_back_does_not_mix_frames(tmp_path: Path) -> None:
    with pipeline(tmp_path, clip()) as events:
        play(events, first=100, last=125, score=0.9)
        play(events, first=0, last=5, score=0.1)
    (file,) = written(tmp_path)
    assert [number for _, number in frames_of(file)] == list(range(100, 125))


def test_the_end_of_the_program_writes_what_there_is(tmp_path: Path) -> None:
    with pipeline(tmp_path, clip()) as events:
        play(events, first=0, last=25, score=0.9)
    (file,) = written(tmp_path)
    assert len(frames_of(file)) == 25


def test_frames_are_thinned_out(tmp_path: Path) -> None:
    with pipeline(tmp_path, clip(fps=5)) as events:
        assert (events.frames_wanted.fps, events.frames_wanted.longest_px) == (5, 640)
        play(events, first=0, last=25, score=0.9)
    (file,) = written(tmp_path)
    assert [number for _, number in frames_of(file)] == list(range(0, 25, 2))


def test_a_source_keeps_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    settings = ClipSettings.parse({"buffer_bytes": 2**20, "folder": tmp_path, "fps": 100})
    recorder = settings.open("clip", least_seconds=0.0, report=lambda _: None)
    big = bytes(100_000)
    for number in range(100):
        recorder.tap("door", big, number / 100)
    assert recorder._sources["door"].size == 1_000_000
    assert len(recorder._sources["door"].ring) == 10
    recorder.close()


def test_only_sources_of_a_rule_are_kept(tmp_path: Path) -> None:
    rules = [{"name": "fight", "labels": "fight", "on": 0.8, "sources": "yard"}]
    with pipeline(tmp_path, clip(), rules=rules) as events:
        play(events, first=0, last=5, score=0.9)
        play(events, first=0, last=5, score=0.9, source="yard")
        assert list(events._recorders["clip"]._sources) == ["yard"]


def test_the_oldest_clips_make_room_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "holiday.mp4").write_bytes(bytes(3 * 2**20))
    names = [f"door_fight_20270115T08000{n}.000Z_0123456{n}.mp4" for n in range(4)]
    for name in names:
        (folder / name).write_bytes(bytes(2**20))
    sizes = {"max_folder_bytes": 3 * 2**20, "max_clip_bytes": 2**20}
    with pipeline(tmp_path, clip(**sizes)) as events:
        play(events, first=0, last=25, score=0.9)
    left = {path.name for path in folder.iterdir()}
    assert {"holiday.mp4", *names[2:]} < left
    assert len(left) == 4


def test_a_file_is_no_larger_than_allowed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    frames = [(n / 10, jpeg(np.roll(noise, 7 * n * n, axis=1))) for n in range(40)]
    whole, short = tmp_path / "whole.mp4", tmp_path / "short.mp4"
    assert write_clip(whole, frames, EVENT, longest_px=640, max_bytes=10**9) == 40
    count = write_clip(short, frames, EVENT, longest_px=640, max_bytes=500_000)
    assert whole.stat().st_size > 800_000
    assert 250_000 < short.stat().st_size < 500_000
    assert len(frames_of(short)) == count


def test_large_and_odd_frames_are_made_smaller_and_even(tmp_path: Path) -> None:
    big = jpeg(np.zeros((301, 1001, 3), np.uint8))
    other = jpeg(np.zeros((100, 100, 3), np.uint8))  # a camera that changes its size
    file = tmp_path / "a.mp4"
    frames = [(0, big), (1, other), (2, big)]
    assert write_clip(file, frames, EVENT, longest_px=640, max_bytes=10**7) == 2
    with av.open(str(file)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (640, 192)


def test_a_full_disk_leaves_no_half_a_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    frame = jpeg(noise)
    told: list[str] = []
    with pipeline(tmp_path, clip(), report=told.append) as events, files_of_at_most(40_000):
        for number in range(20):
            events.tap("door", frame, number / 10)
        events.take(answer(1.0, 0.9))
        events.source_stopped("door", "source_ended")
        until(lambda: events.counts().sinks["clip"].dropped == 1)
        assert events.counts().sinks["clip"].retried == 2
    assert list((tmp_path / "clips").iterdir()) == []
    assert any("sink 'clip': no video of an event: " in text for text in told)


def test_an_event_without_frames_has_no_video(tmp_path: Path) -> None:
    told: list[str] = []
    with pipeline(tmp_path, clip(), report=told.append) as events:
        events.take(answer(0.0, 0.9))
        events.take(answer(1.0, 0.1))
        events.source_stopped("door", "source_ended")
    assert events.counts().sinks["clip"].dropped == 1
    assert "there is no frame for 'door_fight_" in told[0]


def test_the_name_of_a_file_is_made_of_harmless_signs() -> None:
    assert clip_name(EVENT) == "front-door-1_a-fight_20270115T080000.000Z_01234567.mp4"
