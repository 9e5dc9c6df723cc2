"""What a run says about videos that are shorter than its clips."""

from pathlib import Path

import numpy as np
import pytest

from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.train.augment import Draw
from stdeploy.train.clips import ShuffledKeys
from stdeploy.train.recipe import Recipe
from stdeploy.train.trainer import train
from stdeploy.video.reader import VideoReader
from tests.train.test_trainer import small_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=40, validation=10, seed=1)
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_says_how_many_frames_lay_past_the_end_of_their_video(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    data, recipe = read_something(folder, "train"), small_recipe(epochs=2, workers=workers)
    rates = {"frame_strides": (1, 4), "ego_motion_sigma_px": 1.0}
    recipe = Recipe.parse({**recipe.model_dump(), "augmentation": rates})
    clip, augmentation = recipe.clip_spec(), recipe.augmentation
    past_end = 0
    for key in ShuffledKeys(len(data.samples), seed=0, batch_size=8):
        draw = Draw.of(augmentation, clip, np.random.default_rng([0, *key]))
        frames = len(VideoReader(data.samples[key[1]].video).timing.timestamps)
        past_end += sum(step * draw.frame_stride >= frames for step in range(8))
    assert past_end > 8
    told: list[str] = []
    run = tmp_path / "run"
    train(recipe, data, tmp_path / "a.pt", run=run, tell=told.append)
    words = f"{past_end / (40 * 8):.0%} of the frames of training clips lie past the end of their"
    (line,) = told
    assert line.startswith(words)
    assert "(short_video = hold: " in line
    log = (run / "log.txt").read_text()
    assert log.count(line) == 1
    assert log.index(" epoch 1, ") < log.index(line) < log.index(" epoch 2, ")


def test_a_run_that_fits_into_its_videos_tells_nothing(folder: Path, tmp_path: Path) -> None:
    data, recipe = read_something(folder, "train"), small_recipe(epochs=1)
    rates = {"frame_strides": (1, 4), "fit_frame_strides": True}
    recipe = Recipe.parse({**recipe.model_dump(), "augmentation": rates})
    told: list[str] = []
    train(recipe, data, tmp_path / "a.pt", run=tmp_path / "run", tell=told.append)
    assert told == []
    assert " 0% of the frames of training clips" in (tmp_path / "run" / "log.txt").read_text()
