"""What is said about what was typed: folders that are walked, addresses, other programs' words."""

import json
from pathlib import Path

from stdeploy.cli.inputs import expand
from tests.cli.program import Inside
from tests.video.videos import numbered_frames, write_video


def test_a_folder_says_what_it_passed_over(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.m2ts", "notes.txt", "c.jpg", ".hidden.mp4", "more/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    told: list[str] = []
    found = expand([str(tmp_path), str(tmp_path)], report=told.append)
    assert [path.name for path in found] == ["a.mp4", "b.m2ts"]
    assert told == [
        f"{tmp_path}: passed over: 2 that are no videos by their names (1 .jpg, 1 .txt), 1 hidden",
        f"{tmp_path}: its folders hold videos too; --recursive takes them as well",
    ]


def test_data_check_says_what_it_passed_over(inside: Inside, tmp_path: Path) -> None:
    for number, name in enumerate(("train/wave", "train/clap", "val/wave", "val/clap")):
        (tmp_path / name).mkdir(parents=True)
        write_video(tmp_path / name / "a.mp4", numbered_frames(12 + number))
    (tmp_path / "train/wave/notes.txt").touch()
    (tmp_path / "val/clap/._a.mp4").touch()
    result = inside("data", "check", ".", "--workers", 1, "--json", cwd=tmp_path)
    said = ".: passed over: 1 that is no video by its name (1 .txt), 1 hidden"
    assert said in result.stderr.splitlines()
    assert json.loads(result.stdout)["passed_over"] == {
        "suffixes": {".txt": 1},
        "hidden": 1,
        "linked": 0,
        "unreadable": 0,
    }
