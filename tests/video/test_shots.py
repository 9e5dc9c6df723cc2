import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import VideoError
from stdeploy.video.clips import ClipRequest, read_clips
from stdeploy.video.decoder import IndexMisleadsError
from stdeploy.video.reader import VideoReader
from stdeploy.video.sampling import chunk_times, frames_at, window_times
from stdeploy.video.shots import ShotWindow, Shown, looked_at, mark_cuts, shrink, slide_in_shots
from stdeploy.video.timing import Timing
from stdeploy.video.transform import Image
from tests.helpers.scenes import mixed, scene
from tests.helpers.videos import write_video

# Frames 0.2 s apart, 0.6 s from the first to the last.
CLIP = ClipSpec(num_frames=4, frame_stride=2, fps=10.0, short_side_px=8, crop_px=8)
FPS = 10.0


class Frame(np.ndarray):
    """An array that can be referred to weakly."""


def shown(
    lengths: list[int], timing: Timing, alive: list[weakref.ref] | None = None, speed: float = 1.0
) -> Iterator[Shown]:
    """Scenes of so many frames each, one after the other; frames hold their number."""
    pictures = [p for seed, n in enumerate(lengths) for p in scene(seed, n, speed=speed)]
    for number in looked_at(timing, 0.0):
        frame = np.full((1, 1, 3), number % 256, np.uint8).view(Frame)
        if alive is not None:
            alive.append(weakref.ref(frame))
        yield Shown(number, float(timing.timestamps[number]), shrink(pictures[number]), frame)


def windows(
    lengths: list[int],
    hop: float = 0.4,
    *,
    short_video: str = "hold",
    shortest: float | None = None,
    fps: float = FPS,
) -> list[ShotWindow]:
    timing = Timing(np.arange(sum(lengths)) / fps, fps)
    clip = CLIP.model_copy(update={"short_video": short_video})
    return list(
        slide_in_shots(
            shown(lengths, timing),
            timing,
            clip,
            lambda seconds: window_times(seconds, clip, hop),
            shortest=hop if shortest is None else shortest,
        )
    )


def told(found: list[ShotWindow]) -> list[tuple[float, list[int]]]:
    for window in found:
        assert window.frames[:, 0, 0, 0].tolist() == window.numbers.tolist()
    return [(round(window.shot_seconds, 6), window.numbers.tolist()) for window in found]


def test_windows_lie_on_the_sides_of_cuts() -> None:
    assert told(windows([13, 12])) == [
        (0.0, [0, 2, 4, 6]),
        (0.0, [4, 6, 8, 10]),
        (1.3, [13, 15, 17, 19]),
        (1.3, [17, 19, 21, 23]),
    ]


@pytest.mark.parametrize("hop", [0.05, 0.13, 0.35, 1.7])
def test_a_video_of_one_shot_has_the_windows_that_it_has_without(hop: float) -> None:
    timing = Timing(np.arange(60) / FPS, FPS)
    expected = [
        frames_at(timing.timestamps, times).tolist()
        for times in window_times(timing.duration, CLIP, hop)
    ]
    assert told(windows([60], hop)) == [(0.0, numbers) for numbers in expected]


@pytest.mark.parametrize(
    ("short_video", "numbers"),
    [("hold", [12, 14, 16, 16]), ("loop", [12, 14, 16, 13]), ("stretch", [12, 13, 15, 16])],
)
def test_a_shot_that_is_shorter_than_a_clip_gets_what_a_short_video_gets(
    short_video: str, numbers: list[int]
) -> None:
    found = told(windows([12, 5, 12], short_video=short_video))
    assert (1.2, numbers) in found
    assert [shot for shot, _ in found] == [0.0, 0.0, 1.2, 1.7, 1.7]


def test_a_last_shot_that_is_shorter_than_a_clip_gets_that_too() -> None:
    assert told(windows([12, 5]))[-1] == (1.2, [12, 14, 16, 16])


def test_shots_are_joined_until_they_hold_a_clip_where_nothing_may_be_made_up() -> None:
    found = told(windows([12, 5, 12], short_video="error"))
    assert found[2] == (1.2, [12, 14, 16, 18])
    assert {shot for shot, _ in found} == {0.0, 1.2}
    assert {shot for shot, _ in told(windows([12, 5], short_video="error"))} == {0.0}
    with pytest.raises(VideoError, match=r"is 0\.50 s long, but a clip spans 0\.60 s"):
        windows([5], short_video="error")


def test_shots_that_are_shorter_than_a_hop_are_joined_to_the_one_after() -> None:
    assert {shot for shot, _ in told(windows([12, 5, 12], 0.6))} == {0.0, 1.2}
    assert {shot for shot, _ in told(windows([12, 5, 12], 0.6, shortest=0.1))} == {0.0, 1.2, 1.7}


def test_frames_are_held_no_longer_than_windows_want_them() -> None:
    alive: list[weakref.ref] = []
    timing = Timing(np.arange(300) / FPS, FPS)
    pictures = shown([300], timing, alive, speed=0.2)
    found = slide_in_shots(
        pictures, timing, CLIP, lambda seconds: window_times(seconds, CLIP, 0.4), shortest=0.4
    )
    seen = [sum(reference() is not None for reference in alive) for _ in found]
    assert len(seen) == 74
    assert max(seen) <= 16  # a clip of 7 frames, and a quarter of a second before and after


def test_all_frames_at_the_interval_of_a_clip_begin_anew_at_a_cut() -> None:
    timing = Timing(np.arange(26) / FPS, FPS)
    found = slide_in_shots(
        shown([13, 13], timing),
        timing,
        CLIP,
        lambda seconds: chunk_times(seconds, CLIP, 1),
        shortest=0.4,
    )
    assert [int(window.numbers[0]) for window in found] == [*range(0, 13, 2), *range(13, 26, 2)]


def test_no_more_than_sixty_frames_a_second_are_looked_at() -> None:
    timing = Timing(np.arange(1000) / 1000, 1000.0)
    numbers = list(looked_at(timing, 0.0))
    assert 55 <= len(numbers) <= 64
    sixty = Timing(np.arange(120) / 60, 60.0)
    assert list(looked_at(sixty, 0.0)) == list(range(120))
    assert next(looked_at(sixty, 0.5)) == 30


def test_windows_of_fast_videos_lie_on_the_sides_of_cuts_too() -> None:
    found = windows([240, 240], 0.4, fps=240.0)
    assert {round(window.shot_seconds, 2) for window in found} == {0.0, 1.0}
    for window in found:
        assert (window.numbers < 240).all() or (window.numbers >= 240).all()


@pytest.mark.parametrize("how", [{"hop_seconds": 0.4, "group": 2}, {"chunk_frames": 3}])
def test_reading_goes_on_with_the_shot_under_way_where_packets_have_misled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, object]
) -> None:
    pictures = scene(0, 23) + scene(1, 30) + scene(2, 22)
    video = write_video(tmp_path / "a.mkv", pictures, FPS, codec="FFV1")
    request = ClipRequest.parse({"clip": CLIP, "shortest_shot_seconds": 0.4} | how)
    expected = list(read_clips(video, request))
    assert {round(float(clips.shots_seconds[0]), 6) for clips in expected} == {0.0, 2.3, 5.3}
    pictures_of, misled = VideoReader.pictures, []

    def mislead_once(reader: VideoReader, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        for count, image in enumerate(pictures_of(reader, numbers)):
            if count == 48 and not misled:
                misled.append(count)
                raise IndexMisleadsError
            yield image

    monkeypatch.setattr(VideoReader, "pictures", mislead_once)
    found = list(read_clips(video, request))
    assert misled
    for name in ("frames", "times_seconds"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(clips, name)[0] for clips in found]),
            np.concatenate([getattr(clips, name)[0] for clips in expected]),
        )


WHITE = np.full((72, 128, 3), 255, np.uint8)
BLACK = np.zeros((72, 128, 3), np.uint8)


def pictures_shown(pictures: list[Image], fps: float = 25.0) -> Iterator[Shown]:
    for number, picture in enumerate(pictures):
        yield Shown(number, number / fps, shrink(picture), picture)


def cuts(pictures: list[Image], fps: float = 25.0) -> list[int]:
    return [picture.number for picture, cut in mark_cuts(pictures_shown(pictures, fps)) if cut]


@pytest.mark.parametrize("fps", [1.0, 10.0, 25.0, 60.0])
def test_a_cut_is_found_at_its_frame(fps: float) -> None:
    spliced = scene(1, 30) + scene(2, 25) + scene(3, 30)
    assert cuts(spliced, fps) == [30, 55]


def test_a_cut_to_black_is_found() -> None:
    assert cuts(scene(1, 20) + [BLACK] * 20) == [20]


def test_a_cut_next_to_the_beginning_and_the_end_is_found() -> None:
    assert cuts(scene(1, 2) + scene(2, 30)) == [2]
    assert cuts(scene(1, 30) + scene(2, 2)) == [30]


def test_a_still_or_moving_scene_has_no_cut() -> None:
    assert cuts(scene(1, 1) * 40) == []
    assert cuts(scene(1, 60, speed=3.0)) == []


@pytest.mark.parametrize("light", [[1.0], [1.0, 1.0], [1.0, 0.6, 0.35, 0.2, 0.1], [1, 0, 1, 0, 1]])
def test_a_flash_is_no_cut(light: list[float]) -> None:
    pictures = scene(1, 60)
    for number, strength in enumerate(light, start=30):
        pictures[number] = mixed(pictures[number], WHITE, 0.8 * strength)
    assert cuts(pictures) == []


def test_lights_that_go_on_or_off_are_no_cut() -> None:
    pictures = scene(1, 60)
    dim = [mixed(picture, BLACK, 0.65) for picture in pictures]
    assert cuts(dim[:30] + pictures[30:]) == []
    assert cuts(pictures[:30] + dim[30:]) == []


@pytest.mark.parametrize("length", [4, 8, 15])
def test_a_fade_is_no_cut(length: int) -> None:
    old, new = scene(1, 60), scene(2, 60)
    shares = np.clip((np.arange(60) - 30) / (length + 1), 0, 1)
    faded = [mixed(a, b, s) for a, b, s in zip(old, new, shares, strict=True)]
    assert cuts(faded) == []


@pytest.mark.parametrize("length", [4, 10, 20])
def test_a_fast_pan_is_no_cut(length: int) -> None:
    wide = np.concatenate([scene(1, 1)[0], scene(2, 1)[0]], axis=1)
    places = np.clip((np.arange(60) - 20) / length, 0, 1) * 128
    assert cuts([np.ascontiguousarray(wide[:, int(x) : int(x) + 128]) for x in places]) == []


def test_frames_that_are_shown_several_times_are_no_cuts() -> None:
    moving = scene(1, 25, speed=4.0)
    assert cuts([picture for picture in moving for _ in range(3)]) == []


def test_a_picture_is_given_a_quarter_of_a_second_after_it_came() -> None:
    taken = 0

    def counted() -> Iterator[Shown]:
        nonlocal taken
        for picture in pictures_shown(scene(1, 200), 40.0):
            taken += 1
            yield picture

    ahead = [taken - picture.number for picture, _ in mark_cuts(counted())]
    assert max(ahead) == 12  # 11 after it, the first of which is more than 0.25 s later
