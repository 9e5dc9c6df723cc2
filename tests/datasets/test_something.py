import json
from pathlib import Path

import pytest

from stdeploy.datasets.loader import read_split
from stdeploy.datasets.something_something import read_something
from stdeploy.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    videos = tmp_path / "20bn-something-something-v2"
    videos.mkdir()
    entries = [
        {"id": "7", "label": "holding pen", "template": "Holding [something]"},
        {"id": "9", "label": "pen next to box", "template": "[Something] next to [something]"},
    ]
    for entry in entries:
        (videos / f"{entry['id']}.webm").touch()
    (tmp_path / "labels.json").write_text(
        json.dumps({"Something next to something": "1", "Holding something": "0"})
    )
    for split in ("train", "validation"):
        (tmp_path / f"{split}.json").write_text(json.dumps(entries))
    return tmp_path


def test_placeholders_lead_to_labels_in_the_order_of_their_numbers(folder: Path) -> None:
    data = read_something(folder, "train")
    assert data.labels == ("Holding something", "Something next to something")
    assert [(s.video.name, s.label) for s in data.samples] == [("7.webm", 0), ("9.webm", 1)]
    assert data.reverse == {}


def test_reversed_pairs_are_read(folder: Path) -> None:
    pair = ["Holding something", "Something next to something"]
    (folder / "reversed_pairs.json").write_text(json.dumps([pair]))
    assert read_something(folder, "train").reverse == {0: 1, 1: 0}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.json", '{"Holding something": "3"}', "does not number its labels 0, 1"),
        ("labels.json", '{"Holding something": "0"}', "which labels.json does not list"),
        ("labels.json", "{", "cannot be read"),
        ("labels.json", "[]", "does not number its labels"),
        ("labels.json", "[" * 10**5, "cannot be read: its lists or tables are nested deeper"),
        ("labels.json", '{"a": ' + "9" * 5000 + "}", "cannot be read: a number in it has more"),
        ("labels.json", '{"Holding something": "x"}', "does not number its labels"),
        ("train.json", '[{"id": "7"}]', "is no video with an id and a template"),
        ("train.json", "5", "is no list of videos"),
        ("reversed_pairs.json", '[["a", "b"]]', "is no pair of labels of labels.json"),
        ("reversed_pairs.json", "5", "5 is no pair of labels"),
    ],
)
def test_a_bad_file_is_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_something(folder, "train")


def test_missing_videos_are_counted(folder: Path) -> None:
    (folder / "20bn-something-something-v2" / "9.webm").unlink()
    assert len(read_something(folder, "train").samples) == 2
    with pytest.raises(DatasetError, match=r"1 of the 2 training videos .* the first is .*9\.webm"):
        read_split(folder, "train")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"labels\.json' does not exist; a data set"):
        read_something(tmp_path, "train")
