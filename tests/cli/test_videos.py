"""stdeploy classify and watch on many, long, hostile and live videos, as users run them."""

import csv
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.video.reader import VideoReader
from tests.helpers.models import card_of, tiny_model
from tests.helpers.odd_videos import coloured_frames, encode
from tests.helpers.program import records, stdeploy
from tests.helpers.scenes import scene
from tests.helpers.videos import write_video

CLIP = ClipSpec(num_frames=6, frame_stride=2, fps=12.5, short_side_px=36, crop_px=32)
RUN = ("--backend", "onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    model = tiny_model(temporal_lengths=(1, 1, 3, 1, 3))
    save_checkpoint(folder / "a.pt", model, card_of(model, CLIP))
    for verb in (("fuse", "a.pt"), ("export",)):
        result = stdeploy(*verb, cwd=folder)
        assert result.returncode == 0, result.stderr
    (folder / "clips" / "deep").mkdir(parents=True)
    for number, place in enumerate(("clips/one.mp4", "clips/two.mkv", "clips/deep/three.mp4")):
        encode(folder / place, coloured_frames(60 + 20 * number)[20 * number :], "libx264")
    (folder / "clips" / "broken.mp4").write_bytes(b"no video at all\n" * 50)
    encode(folder / "long.mp4", coloured_frames(250), "libx264")
    return folder


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_folders_are_gone_through_and_rows_go_to_a_file(folder: Path) -> None:
    shallow = stdeploy("classify", "clips", "--json", *RUN, cwd=folder)
    assert "clips: its folders hold videos too; --recursive takes them as well" in shallow.stderr
    flat = records(shallow)
    assert [row["video"] for row in flat] == [
        "clips/broken.mp4",
        "clips/one.mp4",
        "clips/two.mkv",
    ]
    result = stdeploy("classify", "clips", "-r", "-o", "rows.jsonl", *RUN, cwd=folder)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "--recursive" not in result.stderr
    assert "rows.jsonl: 4 rows\n" in result.stderr
    assert result.stderr.endswith(
        "1 of 4 videos could not be classified:\n"
        "  clips/broken.mp4 is no video that can be read here: no known container with a video "
        "stream\n"
    )
    rows = rows_of(folder / "rows.jsonl")
    assert [Path(row["video"]).name for row in rows if "error" not in row] == [
        "three.mp4",
        "one.mp4",
        "two.mkv",
    ]
    same = {row["video"]: row.get("predictions") for row in rows}
    for row in flat:
        assert same[row["video"]] == row.get("predictions")


def test_where_many_fail_the_first_reasons_are_told(folder: Path, tmp_path: Path) -> None:
    names = [f"gone[{number}].mp4" for number in range(5)]
    arguments = ("classify", "clips/one.mp4", *names, "-m", "a.onnx", *RUN)
    headline, *reasons = (
        "5 of 6 videos could not be classified:",
        *(f"  {name} does not exist; name a video file" for name in names[:3]),
    )
    output = tmp_path / "r.csv"
    to_file = stdeploy(*arguments, "-o", output, cwd=folder)
    assert to_file.returncode == 1
    more = f"  ... and 2 more, see the rows with an error in {output}"
    assert to_file.stderr.splitlines()[-5:] == [headline, *reasons, more]
    for_programs = stdeploy(*arguments, "--json", cwd=folder)
    more = "  ... and 2 more, see the rows with an error"
    assert for_programs.stderr.splitlines()[-5:] == [headline, *reasons, more]
    table = stdeploy(*arguments, cwd=folder)
    assert table.stderr.splitlines()[-1] == headline.rstrip(":")  # the reasons are in the table
    assert table.stdout.count("error: does not exist") == 5


def test_resume_leaves_out_what_is_done(folder: Path) -> None:
    first = stdeploy("classify", "clips/one.mp4", "-o", "r.jsonl", *RUN, cwd=folder)
    assert first.returncode == 0, first.stderr
    before = (folder / "r.jsonl").read_text()
    again = stdeploy("classify", "clips", "-o", "r.jsonl", "--resume", *RUN, cwd=folder)
    assert again.returncode == 1
    skipped = "r.jsonl: 3 rows; 1 video was skipped whose content it holds already\n"
    assert skipped in again.stderr
    after = (folder / "r.jsonl").read_text()
    assert after.startswith(before)
    assert [Path(row["video"]).name for row in rows_of(folder / "r.jsonl")] == [
        "one.mp4",
        "broken.mp4",
        "two.mkv",
    ]


def test_content_under_another_name_is_skipped_and_said_to_be(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes((folder / "clips/one.mp4").read_bytes())
    shared = ("-m", folder / "a.onnx", "-o", "dup.csv", *RUN)
    first = stdeploy("classify", "a.mp4", "--top-k", 9, *shared, cwd=tmp_path)
    assert "dup.csv: 1 row\n" in first.stderr
    columns = (tmp_path / "dup.csv").read_text().splitlines()[0].split(",")
    assert [name for name in columns if name.startswith("label")][-1] == "label_5"  # of 5 classes
    shared = ("--top-k", 9, *shared)
    again = stdeploy("classify", "a.mp4", "b.mp4", "--resume", *shared, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (
        "dup.csv: 1 row; 2 videos were skipped whose content it holds already, "
        "1 under another name\n"
    ) in again.stderr
    alone = stdeploy("classify", "c.mp4", "--resume", *shared, cwd=tmp_path)
    assert (
        "dup.csv: 1 row; 1 video was skipped whose content it holds already, under another name\n"
    ) in alone.stderr


def test_rows_of_other_settings_stay_as_they_are(folder: Path, tmp_path: Path) -> None:
    shared = ("classify", "clips/one.mp4", "-o", tmp_path / "r.jsonl", *RUN)
    assert stdeploy(*shared, "--views", 3, cwd=folder).returncode == 0
    before = (tmp_path / "r.jsonl").read_bytes()
    (row,) = rows_of(tmp_path / "r.jsonl")
    assert row["settings"] == "views=3 crops=1 top_k=5"
    timeline = "timeline=windows hop=1.0 enter=0.5 leave=0.3 top_k=5 cuts=True"
    for options, settings in (
        (("--views", 2), "views=2 crops=1 top_k=5"),
        (("--timeline", "windows"), timeline),
    ):
        other = stdeploy(*shared, "--resume", *options, cwd=folder)
        assert other.returncode == 2
        assert f"(views=3 crops=1 top_k=5; now {settings})" in other.stderr
    kept = stdeploy(*shared, cwd=folder)
    assert kept.returncode == 2
    assert "holds rows already; --resume goes on with it, --overwrite begins anew" in kept.stderr
    assert (tmp_path / "r.jsonl").read_bytes() == before
    assert stdeploy(*shared, "--overwrite", cwd=folder).returncode == 0
    assert rows_of(tmp_path / "r.jsonl")[0]["settings"] == "views=1 crops=1 top_k=5"


def test_segments_go_to_a_table_and_are_gone_on_with(folder: Path, tmp_path: Path) -> None:
    options = ("--timeline", "windows", "--enter", 0.2, "-o", tmp_path / "t.csv", *RUN)
    assert stdeploy("classify", "clips/one.mp4", *options, cwd=folder).returncode == 0
    result = stdeploy("classify", "clips", *options, "--resume", cwd=folder)
    assert result.returncode == 1
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {row["video"]: int(row["segments"]) for row in rows}
    assert list(counts) == ["clips/one.mp4", "clips/broken.mp4", "clips/two.mkv"]
    assert len(rows) == sum(max(1, count) for count in counts.values())
    of_all = f"t.csv: {len(rows)} rows of 3 videos; 1 video was skipped"
    assert of_all in result.stderr
    assert {row["settings"] for row in rows} == {
        "timeline=windows hop=1.0 enter=0.2 leave=0.2 top_k=5 cuts=True"
    }
    as_json = stdeploy("classify", "clips/one.mp4", *options[:4], "--json", *RUN, cwd=folder)
    (timeline,) = records(as_json)
    found = [(s["label"], str(s["start"]), str(s["mean_score"])) for s in timeline["segments"]]
    assert found == [
        (row["label"], row["start"], row["mean_score"]) for row in rows if "one" in row["video"]
    ]


def interrupted(
    folder: Path, where: Path, options: tuple[object, ...], when: Callable[[], bool]
) -> tuple[str, str]:
    """What is printed by a run over a broken video and 300 others that Ctrl-C ends."""
    for number in range(300):
        (where / f"{number:03d}.mp4").hardlink_to(folder / "clips" / "one.mp4")
    arguments = (folder / "clips/broken.mp4", where, "-m", folder / "a.onnx", "--jobs", 1)
    with subprocess.Popen(
        [sys.executable, "-m", "stdeploy", "classify", *map(str, (*arguments, *RUN, *options))],
        cwd=where,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"STDEPLOY_CACHE": str(folder.parent / "stdeploy-cache")},
    ) as process:
        assert process.stderr
        assert "1 view a video" in process.stderr.readline()
        while not when():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "1 of 301 videos could not be classified" in errors
    return output, errors


def test_an_interrupted_run_says_which_rows_are_safe(folder: Path, tmp_path: Path) -> None:
    growing = tmp_path / "r.parquet.unfinished.jsonl"

    def some_are_there() -> bool:
        return growing.exists() and growing.read_text().count("\n") > 2

    options = ("-o", "r.parquet")
    output, errors = interrupted(folder, tmp_path, options, some_are_there)
    count = len(growing.read_text().splitlines())
    assert output == ""
    assert (
        f"interrupted: {count} of 301 videos; {count} rows are safe in {growing.name}, "
        "--resume goes on\n"
    ) in errors


def test_an_interrupted_table_ends_with_how_far_it_came(folder: Path, tmp_path: Path) -> None:
    sheets = tmp_path / "sheets"

    def some_are_there() -> bool:
        return sheets.is_dir() and len(list(sheets.iterdir())) > 3

    output, _ = interrupted(folder, tmp_path, ("--contact-sheet", sheets), some_are_there)
    last = re.fullmatch(r"interrupted: (\d+) of 301 videos", output.splitlines()[-1])
    assert last
    assert output.count(" 0.") == 5 * (int(last[1]) - 1)  # labels of all but the broken one


def test_a_list_names_videos_from_where_it_lies(folder: Path, tmp_path: Path) -> None:
    (folder / "clips" / "list.txt").write_text("# two of them\none.mp4\n\n deep/three.mp4\n")
    result = stdeploy("classify", "--list", "clips/list.txt", "--json", *RUN, cwd=folder)
    assert [row["video"] for row in records(result)] == ["clips/one.mp4", "clips/deep/three.mp4"]
    piped = subprocess.run(
        [sys.executable, "-m", "stdeploy", "classify", "--list", "-", "--json", *RUN],
        input="# from here\nclips/one.mp4\n",
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"STDEPLOY_CACHE": str(folder.parent / "stdeploy-cache")},
        check=True,
    )
    assert json.loads(piped.stdout)["video"] == "clips/one.mp4"
    (tmp_path / "empty.txt").write_text("# none\n\n")
    for options in ((), ("-o", tmp_path / "r.csv")):
        empty = stdeploy("classify", "--list", tmp_path / "empty.txt", *options, cwd=folder)
        assert empty.returncode == 2
        assert "the lists name no video" in empty.stderr
    assert not (tmp_path / "r.csv").exists()
    missing = stdeploy("classify", "--list", "none.txt", cwd=folder)
    assert missing.returncode == 2
    assert "the list 'none.txt' cannot be read: No such file" in missing.stderr


def test_untrusted_files_give_the_same_answers(folder: Path) -> None:
    trusted = stdeploy("classify", "clips", "--json", *RUN, cwd=folder)
    untrusted = stdeploy("classify", "clips", "--json", "--untrusted", *RUN, cwd=folder)
    assert untrusted.returncode == 1
    for one, other in zip(records(trusted), records(untrusted), strict=True):
        one.pop("timings_ms", None), other.pop("timings_ms", None)
        assert one == other


def test_batches_and_jobs_change_nothing(folder: Path) -> None:
    many = ("--batch", 4, "--jobs", 3, "--views", 3)
    together = records(stdeploy("classify", "clips", "--json", *many, *RUN, cwd=folder))
    alone = records(stdeploy("classify", "clips", "--json", "--views", 3, *RUN, cwd=folder))
    for one, other in zip(together, alone, strict=True):
        assert one["video"] == other["video"]
        for found, expected in zip(
            one.get("predictions", []), other.get("predictions", []), strict=True
        ):
            assert found["label"] == expected["label"]
            assert found["score"] == pytest.approx(expected["score"], abs=1e-5)


@pytest.mark.parametrize("how", ["windows", "dense"])
def test_a_timeline_covers_the_video(folder: Path, how: str) -> None:
    # Half of each picture is its number, whose bits change all at once: that is a cut as well.
    timeline = ("--timeline", how, "--hop", 0.48, "--enter", 0.3, "--leave", 0.2, "--no-cuts")
    (row,) = records(stdeploy("classify", "long.mp4", "--json", *timeline, *RUN, cwd=folder))
    assert row["timeline"] == how
    assert row["duration_seconds"] == pytest.approx(10.0)
    windows = row["windows"]
    assert windows[0]["start"] == 0
    assert windows[-1]["end"] == pytest.approx(10.0)
    assert all(a["end"] == b["start"] for a, b in itertools.pairwise(windows))
    assert len(windows) == 20  # starts at 0, 0.48, ... below 10 - 0.8
    assert row["segments"]
    table = stdeploy("classify", "long.mp4", *timeline, *RUN, cwd=folder)
    assert re.search(r"video +┃ +start ┃ +end ┃ score ┃ label ", table.stdout)
    assert re.search(r"long\.mp4 │ 0:0\d\.\d │ 0:\d\d\.\d │ 0\.\d{3} │ class \d", table.stdout)
    assert "a window every 0.48 s" in table.stderr
    assert "view" not in table.stderr


def test_a_timeline_says_where_the_video_is_cut_unless_it_is_not_to_look(
    folder: Path, tmp_path: Path
) -> None:
    pictures = scene(0, 40) + scene(1, 40)
    write_video(tmp_path / "two.mkv", pictures, 12.0, codec="FFV1")
    shared = ("classify", tmp_path / "two.mkv", "--timeline", "windows", "--json", *RUN)
    (row,) = records(stdeploy(*shared, cwd=folder))
    assert row["cuts_seconds"] == [3.333]
    assert 3.333 in {window["start"] for window in row["windows"]}
    (row,) = records(stdeploy(*shared, "--no-cuts", cwd=folder))
    assert "cuts_seconds" not in row
    assert 3.333 not in {window["start"] for window in row["windows"]}


def test_pictures_and_videos_of_results(folder: Path, tmp_path: Path) -> None:
    result = stdeploy(
        *("classify", "long.mp4", "clips/one.mp4", "--timeline", "windows", "--json", *RUN),
        *("--save-plot", tmp_path / "plots", "--save-video", tmp_path / "videos"),
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    for row, name in zip(records(result), ("long", "one"), strict=True):
        assert row["plot"] == str(tmp_path / "plots" / f"{name}.timeline.png")
        assert row["labelled_video"] == str(tmp_path / "videos" / f"{name}.labels.mp4")
        assert Path(row["plot"]).is_file()
    assert f"{tmp_path / 'plots'}: 2 timelines\n" in result.stderr
    assert f"{tmp_path / 'videos'}: 2 labelled videos\n" in result.stderr
    sheet_of = ("--views", 2, "--contact-sheet", tmp_path / "sheet.png", "--json")
    for told in (": 1 contact sheet\n", ": 1 contact sheet, in place of an earlier one\n"):
        result = stdeploy("classify", "clips/one.mp4", *sheet_of, *RUN, cwd=folder)
        assert f"{tmp_path / 'sheet.png'}{told}" in result.stderr
    (row,) = records(result)
    assert row["contact_sheet"] == str(tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (24 + 2 * (160 + 18 + 4), 4 + 8 * 164, 3)
    assert (sheet[:24, :656] < 128).any()  # score and label
    assert (sheet[:24, 656:] < 128).any()  # the name
    written = VideoReader(tmp_path / "videos" / "long.labels.mp4").timing
    assert len(written.timestamps) == 250
    assert written.duration == pytest.approx(10.0, abs=0.05)


def test_pictures_of_an_earlier_run_stay_when_a_run_goes_on(folder: Path, tmp_path: Path) -> None:
    for place, source in (("a", "one.mp4"), ("b", "deep/three.mp4")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.mp4").write_bytes((folder / "clips" / source).read_bytes())
    options = ("-m", folder / "a.onnx", "-o", "r.csv", "--contact-sheet", "sheets", *RUN)
    first = stdeploy("classify", "a/x.mp4", *options, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    before = (tmp_path / "sheets" / "x.frames.png").read_bytes()
    again = stdeploy("classify", ".", "-r", *options, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "sheets" / "x.frames.png").read_bytes() == before
    with (tmp_path / "r.csv").open(newline="") as file:
        sheets = {row["video"]: row["contact_sheet"] for row in csv.DictReader(file)}
    assert sheets == {"a/x.mp4": "sheets/x.frames.png", "b/x.mp4": "sheets/x-2.frames.png"}
    assert (tmp_path / "sheets" / "x-2.frames.png").read_bytes() != before


def test_a_folder_of_folders_says_what_to_add(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "x.mp4").write_bytes((folder / "clips/one.mp4").read_bytes())
    options = ("-m", folder / "a.onnx", "--json", *RUN)
    (row,) = records(stdeploy("classify", tmp_path / "tree", *options, cwd=folder))
    assert row["error"] == "holds no video itself, but its folders do; add --recursive"
    (tmp_path / "tree" / "deep" / "x.mp4").unlink()
    (row,) = records(stdeploy("classify", tmp_path / "tree", *options, cwd=folder))
    assert row["error"] == "is a folder without a video; name a video file"


def test_a_small_share_of_a_long_video_is_said(folder: Path, tmp_path: Path) -> None:
    encode(tmp_path / "minute.mp4", coloured_frames(240), "libx264", rate=4)
    (tmp_path / "again.mp4").write_bytes((tmp_path / "minute.mp4").read_bytes())
    videos = ("clips/one.mp4", tmp_path / "minute.mp4", tmp_path / "again.mp4")
    result = stdeploy("classify", *videos, "--views", 10, *RUN, cwd=folder)
    said = re.search(r"(\S+): the answer rests on \d+ s of 60 s; --timeline (.*)", result.stderr)
    assert said
    assert said[1] == str(tmp_path / "minute.mp4")
    assert said[2] == "windows looks at all of it (1 more like it)"
    enough = stdeploy("classify", *videos, "--views", 64, *RUN, cwd=folder)
    assert "rests on" not in enough.stderr


def test_what_lies_behind_damage_is_said(folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.mp4"
    encode(whole, coloured_frames(200), "libx264", container_options={"movflags": "faststart"})
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    videos = ("classify", whole, tmp_path / "cut.mp4")
    for options in ((), ("--untrusted",), ("--timeline", "windows")):
        sound, cut = records(stdeploy(*videos, "--json", *options, *RUN, cwd=folder))
        assert "damaged_after_seconds" not in sound
        assert cut["damaged_after_seconds"] == cut["duration_seconds"]
        assert 4.0 < cut["duration_seconds"] < 6.0
    table = stdeploy(*videos, *RUN, cwd=folder)
    assert table.stdout.count("damaged after") == 1
    assert f"damaged after {cut['damaged_after_seconds']:.1f} s" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no videos were named"),
        (("long.mp4", "--resume"), "--resume and --overwrite need --output"),
        (("long.mp4", "-o", "a.csv", "--resume", "--overwrite"), "give one"),
        (("long.mp4", "--save-plot", "a.png"), "add --timeline windows"),
        (("long.mp4", "-o", "a.xlsx"), "has to end in .jsonl, .csv or .parquet"),
        (("long.mp4", "--timeline", "windows", "--views", "3"), "leave one of them out"),
        (
            ("long.mp4", "--timeline", "windows", "--contact-sheet", "a.png"),
            "--contact-sheet shows the views of one answer",
        ),
        (
            ("long.mp4", "--timeline", "windows", "--save-plot", "a.jpg"),
            "has to end in .png or .svg",
        ),
        (("long.mp4", "clips", "--contact-sheet", "a.png"), "is one file, but there are 4 videos"),
        (
            ("long.mp4", "--timeline", "windows", "--enter", "0.2", "--leave", "0.3"),
            "begins at --enter 0.2 cannot end below --leave 0.3",
        ),
    ],
)
def test_wrong_usage_is_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    result = stdeploy("classify", *arguments, cwd=folder)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_watch_answers_while_a_pipe_goes_on_and_ends_on_ctrl_c(folder: Path) -> None:
    encode(folder / "live.ts", coloured_frames(250), "mpeg2video")
    content = (folder / "live.ts").read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-m", "stdeploy", "watch", "-", "--json", "--hop", "0.2", *RUN],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
        env=os.environ | {"STDEPLOY_CACHE": str(folder.parent / "stdeploy-cache")},
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(content[: len(content) * 2 // 3])
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    assert first["predictions"][0]["label"].startswith("class ")
    assert 0 <= first["lag_seconds"] < 10
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"waiting for standard input; a clip spans" in errors
    assert b"ended" in errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize("name", ["empty", "index-at-its-end.mp4"])
def test_watch_of_a_pipe_without_a_frame_is_an_error(
    folder: Path, tmp_path: Path, name: str
) -> None:
    video = tmp_path / name
    video.touch()
    if video.suffix:  # small ones fit into FFmpeg's buffers
        encode(video, coloured_frames(100, width=640, height=480), "libx264")
    with subprocess.Popen(["cat", video], stdout=subprocess.PIPE) as cat:
        result = subprocess.run(
            [sys.executable, "-m", "stdeploy", "watch", "-", "-m", folder / "a.onnx", *RUN],
            stdin=cat.stdout,
            capture_output=True,
            text=True,
            env=os.environ | {"STDEPLOY_CACHE": str(folder.parent / "stdeploy-cache")},
            check=False,
        )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        "stdeploy: the pipe ended without a frame; an .mp4 whose index lies at its end cannot be "
        "read from a pipe: use MPEG-TS or Matroska"
    )


def test_lines_of_watch_are_not_broken_within_words_on_a_terminal(folder: Path) -> None:
    encode(folder / "short.ts", coloured_frames(60), "mpeg2video")
    ours, theirs = os.openpty()
    with subprocess.Popen(["cat", folder / "short.ts"], stdout=subprocess.PIPE) as cat:
        subprocess.run(
            [sys.executable, "-m", "stdeploy", "watch", "-", "-m", "a.onnx", "-k", "5", *RUN],
            cwd=folder,
            stdin=cat.stdout,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env=os.environ
            | {"STDEPLOY_CACHE": str(folder.parent / "stdeploy-cache"), "COLUMNS": "50"},
            check=True,
        )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    lines = [line.rstrip() for line in shown.splitlines()]
    assert len(lines) > 1
    assert max(map(len, lines)) <= 50
    words = re.findall(r"\S+", shown)
    assert words.count("class") == 5 * sum(word == "lag" for word in words)
    assert all(re.fullmatch(r"class|lag|s|\d|\d+\.\d+|[\d:]{8}", word) for word in words)
    assert len(re.findall(r"\d\.\d{3} class \d", shown)) == words.count("class")


def test_rows_go_to_standard_output_beside_a_bar_on_a_terminal(folder: Path) -> None:
    ours, theirs = os.openpty()
    result = subprocess.run(
        [sys.executable, "-m", "stdeploy", "classify", "clips/one.mp4", "--json", *RUN],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=os.environ | {"STDEPLOY_CACHE": str(folder.parent / "stdeploy-cache")},
        check=True,
    )
    os.close(theirs)
    os.close(ours)
    assert json.loads(result.stdout)["video"] == "clips/one.mp4"


def test_a_video_is_not_written_over_itself(folder: Path) -> None:
    before = (folder / "long.mp4").read_bytes()
    result = stdeploy("classify", "long.mp4", "--save-video", "long.mp4", *RUN, cwd=folder)
    assert result.returncode == 2
    assert "over the file that it is made from" in " ".join(result.stderr.split())
    assert (folder / "long.mp4").read_bytes() == before


def test_a_pipe_in_a_folder_has_its_row(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mp4")
    result = stdeploy(
        *("classify", tmp_path, "-m", folder / "a.onnx", "-o", tmp_path / "r.jsonl", *RUN),
        cwd=folder,
    )
    assert result.returncode == 1
    assert rows_of(tmp_path / "r.jsonl")[0]["error"] == "is no ordinary file; name a video file"
