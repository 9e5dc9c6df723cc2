from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.video.sampling import chunk_times, frames_at, window_times
from stdeploy.video.timing import Timing
from stdeploy.video.window_buffer import slide

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
