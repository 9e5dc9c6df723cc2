from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import VideoError
from stdeploy.video.sampling import (
    chunk_times,
    frames_at,
    frames_past_end,
    slide,
    view_times,
    window_times,
)
from stdeploy.video.timing import Timing

FOUR = ClipSpec(num_frames=4, frame_stride=2, fps=10.0, short_side_px=8, crop_px=8)


def constant(num_frames: int, fps: float) -> np.ndarray:
    return np.arange(num_frames) / fps


def chosen(timestamps: np.ndarray, clip: ClipSpec, views: int = 1, fps: float = 10.0) -> list:
    duration = Timing(timestamps, fps).duration
    return frames_at(timestamps, view_times(duration, clip, views)).tolist()


@pytest.mark.parametrize(
    ("fps", "num_frames", "expected"),
    [  # the same second of action, whatever the frame rate of the file
        (10.0, 11, [2, 4, 6, 8]),
        (20.0, 22, [5, 9, 13, 17]),
        (60.0, 66, [15, 27, 39, 51]),
        (5.0, 6, [1, 2, 3, 4]),
    ],
)
def test_one_view_is_the_middle_at_any_frame_rate(
    fps: float, num_frames: int, expected: list[int]
) -> None:
    assert chosen(constant(num_frames, fps), FOUR) == [expected]


def test_views_are_evenly_spaced() -> None:
    # 2.4 s long, a clip spans 0.6 s: starts at 0.3, 0.9 and 1.5 of the 1.8 s of room.
    assert chosen(constant(24, 10.0), FOUR, views=3) == [
        [3, 5, 7, 9],
        [9, 11, 13, 15],
        [15, 17, 19, 21],
    ]


def test_a_video_as_long_as_a_clip_gives_each_frame_once() -> None:
    clip = FOUR.model_copy(update={"frame_stride": 1})
    assert chosen(constant(4, 10.0), clip) == [[0, 1, 2, 3]]
    assert chosen(constant(4, 10.0), clip, views=2) == [[0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("fps", [10.0, 12.0, 29.97])
def test_frames_past_the_end_are_those_that_number_frames_of_the_video_lack(
    stride: int, fps: float
) -> None:
    clip = FOUR.model_copy(update={"frame_stride": stride, "num_frames": 7, "fps": fps})
    for frames in range(1, 45):
        duration = Timing(constant(frames, fps), fps).duration
        expected = sum(step * stride >= frames for step in range(7))
        assert frames_past_end(duration, clip) == expected
    # As view_times sees it, a clip fits into a video that is the least bit longer than its span.
    assert frames_past_end(clip.span_seconds + 1e-4, clip) == 0
    assert frames_past_end(clip.span_seconds, clip) == 1


def test_variable_frame_rate_is_sampled_by_time() -> None:
    # Ten frames in the first 0.1 s, then one every 0.2 s.
    timestamps = np.concatenate([np.arange(10) / 100, [0.1, 0.3, 0.5, 0.7]])
    clip = FOUR.model_copy(update={"short_video": "hold"})
    times = view_times(1.0, clip, 1)[0]
    assert times == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert frames_at(timestamps, times).tolist() == [10, 11, 12, 13]


@pytest.mark.parametrize(
    ("short_video", "expected"),
    [("hold", [0, 2, 3, 3]), ("loop", [0, 2, 0, 2]), ("stretch", [0, 1, 2, 3])],
)
def test_short_videos_get_what_the_card_says(short_video: str, expected: list[int]) -> None:
    clip = FOUR.model_copy(update={"short_video": short_video})
    assert chosen(constant(4, 10.0), clip, views=3) == [expected]  # one view


@pytest.mark.parametrize("fps", [10.0, 12.0, 23.976, 25.0, 29.97, 30.0])
def test_looping_starts_again_exactly_at_the_first_frame(fps: float) -> None:
    clip = ClipSpec(num_frames=64, frame_stride=1, fps=fps, short_video="loop")
    for num_frames in range(1, 40):
        (numbers,) = chosen(constant(num_frames, fps), clip, fps=fps)
        assert numbers == [i % num_frames for i in range(64)], num_frames


def test_a_single_frame_makes_a_clip() -> None:
    for short_video in ("hold", "loop", "stretch"):
        clip = FOUR.model_copy(update={"short_video": short_video})
        assert chosen(np.zeros(1), clip) == [[0, 0, 0, 0]]


def test_short_videos_are_refused_where_the_card_says_so() -> None:
    clip = FOUR.model_copy(update={"short_video": "error"})
    with pytest.raises(VideoError, match=r"0\.40 s long, but a clip spans 0\.60 s"):
        view_times(0.4, clip, 1)


def test_rounded_timestamps_neither_skip_nor_repeat() -> None:
    # Matroska rounds to milliseconds: 30 fps becomes 0, 33, 67, 100, ...
    timestamps = np.round(np.arange(90) / 30, 3)
    clip = ClipSpec(num_frames=80, frame_stride=1, fps=30.0, short_side_px=8, crop_px=8)
    (numbers,) = chosen(timestamps, clip, fps=30.0)
    assert np.diff(numbers).tolist() == [1] * 79


def test_duration_counts_the_last_frame() -> None:
    assert Timing(np.array([0.0, 0.1, 0.2, 0.3]), fps=99).duration == pytest.approx(0.4)
    assert Timing(np.array([0.0]), fps=25).duration == pytest.approx(0.04)


CLIP = ClipSpec(num_frames=4, frame_stride=2, fps=10.0, short_side_px=8, crop_px=8)


def images_of(seen: list[int]) -> object:
    def images(numbers: Iterable[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            seen.append(number)
            yield np.full((2, 2, 3), number, np.uint8)

    return images


@pytest.mark.parametrize("hop", [0.05, 0.13, 0.2, 0.35, 1.7])
@pytest.mark.parametrize("fps", [7.0, 10.0, 24.0])
def test_windows_have_the_frames_that_each_would_have_alone(hop: float, fps: float) -> None:
    timing = Timing(np.arange(round(6 * fps)) / fps, fps)
    times = list(window_times(timing.duration, CLIP, hop))
    expected = [frames_at(timing.timestamps, moments) for moments in times]
    seen: list[int] = []
    windows = list(slide(iter(expected), images_of(seen), lambda image: image))
    assert len(windows) == len(expected) > 2
    for (numbers, frames), wanted in zip(windows, expected, strict=True):
        assert numbers.tolist() == wanted.tolist()
        assert frames[:, 0, 0, 0].tolist() == wanted.tolist()
    # each frame once, in order, and none that no window wants
    assert seen == sorted({number for wanted in expected for number in wanted.tolist()})


def test_only_frames_that_are_still_wanted_are_held() -> None:
    alive = 0
    most = 0

    class Kept(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def prepare(image: np.ndarray) -> np.ndarray:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return image.copy().view(Kept)

    windows = (np.arange(start, start + 8) for start in range(200))
    assert sum(1 for _ in slide(windows, images_of([]), prepare)) == 200
    assert most <= 10


def test_a_window_that_repeats_frames_is_whole() -> None:
    (window,) = slide(iter([np.array([0, 1, 2, 0, 1, 2])]), images_of([]), lambda image: image)
    assert window[1][:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]


def test_windows_of_the_same_frames_are_all_given() -> None:
    numbers = [0, 0, 1, 3, 3, 3]
    windows = slide(iter([np.array([n]) for n in numbers]), images_of([]), lambda image: image)
    assert [int(frames[0, 0, 0, 0]) for _, frames in windows] == numbers


@pytest.mark.parametrize(
    ("duration", "hop", "starts"),
    [
        (0.6, 0.2, [0.0]),  # exactly one span: the last frame would be at the end, not in it
        (0.61, 0.2, [0.0]),
        (1.0, 0.2, [0.0, 0.2]),
        (1.01, 0.2, [0.0, 0.2, 0.4]),
        (0.3, 0.2, [0.0]),  # short: one window, as for a single view
    ],
)
def test_windows_lie_in_the_video(duration: float, hop: float, starts: list[float]) -> None:
    times = list(window_times(duration, CLIP, hop))
    assert [float(moments[0]) for moments in times] == pytest.approx(starts)
    assert all(len(moments) == 4 for moments in times)
    later = list(window_times(duration, CLIP, hop, first=1))
    assert [m.tolist() for m in later] == [m.tolist() for m in times[1:]]


def test_chunks_are_all_moments_of_a_video() -> None:
    chunks = list(chunk_times(2.0, CLIP, 4))
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert np.concatenate(chunks) == pytest.approx(np.arange(10) * 0.2)
    assert [c.tolist() for c in chunk_times(2.0, CLIP, 4, first=2)] == [chunks[2].tolist()]
    assert [len(chunk) for chunk in chunk_times(0.05, CLIP, 4)] == [1]
