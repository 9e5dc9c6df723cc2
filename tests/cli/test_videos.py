"""stdeploy classify and watch on many, long, hostile and live videos, as users run them."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.spec import ClipSpec
from stdeploy.video.reader import VideoReader
from tests.cli.test_cli import records, stdeploy
from tests.conftest import card_of, tiny_model
from tests.video.odd import coloured_frames, encode

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
    flat = records(stdeploy("classify", "clips", "--json", *RUN, cwd=folder))
    assert [row["video"] for row in flat] == [
        "clips/broken.mp4",
        "clips/one.mp4",
        "clips/two.mkv",
    ]
    result = stdeploy("classify", "clips", "-r", "-o", "rows.jsonl", *RUN, cwd=folder)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "rows.jsonl: 4 videos" in result.stderr
    rows = rows_of(folder / "rows.jsonl")
    assert [Path(row["video"]).name for row in rows if "error" not in row] == [
        "three.mp4",
        "one.mp4",
        "two.mkv",
    ]
    same = {row["video"]: row.get("predictions") for row in rows}
    for row in flat:
        assert same[row["video"]] == row.get("predictions")


def test_resume_leaves_out_what_is_done(folder: Path) -> None:
    first = stdeploy("classify", "clips/one.mp4", "-o", "r.jsonl", *RUN, cwd=folder)
    assert first.returncode == 0, first.stderr
    before = (folder / "r.jsonl").read_text()
    again = stdeploy("classify", "clips", "-o", "r.jsonl", "--resume", *RUN, cwd=folder)
    assert again.returncode == 1
    assert "3 videos, 1 of them from before" in again.stderr
    after = (folder / "r.jsonl").read_text()
    assert after.startswith(before)
    assert [Path(row["video"]).name for row in rows_of(folder / "r.jsonl")] == [
        "one.mp4",
        "broken.mp4",
        "two.mkv",
    ]


def test_a_list_names_videos_from_where_it_lies(folder: Path, tmp_path: Path) -> None:
    (folder / "clips" / "list.txt").write_text("one.mp4\n\ndeep/three.mp4\n")
    result = stdeploy("classify", "--list", "clips/list.txt", "--json", *RUN, cwd=folder)
    assert [row["video"] for row in records(result)] == ["clips/one.mp4", "clips/deep/three.mp4"]
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
    timeline = ("--timeline", how, "--hop", 0.48, "--enter", 0.3, "--leave", 0.2)
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
    assert "0:00.0 to 0:" in table.stdout


def test_pictures_and_videos_of_results(folder: Path, tmp_path: Path) -> None:
    result = stdeploy(
        *("classify", "long.mp4", "clips/one.mp4", "--timeline", "windows", *RUN),
        *("--save-plot", tmp_path / "plots", "--contact-sheet", tmp_path / "sheets"),
        *("--save-video", tmp_path / "videos"),
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {
        "long.timeline.png",
        "one.timeline.png",
    }
    sheet = cv2.imread(str(tmp_path / "sheets" / "one.frames.png"))
    assert sheet.shape == (160 + 18 + 4, 4 + 8 * 164, 3)
    written = VideoReader(tmp_path / "videos" / "long.labels.mp4").timing
    assert len(written.timestamps) == 250
    assert written.duration == pytest.approx(10.0, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no videos were named"),
        (("long.mp4", "--resume"), "--resume needs --output"),
        (("long.mp4", "--save-plot", "a.png"), "add --timeline windows"),
        (("long.mp4", "-o", "a.xlsx"), "has to end in .jsonl, .csv or .parquet"),
        (("long.mp4", "--timeline", "windows", "-o", "a.csv"), "name a .jsonl file"),
        (("long.mp4", "clips", "--contact-sheet", "a.png"), "is one file, but there are 4 videos"),
        (
            ("long.mp4", "--timeline", "windows", "--enter", "0.2"),
            "begin at a score of 0.2 and end below 0.3",
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
    assert b"ended" in errors
    assert b"Traceback" not in errors


def test_watch_refuses_files(folder: Path) -> None:
    result = stdeploy("watch", "long.mp4", cwd=folder)
    assert result.returncode == 2
    assert "files are for stdeploy classify" in " ".join(result.stderr.split())


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
