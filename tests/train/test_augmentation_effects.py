"""What augmentation in time comes to, beside clips that are drawn one by one."""

import dataclasses
import itertools

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec, ShortVideo
from stdeploy.train.augment import Augmentation, Draw, crop_corners, sampled_times, stride_of
from stdeploy.train.augmentation_effects import (
    ego_motion_of,
    past_end_in_words,
    short_videos_of,
)
from stdeploy.video.sampling import frames_at
from stdeploy.video.transform import resized_shape

CLIP = ClipSpec(num_frames=16, frame_stride=2, fps=12.0, short_side_px=64, crop_px=56)


@pytest.mark.parametrize("sides", [None, (60, 80), (40, 56)])
def test_the_room_for_ego_motion_is_that_of_clips_drawn_one_by_one(
    sides: tuple[int, int] | None,
) -> None:
    augmentation = Augmentation(ego_motion_sigma_px=1.5, short_side_px=sides)
    shapes = [(240, 320), (240, 320), (320, 180)]
    found = ego_motion_of(shapes, CLIP, augmentation)
    moved, wanted, held = [], [], []
    rng = np.random.default_rng(0)
    for number in range(9000):
        draw = Draw.of(augmentation, CLIP, rng)
        height, width = resized_shape(*shapes[number % 3], draw.short_side_px)
        corners = crop_corners(height, width, 56, 16, draw)
        path = 15 * np.asarray(draw.velocity_px)
        moved.append(corners[-1] - corners[0])
        wanted.append(path)
        held.append(np.abs(path) > [height - 56, width - 56])
    assert np.abs(wanted).mean(axis=0) == pytest.approx([found.wanted_path_px] * 2, rel=0.03)
    assert np.abs(moved).mean(axis=0) == pytest.approx(found.path_px, rel=0.03, abs=0.02)
    speeds = np.sqrt(np.square(moved).mean(axis=0)) / 15
    assert speeds == pytest.approx(found.sigma_px, rel=0.03, abs=0.002)
    assert np.mean(held, axis=0) == pytest.approx(found.held, abs=0.015)
    assert found.wanted_sigma_px == 1.5


def test_ego_motion_in_words() -> None:
    still = ego_motion_of([(240, 320)], CLIP, Augmentation())
    assert still.in_words() == "ego-motion (eq. 9), x/y: none in this recipe"
    wide = ego_motion_of([(64, 4000)], CLIP, Augmentation(ego_motion_sigma_px=2.0))
    assert wide.in_words() == (
        "ego-motion (eq. 9), x/y: of paths of 23.9 px there is room for 23.9/7.2 px, of sigma "
        "2.0 px a frame for 2.0/0.5; 0%/79% of clips are held at a border"
    )


DURATIONS = [1.0, 1.0, 1.5, 2.25, 3.0, 7.0]


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("short_video", ["hold", "loop", "stretch"])
def test_short_videos_are_those_of_all_clips_that_can_be_drawn(
    short_video: ShortVideo, fit: bool
) -> None:
    clip = CLIP.model_copy(update={"short_video": short_video})
    augmentation = Augmentation(frame_strides=(1, 2, 3, 4), fit_frame_strides=fit)
    plain = Draw.of(augmentation, clip, np.random.default_rng(0))
    rows = []
    # Twelve evenly spaced numbers choose evenly among 1, 2, 3 and 4 rates.
    others = (np.arange(12) + 0.5) / 12 if fit else [None]
    for duration, drawn, other in itertools.product(DURATIONS, (1, 2, 3, 4), others):
        draw = dataclasses.replace(plain, frame_stride=drawn, other_stride=other)
        stride = stride_of(duration, clip, augmentation, draw)
        times = sampled_times(duration, clip, dataclasses.replace(draw, frame_stride=stride))
        frames = round(duration * 12)
        steps = np.diff(frames_at(np.arange(frames) / 12, times))
        longer = 15 * stride >= frames
        stretched = longer and short_video == "stretch"
        rows.append(
            [
                longer,
                sum(step * stride >= frames for step in range(16)) / 16,
                (steps == 0).sum() / 16,
                (steps < 0).any(),
                (times[-1] - times[0]) / 15 * 12 if stretched else stride,
            ]
        )
    found = short_videos_of(DURATIONS, clip, augmentation)
    expected = [found.longer, found.past_end, found.still, found.restarted, found.mean_stride]
    assert np.mean(rows, axis=0) == pytest.approx(expected)
    assert np.std(np.array(rows)[:, 4]) == pytest.approx(found.stride_deviation)


def test_short_videos_literally() -> None:
    """4 frames of a video of 6 at 2 frames a second, at r = 1, 2 and 3."""
    clip = ClipSpec(num_frames=4, fps=2.0)
    rates = Augmentation(frame_strides=(1, 2, 3))
    held = short_videos_of([3.0], clip, rates)
    # 0 1 2 3; 0 2 4 (5: past the end, though a frame of its own); 0 3 (5) (5)
    assert held.longer == pytest.approx(2 / 3)
    assert held.past_end == pytest.approx(3 / 12)
    assert held.still == pytest.approx(1 / 12)
    assert (held.restarted, held.mean_stride) == (0.0, pytest.approx(2.0))
    looped = short_videos_of([3.0], clip.model_copy(update={"short_video": "loop"}), rates)
    assert looped.still == 0.0  # 0 2 4 (0); 0 3 (0) (3)
    assert looped.restarted == pytest.approx(2 / 3)
    stretched = short_videos_of([3.0], clip.model_copy(update={"short_video": "stretch"}), rates)
    assert stretched.still == 0.0
    assert stretched.mean_stride == pytest.approx((1 + 1.5 + 1.5) / 3)
    fitted = short_videos_of([3.0], clip, rates.model_copy(update={"fit_frame_strides": True}))
    assert (fitted.longer, fitted.past_end, fitted.mean_stride) == (0.0, 0.0, 1.0)
    refused = short_videos_of([3.0], clip.model_copy(update={"short_video": "error"}), rates)
    assert refused.past_end == 0.0


def test_what_lies_past_the_end_in_words() -> None:
    assert past_end_in_words(0.31, "hold") == (
        "31% of the frames of training clips lie past the end of their video (short_video = hold: "
        "its last frame stands still)"
    )
    assert past_end_in_words(0.5, "stretch") == (
        "50% of the frames of training clips would lie past the end of their video (short_video = "
        "stretch: its frames are spread over the clip)"
    )
