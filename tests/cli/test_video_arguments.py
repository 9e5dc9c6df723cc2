"""What is said about what was typed: folders that are walked, addresses, other programs' words."""

import json
from pathlib import Path

import pytest

from stdeploy.cli.formatters import ShowTable, name_in_lines
from stdeploy.cli.help import setting_meant, verb_meant
from stdeploy.cli.video_arguments import common_folder, expand, is_address, wrong_with_address
from tests.helpers.program import Inside
from tests.helpers.videos import numbered_frames, write_video


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


def test_an_address_on_a_list_has_its_row_with_what_to_do(inside: Inside, chain: Path) -> None:
    (chain / "list.txt").write_text("a.mp4\nhttps://example.com/b.mp4\n")
    result = inside("classify", "--list", "list.txt", "--json", "-m", "ckpt.onnx", cwd=chain)
    assert result.returncode == 1
    good, wrong = (json.loads(line) for line in result.stdout.splitlines())
    assert good["predictions"]
    assert wrong["error"] == (
        "is an address, no file; download it first (curl -LO https://example.com/b.mp4), or watch "
        "it if it is a stream: stdeploy watch https://example.com/b.mp4"
    )


def test_what_is_no_address_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [is_address(text) for text in ("c:/a.mp4", "10:30.mp4", "a/b.mp4", "-")] == [False] * 4
    assert is_address("HTTP://a/b.mp4")
    (tmp_path / "rtsp:").mkdir()
    (tmp_path / "rtsp:" / "a.mp4").touch()
    assert not is_address("rtsp:/a.mp4")
    assert "curl" not in wrong_with_address("rtsp://a/b")


def test_names_of_other_programs_are_known() -> None:
    assert verb_meant("predict") == verb_meant("Infer") == "classify"
    assert verb_meant("convert") == "export"
    assert verb_meant("sing") is None
    assert setting_meant("--learning-rate") == "--set optimisation.learning_rate=X"
    assert setting_meant("--batch_size") == "--set optimisation.batch_size=N"
    assert setting_meant("--num-frames") == "--set clip.num_frames=N"
    assert setting_meant("--arch") == "--set model.architecture=VALUE"
    assert setting_meant("--gpus") == "--devices"
    assert setting_meant("--song") is None


def test_names_are_broken_after_folders_then_between_words() -> None:
    name = "2026/kitchen_left/waving_hello_to_all.mp4"
    assert name_in_lines(name, 60) == [name]
    assert name_in_lines(name, 24) == ["2026/kitchen_left/", "waving_hello_to_all.mp4"]
    assert name_in_lines(name, 13) == ["2026/", "kitchen_left/", "waving_hello_", "to_all.mp4"]
    assert name_in_lines("aaaaaaaa", 3) == ["aaa", "aaa", "aa"]
    assert "".join(name_in_lines(name, 5)) == name


def test_names_in_a_table_are_shown_from_the_folder_that_was_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path("/data/of/the/laboratory/with/a/long/name")
    show = ShowTable(timeline=False, folder=folder)
    answers = [{"label": "catching or throwing frisbee", "score": 0.5}]
    for name in ("a.mp4", "left_hand/RATRACE_wave_f_nm_np1_fr_goo_37_and_so_on.avi"):
        show.add({"video": str(folder / name), "predictions": answers})
    show.add({"video": str(folder / "broken.mp4"), "error": "is no video that can be read here"})
    show.end()
    lines = capsys.readouterr().out.splitlines()
    cells = [line.split("\u2502")[1].strip() for line in lines if line.startswith("\u2502")]
    assert [cell for cell in cells if cell] == [
        "a.mp4",
        "left_hand/RATRACE_wave_f_nm_np1_",
        "fr_goo_37_and_so_on.avi",
        "broken.mp4",
    ]
    assert lines[-1].strip() == f"in {folder}"


def test_the_folder_of_a_table_holds_all_that_was_given(tmp_path: Path) -> None:
    for name in ("a/b", "a/c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "x.mp4").touch()
    one, other = str(tmp_path / "a" / "b"), str(tmp_path / "a" / "c")
    assert common_folder([one]) == tmp_path / "a" / "b"
    assert common_folder([one, other]) == tmp_path / "a"
    assert common_folder([one, str(tmp_path / "x.mp4")]) is None
    assert common_folder(["."]) is None
    assert common_folder([]) is None
