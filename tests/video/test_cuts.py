from collections.abc import Iterator

import numpy as np
import pytest

from stdeploy.video.cuts import Shown, mark_cuts, shrink
from stdeploy.video.transform import Image
from tests.helpers.scenes import mixed, scene

WHITE = np.full((72, 128, 3), 255, np.uint8)
BLACK = np.zeros((72, 128, 3), np.uint8)


def shown(pictures: list[Image], fps: float = 25.0) -> Iterator[Shown]:
    for number, picture in enumerate(pictures):
        yield Shown(number, number / fps, shrink(picture), picture)


def cuts(pictures: list[Image], fps: float = 25.0) -> list[int]:
    return [picture.number for picture, cut in mark_cuts(shown(pictures, fps)) if cut]


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
        for picture in shown(scene(1, 200), 40.0):
            taken += 1
            yield picture

    ahead = [taken - picture.number for picture, _ in mark_cuts(counted())]
    assert max(ahead) == 12  # 11 after it, the first of which is more than 0.25 s later
