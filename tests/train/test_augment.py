"""Eq. (8) and (9) as literal tables, and what else is varied."""

import dataclasses

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.datasets.labelled_videos import mirrored_labels
from stdeploy.errors import SpecError, VideoError
from stdeploy.train.augment import (
    Augmentation,
    Draw,
    crop_clip,
    crop_corners,
    jitter_colours,
    possible_strides,
    sampled_times,
    stride_of,
    videomix_box,
)
from stdeploy.video.sampling import frames_at

STILL = Draw(
    frame_stride=2,
    start=0.0,
    short_side_px=256,
    origin=(0.5, 0.5),
    velocity_px=(0.0, 0.0),
    mirrored=False,
    colour=(1.0, 1.0, 1.0, 0.0),
)
FPS = 10.0


def indices(num_frames: int, clip: ClipSpec, **changes: object) -> list[int]:
    """Frame numbers that a clip takes from a video of num_frames at FPS."""
    timestamps = np.arange(num_frames) / FPS
    draw = dataclasses.replace(STILL, **changes)  # type: ignore[arg-type]
    return frames_at(timestamps, sampled_times(num_frames / FPS, clip, draw)).tolist()


@pytest.mark.parametrize(
    ("rate", "start", "expected"),
    [  # T = 4 of 20 frames: F_s, F_{s+r}, F_{s+2r}, F_{s+3r}
        (1, 0.0, [0, 1, 2, 3]),
        (1, 1.0, [16, 17, 18, 19]),
        (1, 0.5, [8, 9, 10, 11]),
        (2, 0.0, [0, 2, 4, 6]),
        (2, 0.5, [7, 9, 11, 13]),
        (3, 0.0, [0, 3, 6, 9]),
        (4, 0.0, [0, 4, 8, 12]),
        (4, 1.0, [7, 11, 15, 19]),
    ],
)
def test_equation_8_frames(rate: int, start: float, expected: list[int]) -> None:
    clip = ClipSpec(num_frames=4, fps=FPS)
    assert indices(20, clip, frame_stride=rate, start=start) == expected


@pytest.mark.parametrize(
    ("short_video", "rate", "expected"),
    [  # 6 frames are too few for 4 at every third
        ("hold", 1, [0, 1, 2, 3]),
        ("hold", 3, [0, 3, 5, 5]),
        ("hold", 4, [0, 4, 5, 5]),
        ("loop", 3, [0, 3, 0, 3]),
        ("loop", 4, [0, 4, 2, 0]),
        ("stretch", 4, [0, 2, 3, 5]),
    ],
)
def test_equation_8_in_short_videos(short_video: str, rate: int, expected: list[int]) -> None:
    clip = ClipSpec(num_frames=4, fps=FPS, short_video=short_video)
    assert indices(6, clip, frame_stride=rate) == expected


def test_a_short_video_can_be_refused() -> None:
    with pytest.raises(VideoError, match=r"is 0\.60 s long, but a clip spans 0\.90 s"):
        indices(6, ClipSpec(num_frames=4, fps=FPS, short_video="error"), frame_stride=3)


def test_other_frame_rates_show_the_same_moments() -> None:
    clip = ClipSpec(num_frames=4, fps=FPS)
    times = sampled_times(2.0, clip, dataclasses.replace(STILL, start=0.5))
    assert frames_at(np.arange(60) / 30.0, times).tolist() == [21, 27, 33, 39]


@pytest.mark.parametrize(
    ("origin", "velocity", "expected"),
    [  # a square of 10 px in 14 x 18: room for 4 down and 8 across
        ((0.0, 0.0), (0.0, 0.0), [[0, 0], [0, 0], [0, 0], [0, 0]]),
        ((1.0, 1.0), (0.0, 0.0), [[4, 8], [4, 8], [4, 8], [4, 8]]),
        ((0.0, 0.0), (1.0, 2.0), [[0, 0], [1, 2], [2, 4], [3, 6]]),
        ((1.0, 1.0), (1.0, 2.0), [[1, 2], [2, 4], [3, 6], [4, 8]]),  # as far as it fits
        ((0.0, 0.0), (-1.0, -2.0), [[3, 6], [2, 4], [1, 2], [0, 0]]),
        ((0.5, 0.25), (0.6, -1.4), [[1, 5], [2, 4], [2, 2], [3, 1]]),
        # Paths of 9 and 12 px: the crop waits at one border and at the other.
        ((0.0, 1.0), (-3.0, 4.0), [[4, 0], [4, 2], [0, 6], [0, 8]]),
    ],
)
def test_equation_9_offsets(
    origin: tuple[float, float], velocity: tuple[float, float], expected: list[list[int]]
) -> None:
    draw = dataclasses.replace(STILL, origin=origin, velocity_px=velocity)
    assert crop_corners(14, 18, 10, 4, draw).tolist() == expected


def test_a_path_stays_inside_wherever_it_can() -> None:
    """Beside every place that there is, on a grid of a thousandth of a pixel."""
    rng = np.random.default_rng(0)
    fitting = 0
    for _ in range(300):
        room, frames = int(rng.integers(0, 12)), int(rng.integers(2, 9))
        velocity, origin = rng.standard_normal(), rng.random()
        draw = dataclasses.replace(STILL, origin=(origin, 0.5), velocity_px=(velocity, 0.0))
        tops = crop_corners(20 + room, 20, 20, frames, draw)[:, 0]
        starts = np.arange(1000 * room + 1) / 1000
        steps = velocity * np.arange(frames)
        paths = starts[:, None] + steps
        inside = starts[((paths >= 0) & (paths <= room)).all(axis=1)]
        if len(inside):
            fitting += 1
            start = inside[0] + origin * (inside[-1] - inside[0])
            assert np.abs(tops - (start + steps)).max() <= 0.5 + 2e-3
        else:
            assert abs(int(tops[-1]) - int(tops[0])) == room
            # No start shows more of the path, and the waits at both ends are equally long.
            half = frames // 2  # the middle one may lie between two pixels
            assert np.array_equal(tops[:half], (room - tops[::-1])[:half])
    assert 50 < fitting < 290


def test_first_crops_are_uniform_over_the_places_that_fit() -> None:
    rng = np.random.default_rng(0)
    first = []
    for origin in rng.random(20000):
        draw = dataclasses.replace(STILL, origin=(origin, 0.5), velocity_px=(-2.0, 0.0))
        first.append(int(crop_corners(30, 20, 20, 4, draw)[0, 0]))
    # From 6 to 10: those at the ends take half a pixel each.
    shares = np.bincount(first, minlength=11) / len(first)
    assert shares == pytest.approx([0, 0, 0, 0, 0, 0, 1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], abs=0.01)


def test_without_ego_motion_crops_are_where_they_always_were() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        down, across = rng.integers(0, 120, 2).tolist()
        origin = tuple(rng.random(2).tolist())
        draw = dataclasses.replace(STILL, origin=origin)
        corners = crop_corners(224 + down, 224 + across, 224, 3, draw)
        assert corners.tolist() == [[round(down * origin[0]), round(across * origin[1])]] * 3


def test_the_crop_moves_over_the_picture_and_mirrors() -> None:
    down, across = np.mgrid[0:14, 0:18]
    frames = np.stack([np.stack([down, across, down * 0 + t], -1) for t in range(3)])
    draw = dataclasses.replace(STILL, origin=(0.0, 0.0), velocity_px=(1.0, 2.0))
    cut = crop_clip(frames.astype(np.uint8), 10, draw)
    assert cut[:, 0, 0].tolist() == [[0, 0, 0], [1, 2, 1], [2, 4, 2]]
    assert cut[:, 9, 9].tolist() == [[9, 9, 0], [10, 11, 1], [11, 13, 2]]
    mirrored = crop_clip(frames.astype(np.uint8), 10, dataclasses.replace(draw, mirrored=True))
    assert np.array_equal(mirrored, cut[:, :, ::-1])


def test_draws_have_the_distributions_that_were_asked_for() -> None:
    augmentation = Augmentation(
        frame_strides=(1, 2, 3, 4), ego_motion_sigma_px=2.0, short_side_px=(256, 320), flip=True
    )
    rng, clip = np.random.default_rng(0), ClipSpec()
    draws = [Draw.of(augmentation, clip, rng) for _ in range(4000)]
    rates = [draw.frame_stride for draw in draws]
    assert [rates.count(r) / 4000 for r in (1, 2, 3, 4)] == pytest.approx([0.25] * 4, abs=0.03)
    velocities = np.array([draw.velocity_px for draw in draws])
    assert velocities.mean(axis=0) == pytest.approx([0, 0], abs=0.1)
    assert velocities.std(axis=0) == pytest.approx([2, 2], rel=0.05)
    sides = [draw.short_side_px for draw in draws]
    assert (min(sides), max(sides)) == (256, 320)
    assert np.mean([draw.mirrored for draw in draws]) == pytest.approx(0.5, abs=0.03)


def test_switching_one_kind_on_leaves_the_others_as_they_were() -> None:
    clip = ClipSpec()
    plain = Draw.of(Augmentation(), clip, np.random.default_rng(1))
    moving = Draw.of(Augmentation(ego_motion_sigma_px=2.0), clip, np.random.default_rng(1))
    assert plain.velocity_px == (0.0, 0.0)
    assert moving.velocity_px != (0.0, 0.0)
    assert dataclasses.replace(moving, velocity_px=(0.0, 0.0)) == plain
    assert plain.frame_stride == clip.frame_stride


def test_rates_that_fit_are_equally_likely_and_leave_the_rest_as_it_was() -> None:
    clip = ClipSpec(num_frames=4, fps=FPS)  # spans r x 0.3 s
    some = Augmentation(frame_strides=(1, 2, 3, 4), ego_motion_sigma_px=2.0, brightness=0.3)
    fit = some.model_copy(update={"fit_frame_strides": True})
    counts = {0.2: [0] * 5, 0.7: [0] * 5, 1.0: [0] * 5, 1.3: [0] * 5}
    for seed in range(6000):
        draw = Draw.of(fit, clip, np.random.default_rng(seed))
        assert dataclasses.replace(draw, other_stride=None) == Draw.of(
            some, clip, np.random.default_rng(seed)
        )
        for duration, count in counts.items():
            assert possible_strides(duration, clip, some) == (1, 2, 3, 4)
            stride = stride_of(duration, clip, fit, draw)
            assert stride == draw.frame_stride or draw.frame_stride * 0.3 >= duration
            count[stride] += 1
    shares = {duration: np.array(count[1:]) / 6000 for duration, count in counts.items()}
    assert shares[0.2].tolist() == [1, 0, 0, 0]  # it fits at none
    assert shares[0.7] == pytest.approx([1 / 2, 1 / 2, 0, 0], abs=0.02)
    assert shares[1.0] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.02)
    assert shares[1.3] == pytest.approx([1 / 4] * 4, abs=0.02)


def test_rates_that_are_not_fitted_leave_no_trace_in_a_recipe() -> None:
    """So the text of recipes, and the states of runs that depend on it, stay what they were."""
    plain = Augmentation(frame_strides=(1, 2))
    assert "fit_frame_strides" not in plain.model_dump()
    assert Augmentation.parse(plain.model_dump()) == plain
    fit = Augmentation(frame_strides=(1, 2), fit_frame_strides=True)
    assert fit.model_dump()["fit_frame_strides"] is True
    assert Augmentation.model_validate_json(fit.model_dump_json()) == fit


def test_colours_change_alike_in_all_frames() -> None:
    frames = np.random.default_rng(0).integers(60, 190, (1, 8, 8, 3), np.uint8).repeat(3, axis=0)
    assert jitter_colours(frames, STILL) is frames
    for colour in ((1.2, 1.0, 1.0, 0.0), (1.0, 0.7, 1.0, 0.0), (1.0, 1.0, 0.5, 0.1)):
        out = jitter_colours(frames, dataclasses.replace(STILL, colour=colour))
        assert np.array_equal(out[0], out[2])
        assert not np.array_equal(out, frames)
    brighter = jitter_colours(frames, dataclasses.replace(STILL, colour=(1.2, 1.0, 1.0, 0.0)))
    assert np.abs(brighter.astype(float) - frames * 1.2).max() <= 0.5
    grey = jitter_colours(frames, dataclasses.replace(STILL, colour=(1.0, 1.0, 0.0, 0.0)))
    assert np.ptp(grey, axis=-1).max() == 0
    turned = jitter_colours(
        np.full((1, 2, 2, 3), (200, 0, 0), np.uint8),
        dataclasses.replace(STILL, colour=(1.0, 1.0, 1.0, 1 / 3)),
    )
    assert turned[0, 0, 0].argmax() == 1  # a third of the circle from red is green


@pytest.mark.parametrize(
    ("share", "centre", "expected"),
    [
        (0.25, (0.5, 0.5), (slice(2, 6), slice(2, 6))),
        (1.0, (0.5, 0.5), (slice(0, 8), slice(0, 8))),
        (0.25, (0.0, 1.0), (slice(0, 2), slice(6, 8))),
        (0.0, (0.3, 0.3), (slice(2, 2), slice(2, 2))),
    ],
)
def test_videomix_box(
    share: float, centre: tuple[float, float], expected: tuple[slice, slice]
) -> None:
    assert videomix_box(share, 8, centre) == expected


def test_labels_with_a_direction_are_swapped_or_left_unmirrored() -> None:
    labels = [
        "Pushing something from left to right",
        "Pushing something from right to left",
        "Turning the camera left",
        "Turning something clockwise",
        "Turning something counter-clockwise",
        "Brightening lights",
        "swipe_left",
        "swipe_right",
    ]
    assert mirrored_labels(labels) == {0: 1, 1: 0, 2: None, 3: 4, 4: 3, 5: 5, 6: 7, 7: 6}
    assert mirrored_labels(["turn anticlockwise", "Turn clockwise"]) == {0: 1, 1: 0}
    assert mirrored_labels(["SwipeLeft", "SwipeRight", "wave", "Wave"]) == {0: 1, 1: 0, 2: 2, 3: 3}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("frame_strides", (0, 1), "r is 1 or more"),
        ("short_side_px", (320, 256), "in this order"),
        ("ego_motion_sigma_px", -1.0, "ego_motion_sigma_px = -1"),
        ("ego_motion_sigma", 1.0, "did you mean 'ego_motion_sigma_px'"),
    ],
)
def test_bad_settings_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Augmentation.parse({field: value})
