"""From a folder for each class to lists."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stdeploy.cli.main import app
from stdeploy.datasets.folders import divide
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.datasets.loader import read_split
from stdeploy.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten videos of a class, and three recordings of another; besides, what is no video."""
    videos = [f"wave/{number}.mp4" for number in range(10)]
    videos += [f"clap/{room}/{number}.mov" for room in ("a", "b", "c") for number in range(4)]
    for name in (*videos, "wave/._0.mp4", "wave/notes.txt", ".hidden/1.mp4"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).touch()
    return tmp_path / "mine"


def names(data: LabelledVideos, folder: Path) -> set[str]:
    return {sample.video.relative_to(folder).as_posix() for sample in data.samples}


def test_a_share_of_every_class_is_held_out(folder: Path) -> None:
    split = divide(folder, share=0.2, seed=0)
    assert split["train"].labels == split["validation"].labels == ("clap", "wave")
    assert (split["train"].counts(), split["validation"].counts()) == ([8, 8], [4, 2])
    trained, held_out = names(split["train"], folder), names(split["validation"], folder)
    assert trained.isdisjoint(held_out)
    assert len(trained | held_out) == 22  # without hidden ones and notes
    rooms = [
        {name.split("/")[1] for name in side if "clap" in name} for side in (trained, held_out)
    ]
    assert rooms[0].isdisjoint(rooms[1])


def test_the_seed_decides_and_one_is_left_to_train_on(folder: Path) -> None:
    def held_out(seed: int, share: float = 0.2) -> set[str]:
        return names(divide(folder, share=share, seed=seed)["validation"], folder)

    assert held_out(0) == held_out(0)
    assert len({frozenset(held_out(seed)) for seed in range(4)}) > 1
    assert divide(folder, share=0.99, seed=0)["train"].counts() == [4, 1]


def test_the_lists_are_a_data_set(folder: Path, tmp_path: Path) -> None:
    arguments = ["data", "split", str(folder), "-o", str(tmp_path / "lists")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    for split in ("train", "validation"):
        read = read_split(tmp_path / "lists", split)
        assert [s.video.resolve() for s in read.samples] == [
            s.video.resolve() for s in divide(folder, share=0.2, seed=0)[split].samples
        ]


def test_what_cannot_be_divided_is_one_clear_line(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"and others, .*; `stdeploy data split .* -o LISTS`"):
        read_split(folder, "train")
    with pytest.raises(DatasetError, match=r"--share 1: give a number above 0 and below 1"):
        divide(folder, share=1.0, seed=0)
    with pytest.raises(DatasetError, match=r"wav' is no folder; did you mean '.*/wave'\?$"):
        divide(folder / "wav", share=0.2, seed=0)
    with pytest.raises(DatasetError, match=r"none' is no folder; name one"):
        divide(folder / "none", share=0.2, seed=0)
    with pytest.raises(DatasetError, match=r"wave' holds no folder; each of two or more classes"):
        divide(folder / "wave", share=0.2, seed=0)
    said = rf"holds one folder, '{folder.name}'; .* of its own; name that one\?"
    with pytest.raises(DatasetError, match=said):
        divide(folder.parent, share=0.2, seed=0)
    with pytest.raises(DatasetError, match=rf"does not exist; did you mean '{folder}'\?"):
        read_split(folder.with_name(folder.name + "s"), "train")
    for number in range(1, 10):
        (folder / "wave" / f"{number}.mp4").unlink()
    with pytest.raises(
        DatasetError, match=r"wave' holds only '0\.mp4' \(passed over: 1 that.*\), so nothing can"
    ):
        divide(folder, share=0.2, seed=0)
    (folder / "wave" / "0.mp4").unlink()
    with pytest.raises(
        DatasetError,
        match=r"wave' holds no video \(passed over: 1 that.*\), so nothing can be held out",
    ):
        divide(folder, share=0.2, seed=0)
    with pytest.raises(DatasetError, match=r"is no data set that is known here; name a \.csv list"):
        read_split(folder, "train")
    (folder / "train").mkdir()
    with pytest.raises(DatasetError, match=r"is divided already, it holds 'train'; use it as it"):
        divide(folder, share=0.2, seed=0)
