import json
from pathlib import Path

import numpy as np
import pytest

from stdeploy.errors import DatasetError
from stdeploy.train import synthetic
from stdeploy.train.data.something import read_something
from stdeploy.train.synthetic import REVERSED_PAIRS, make_dataset, random_motion, render
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
        assert 22 <= len(reader.timestamps) <= 30
        assert reader.fps == pytest.approx(12.0, rel=0.01)
        assert reader.gather(np.array([0]), lambda image: image).shape == (1, 72, 80, 3)


def test_second_class_of_a_pair_is_the_first_played_backwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = {}
    monkeypatch.setattr(
        synthetic, "_write_webm", lambda path, frames: written.update({path.stem: frames})
    )
    for number in (1, 2):
        synthetic._write_video(tmp_path, 0, number)
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
