import math

import pytest
import torch

from stdeploy.errors import SpecError
from stdeploy.train import order_task
from stdeploy.train.order_task import (
    ORDERS,
    OrderClips,
    OrderTask,
    order_clips,
    shapes,
    shapes_shown,
    stacked_order_clips,
)

TASK = OrderTask(height_px=24, width_px=32)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing behind the flashes, so that they can be seen to the pixel."""
    monkeypatch.setattr(order_task, "_TEXTURE", 0.0)
    monkeypatch.setattr(order_task, "_NOISE", 0.0)


def flashes(clips: OrderClips, clip: int) -> list[tuple[int, int, int]]:
    """First frame, number of frames, and shape of each flash of a clip on nothing."""
    lit = clips.frames[clip].abs().sum(dim=(0, 2, 3)) > 0
    found: list[tuple[int, int, int]] = []
    for frame in lit.nonzero().flatten().tolist():
        if found and found[-1][0] + found[-1][1] == frame:
            found[-1] = (found[-1][0], found[-1][1] + 1, found[-1][2])
            continue
        seen = clips.frames[clip, :, frame].sum(dim=0) > 0
        rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
        cut = seen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        trimmed = [mask[mask.any(dim=1)][:, mask.any(dim=0)] for mask in shapes()]
        (shape,) = [n for n, mask in enumerate(trimmed) if torch.equal(mask, cut)]
        found.append((frame, 1, shape))
    return found


@pytest.mark.usefixtures("bare")
def test_the_class_is_the_order_and_the_gap_is_what_it_says() -> None:
    clips = order_clips(OrderTask(height_px=24, width_px=32, gaps=(3, 10)), 64, seed=1)
    for clip in range(64):
        found = flashes(clips, clip)
        assert tuple(shape for *_, shape in found) == ORDERS[clips.labels[clip]]
        assert [duration for _, duration, _ in found] == [2, 2, 2]
        first, second, third = (start for start, *_ in found)
        assert second - first == third - second == clips.gaps[clip]


def test_clips_of_several_seeds_are_those_of_each() -> None:
    task = OrderTask(height_px=16, width_px=16, rates=(0.5, 2.0), speed=1.5, camera_sigma_px=0.5)
    stack = stacked_order_clips(task, 5, seeds=(7, 8, 9))
    assert stack.frames.shape == (3, 5, 3, 32, 16, 16)
    for number, seed in enumerate((7, 8, 9)):
        alone = order_clips(task, 5, seed=seed)
        assert torch.equal(stack.frames[number], alone.frames)
        assert torch.equal(stack.labels[number], alone.labels)
        assert torch.equal(stack.gaps[number], alone.gaps)


@pytest.mark.usefixtures("bare")
def test_a_rate_brings_events_together() -> None:
    task = OrderTask(height_px=24, width_px=32, gaps=(6, 10), rates=(2.0,))
    clips = order_clips(task, 32, seed=2)
    for clip in range(32):
        (first, duration, _), (second, *_), _ = flashes(clips, clip)
        assert duration == 1
        assert second - first == round(clips.gaps[clip].item() / 2)


@pytest.mark.usefixtures("bare")
def test_events_that_are_slow_still_lie_within_the_clip() -> None:
    clips = order_clips(OrderTask(height_px=24, width_px=32, rates=(0.25,)), 32, seed=3)
    for clip in range(32):
        found = flashes(clips, clip)
        assert sum(duration for _, duration, _ in found) == 3 * 8 or len(found) < 3
        assert found[-1][0] + found[-1][1] <= 32


def test_the_same_seed_makes_the_same_clips() -> None:
    one, again, other = (order_clips(TASK, 8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.frames, again.frames)
    assert not torch.equal(one.frames, other.frames)


def test_pixels_are_near_unit_size_and_classes_are_alike_often() -> None:
    clips = order_clips(TASK, 2400, seed=0)
    assert 0.3 < clips.frames.std() < 1.5
    counts = torch.bincount(clips.labels, minlength=24)
    assert counts.min() > 50
    assert counts.max() < 150
    assert set(clips.gaps.tolist()) == set(range(2, 11))


def test_a_moving_camera_moves_the_texture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_task, "_NOISE", 0.0)
    monkeypatch.setattr(order_task, "_BRIGHTNESS", 0.0)

    def change(task: OrderTask) -> float:
        frames = order_clips(task, 16, seed=5).frames
        return (frames[:, :, 1:] - frames[:, :, :-1]).abs().mean().item()

    moving = OrderTask(height_px=24, width_px=32, camera_sigma_px=3.0)
    assert change(moving) > 2 * change(TASK)


def test_shapes_shown_forgets_the_order() -> None:
    shown = shapes_shown(torch.arange(24))
    assert shown.sum(dim=1).tolist() == [3.0] * 24
    for label, order in enumerate(ORDERS):
        assert shown[label].nonzero().flatten().tolist() == sorted(order)
    assert len({tuple(row) for row in shown.tolist()}) == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gaps": (2, 16)}, r"gaps \(2, 16\) do not fit into clips of 32 frames"),
        ({"gaps": (0, 3)}, "gaps"),
        ({"height_px": 8}, "at least 9 x 9 pixels"),
        ({"rates": ()}, "rates have to be positive"),
        ({"speed": 0.5}, "speed at least 1"),
    ],
)
def test_impossible_tasks_are_refused(fields: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        OrderTask(**fields)


def test_the_shapes_are_four_different_ones() -> None:
    masks = shapes()
    assert masks.shape == (4, 9, 9)
    differing = [(a != b).sum().item() for i, a in enumerate(masks) for b in masks[:i]]
    assert min(differing) > 20
    assert math.isclose(masks.double().mean().item(), 0.5, abs_tol=0.25)
