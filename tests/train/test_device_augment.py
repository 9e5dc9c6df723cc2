"""Clips that are finished on the device: those of the CPU, for every kind of augmentation."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.train.augment import Augmentation, Draw, crop_clip, jitter_colours
from stdeploy.train.clips import Batch, TrainingClips, collate
from stdeploy.train.device_augment import Cut, UncutClip, UncutClips
from stdeploy.video.transform import resize_short_side
from tests.train.test_trainer import small_recipe

CLIP = ClipSpec(num_frames=6, frame_stride=2, fps=12.0, short_side_px=64, crop_px=56)
# As it is; a little larger and smaller; blocks of 2, 3 and 4 first; upright; hardly any room.
SIZES = ((64, 80), (60, 91), (120, 90), (240, 320), (200, 131), (56, 300), (300, 217))
SPATIAL = Augmentation(ego_motion_sigma_px=3.0, flip=True, short_side_px=(56, 90))
COLOURS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}


def scene(height: int, width: int) -> np.ndarray:
    """Frames (6, H, W, 3), with structure of a few pixels, noise of one, and a colour."""
    rng = np.random.default_rng(height * width)
    rows, columns = np.mgrid[:height, :width]
    waves = (60 * np.sin(rows / 5) + 60 * np.cos(columns / 7))[..., None] + [168, 98, 138]
    noise = rng.integers(-60, 60, (CLIP.num_frames, height, width, 3))
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def on_cpu(frames: np.ndarray, draw: Draw) -> np.ndarray:
    resized = [resize_short_side(frame, draw.short_side_px) for frame in frames]
    rgb = np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in resized])
    return jitter_colours(crop_clip(rgb, CLIP.crop_px, draw), draw)


def uncut(frames: np.ndarray, draw: Draw) -> UncutClip:
    cut = Cut.of(frames.shape[1:3], CLIP.crop_px, CLIP.num_frames, draw)
    return UncutClip(np.stack([cut.taken(frame) for frame in frames]), cut, draw.colour)


def differences(augmentation: Augmentation, seed: int = 0) -> np.ndarray:
    """Of all pixels of clips of all sizes, in one batch, in levels."""
    rng = np.random.default_rng(seed)
    made, expected = [], []
    for size in SIZES:
        draw, frames = Draw.of(augmentation, CLIP, rng), scene(*size)
        made.append(uncut(frames, draw))
        expected.append(on_cpu(frames, draw))
    finished = UncutClips.of(made).finished()
    assert finished.dtype == torch.uint8
    assert finished.shape == (len(SIZES), *CLIP.frames_shape)
    return np.abs(finished.numpy().astype(int) - np.stack(expected))


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(short_side_px=(56, 120)),
        Augmentation(ego_motion_sigma_px=3.0),
        Augmentation(flip=True),
        SPATIAL,
        Augmentation(brightness=0.5),
        Augmentation(contrast=0.5),
        SPATIAL.model_copy(update={"brightness": 1.0, "contrast": 1.0}),
    ],
    ids=lambda augmentation: str(augmentation.model_dump(exclude_defaults=True)),
)
def test_clips_are_those_of_the_cpu_to_the_bit(augmentation: Augmentation) -> None:
    for seed in (0, 1, 2):
        assert differences(augmentation, seed).max() == 0


def test_saturation_is_within_a_level_and_hue_follows_it() -> None:
    found = differences(SPATIAL.model_copy(update=COLOURS))
    assert found.max() == 1
    assert (found > 0).mean() < 0.1
    assert differences(SPATIAL.model_copy(update={"hue": 0.5})).max() <= 1
    found = differences(SPATIAL.model_copy(update={**COLOURS, "hue": 0.5}))
    assert found.max() <= 7
    assert (found > 2).mean() < 0.01


def test_a_clip_without_a_turn_of_hue_keeps_its_colours_beside_one_with() -> None:
    draw = dataclasses.replace(Draw.of(Augmentation(), CLIP, np.random.default_rng(0)))
    turned = dataclasses.replace(draw, colour=(1.0, 1.0, 1.0, 0.25))
    frames = scene(64, 80)
    finished = UncutClips.of([uncut(frames, draw), uncut(frames, turned)]).finished().numpy()
    assert np.array_equal(finished[0], on_cpu(frames, draw))
    assert np.abs(finished[1].astype(int) - on_cpu(frames, turned)).max() <= 1
    assert np.abs(finished[1].astype(int) - finished[0]).mean() > 5


def test_parts_of_a_batch_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    wild = SPATIAL.model_copy(update={**COLOURS, "hue": 0.5})
    clips = UncutClips.of([uncut(scene(*size), Draw.of(wild, CLIP, rng)) for size in SIZES])
    whole = clips.finished()
    monkeypatch.setattr("stdeploy.train.device_augment._PIXELS_AT_ONCE", 2 * 6 * 56**2)
    assert torch.equal(clips.finished(), whole)


def test_only_what_the_clip_needs_is_handed_over() -> None:
    draw = Draw.of(Augmentation(), CLIP, np.random.default_rng(0))
    clip = uncut(scene(1080, 1920), draw)  # 16 x 16 blocks: 67 x 120, of which a crop is taken
    assert clip.frames.shape[1:3] <= (60, 60)
    assert np.array_equal(
        UncutClips.of([clip]).finished()[0].numpy(), on_cpu(scene(1080, 1920), draw)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledVideos:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=10, validation=10, seed=1)
    return read_something(folder, "train")


def batch_of(data: LabelledVideos, *, uncut: bool) -> Batch:
    wild = Augmentation(
        frame_strides=(1, 2), ego_motion_sigma_px=2.0, flip=True, short_side_px=(60, 80)
    )
    clips = TrainingClips(data, small_recipe().clip_spec(), wild, seed=0, uncut=uncut)
    batch = collate([clips[(0, number)] for number in range(len(data.samples))])
    assert isinstance(batch, Batch)
    return batch


def test_videos_give_the_same_batch_either_way(data: LabelledVideos) -> None:
    one, other = (batch_of(data, uncut=uncut) for uncut in (False, True))
    assert isinstance(other.frames, UncutClips)
    assert len(other.frames) == len(one.labels)
    there = other.on(torch.device("cpu"))
    assert torch.equal(there.finished, one.finished)
    assert torch.equal(there.labels, one.labels)
    assert (there.past_end, there.broken) == (one.past_end, one.broken)


def test_a_video_that_changes_its_size_gives_the_same_clip_either_way(
    data: LabelledVideos, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stdeploy.video.reader import VideoReader

    images = VideoReader.images

    def changing(self: VideoReader, numbers: np.ndarray) -> object:
        """No writer here makes such a file: every third frame comes in another size."""
        for place, image in enumerate(images(self, numbers)):
            yield cv2.resize(image, (90, 70)) if place % 3 == 2 else image

    monkeypatch.setattr(VideoReader, "images", changing)
    one, other = (batch_of(data, uncut=uncut) for uncut in (False, True))
    assert torch.equal(other.on(torch.device("cpu")).finished, one.finished)
