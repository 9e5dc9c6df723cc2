import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stdeploy.datasets import synthetic
from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import (
    REVERSED_PAIRS,
    Perturbation,
    make_dataset,
    perturbed,
    random_motion,
    render,
)
from stdeploy.errors import DatasetError
from stdeploy.video.reader import VideoReader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "starter-data"
    make_dataset(folder, train=20, validation=10, seed=3)
    return folder


def test_data_set_has_the_layout_of_something_something(folder: Path) -> None:
    entry = json.loads((folder / "train.json").read_text())[0]
    assert entry["template"] == "Moving [something] from left to right"
    assert entry["label"].startswith("Moving a ")
    for split, count in (("train", 20), ("validation", 10)):
        data = read_something(folder, split)
        assert len(data.samples) == count
        assert data.labels == tuple(label for pair in REVERSED_PAIRS for label in pair)
        assert sorted(sample.label for sample in data.samples) == sorted(
            list(range(10)) * (count // 10)
        )
        assert data.reverse == {i: i ^ 1 for i in range(10)}


def test_videos_decode(folder: Path) -> None:
    for sample in read_something(folder, "validation").samples:
        reader = VideoReader(sample.video)
        assert 22 <= len(reader.timing.timestamps) <= 30
        assert reader.timing.fps == pytest.approx(12.0, rel=0.01)
        _, frames = reader.gather(lambda _timing: np.array([0]), lambda image: image)
        assert frames.shape == (1, 72, 80, 3)


def test_second_class_of_a_pair_is_the_first_played_backwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = {}
    monkeypatch.setattr(
        synthetic, "_write_webm", lambda path, frames: written.update({path.stem: frames})
    )
    for number in (1, 2):
        synthetic._write_video(tmp_path, 0, 100, Perturbation(), number)
    for number, step in (("1", 1), ("2", -1)):
        rng = np.random.default_rng([0, int(number)])
        forwards = list(render(random_motion(0, rng), rng))
        np.testing.assert_array_equal(written[number], forwards[::step])


def test_the_same_data_set_is_not_made_twice(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    make_dataset(folder, train=20, validation=10, seed=3)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_interrupted_run_does_not_stand_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "set"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "_entry", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_dataset(target, train=10, validation=10, seed=0)
    assert not target.exists()
    make_dataset(target, train=10, validation=10, seed=0)
    assert len(read_something(target, "train").samples) == 10


def test_a_set_made_with_other_settings_is_left_alone(folder: Path) -> None:
    with pytest.raises(DatasetError, match="made with other settings"):
        make_dataset(folder, train=20, validation=10, seed=4)
    assert len(read_something(folder, "train").samples) == 20


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="holds other files"):
        make_dataset(tmp_path, train=10, validation=10, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def all_frames(video: Path) -> NDArray[np.uint8]:
    reader = VideoReader(video)
    return reader.gather(lambda timing: np.arange(len(timing.timestamps)), lambda image: image)[1]


def test_only_validation_videos_are_perturbed_and_in_nothing_else(tmp_path: Path) -> None:
    hard = Perturbation(camera_px=24.0, speed=1.6)
    make_dataset(tmp_path / "plain", train=10, validation=20, seed=3)
    make_dataset(tmp_path / "hard", train=10, validation=20, seed=3, perturbation=hard)
    lengths = []
    for split, same in (("train", True), ("validation", False)):
        plain, other = (read_something(tmp_path / name, split) for name in ("plain", "hard"))
        assert [s.label for s in plain.samples] == [s.label for s in other.samples]
        for one, two in zip(plain.samples, other.samples, strict=True):
            frames = [all_frames(sample.video) for sample in (one, two)]
            assert np.array_equal(*frames) == same
            if not same:
                lengths.append(len(frames[1]) / len(frames[0]))
    assert 1 / 1.65 < min(lengths) < 0.9
    assert 1.1 < max(lengths) < 1.65
    with pytest.raises(DatasetError, match="made with other settings"):
        make_dataset(tmp_path / "hard", train=10, validation=20, seed=3)


def test_a_moving_camera_moves_everything() -> None:
    rng = np.random.default_rng(0)
    still = dataclasses.replace(random_motion(1, rng), drift=(0.0, 0.0), travel=(0.0, 0.0))
    still = dataclasses.replace(still, angle_degrees=(0.0, 0.0), scale=(1.0, 1.0))
    moving = dataclasses.replace(still, camera=(20.0, 0.0))
    frames = np.stack(list(render(moving, np.random.default_rng(1)))).astype(float)
    first, last = frames[0, :, :60], frames[-1, :, 20:]
    # Noise and the rounding of half pixels apart, the last frame is the first, 20 px on.
    assert np.abs(first - last).mean() < 8
    assert np.abs(frames[0] - frames[-1]).mean() > 20
    assert perturbed(still, Perturbation(), rng) == still
