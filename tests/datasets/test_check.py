"""A look at real files: what is wrong with a data set, and what is left of it."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stdeploy.cli.main import app
from stdeploy.datasets.check import ClassFinding, judge_classes, look
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample
from stdeploy.datasets.loader import read_split
from tests.helpers.odd_videos import coloured_frames, encode
from tests.helpers.videos import set_rotation, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven good videos, and one of each thing that can be wrong."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for name in [f"{number}.mp4" for number in range(6)] + ["short.mp4"]:
        count = 5 if name == "short.mp4" else 24
        frames = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(count)]
        write_video(folder / name, frames, fps=12.0)
    (folder / "broken.mp4").write_bytes(b"no video")
    for copy, source in (("copy", "0"), ("leak", "5"), ("other", "1")):
        shutil.copy(folder / f"{source}.mp4", folder / f"{copy}.mp4")
    good = ("0 wave", "1 wave", "2 clap", "3 clap")
    rows = {
        "train": (
            *(*good, "copy wave", "leak wave", "other clap"),
            *("short clap", "broken wave", "gone wave"),
        ),
        "validation": ("4 wave", "5 wave"),
    }
    for split, lines in rows.items():
        text = "".join(f"{n}.mp4,{label}\n" for n, label in (line.split() for line in lines))
        (folder / f"{split}.csv").write_text(f"path,label\n{text}")
    return folder


def test_a_video_that_is_listed_twice_is_no_copy_of_another(folder: Path, tmp_path: Path) -> None:
    rows = "".join(f"{folder / name},wave\n" for name in ("0.mp4", "0.mp4", "copy.mp4"))
    (tmp_path / "train.csv").write_text(f"path,label\n{rows}")
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "train.csv"), "--json"])
    found = [finding["detail"] for finding in json.loads(result.stdout)["findings"]]
    assert found == ["is listed twice", f"is a copy of {str(folder / '0.mp4')!r}"]


def test_a_look_decodes_to_the_end(folder: Path) -> None:
    looked = look(folder / "0.mp4")
    assert (looked.reason, looked.frames) == (None, 24)
    assert looked.seconds == pytest.approx(2.0, abs=0.01)
    assert "is no video" in (look(folder / "broken.mp4").reason or "")


def test_everything_wrong_is_found_and_the_lists_go_without_it(
    folder: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        app, ["data", "check", str(folder), "--json", "-o", str(tmp_path / "clean")]
    )
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    found = {Path(f["video"]).stem: (f["kind"], f["dropped"]) for f in content["findings"]}
    assert found == {
        "broken": ("broken", True),
        "gone": ("broken", True),
        "copy": ("duplicate", True),
        "leak": ("leaked", True),
        "1": ("mislabelled", True),
        "other": ("mislabelled", True),
        "short": ("short", False),
    }
    details = {Path(f["video"]).stem: f["detail"] for f in content["findings"]}
    assert details["1"] == "is the same file under 'clap' (other.mp4), 'wave' (1.mp4)"
    assert details["short"] == "is 0.42 s long, under 1 s"
    assert content["classes"]["train"] == {"clap": 3, "wave": 1}
    clean = read_split(tmp_path / "clean", "train")
    assert [(s.video.name, clean.labels[s.label]) for s in clean.samples] == [
        ("0.mp4", "wave"),
        ("2.mp4", "clap"),
        ("3.mp4", "clap"),
        ("short.mp4", "clap"),
    ]
    with (tmp_path / "clean" / "validation.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_a_video_that_was_cut_off_in_a_copy_is_left_out(folder: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    frames = coloured_frames(200)
    encode(whole, frames, "libx264", container_options={"movflags": "faststart"})
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    rows = "".join(f"{path},wave\n" for path in (whole, cut))
    (tmp_path / "train.csv").write_text(f"path,label\n{rows}")
    looked = look(cut)
    assert looked.reason is None
    assert 0 < looked.frames < 200
    assert looked.announced_seconds == pytest.approx(look(whole).seconds)
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "train.csv"), "--json"])
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    (found,) = content["findings"]
    assert (Path(found["video"]), found["kind"], found["dropped"]) == (cut, "damaged", True)
    ends = f"breaks off after {looked.seconds:.1f} s of {looked.announced_seconds:.1f} s"
    assert found["detail"] == f"{ends}; copy it again"
    assert content["classes"] == {"train": {"wave": 1}}


def test_a_recipe_is_held_against_the_videos(folder: Path, tmp_path: Path) -> None:
    """Two videos of 64x48 px and 24 frames at 12 a second; one of them stands upright."""
    turned = tmp_path / "turned.mp4"
    shutil.copy(folder / "2.mp4", turned)
    set_rotation(turned, 90)
    assert [(seen.width_px, seen.height_px) for seen in map(look, (folder / "0.mp4", turned))] == [
        (64, 48),
        (48, 64),
    ]
    (tmp_path / "train.csv").write_text(f"path,label\n{folder / '0.mp4'},a\n{turned},b\n")
    settings = (
        *("clip.num_frames=16", "clip.crop_px=48", "clip.short_side_px=48"),
        *("augmentation.frame_strides=[1,2]", "augmentation.ego_motion_sigma_px=0.5"),
    )
    arguments = [
        *("data", "check", str(tmp_path / "train.csv"), "--min-videos", "1"),
        *("--recipe", "starter", *(word for each in settings for word in ("--set", each))),
    ]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    *_, moving, short = shown.stdout.splitlines()
    # A frame has room of 16 px in one direction, and none in the other.
    assert moving == (
        "recipe starter: ego-motion (eq. 9), x/y: of paths of 6.0 px there is room for 2.9/2.9 px, "
        "of sigma 0.5 px a frame for 0.3/0.3; 52%/52% of clips are held at a border"
    )
    # 16 frames at r = 2 would be 32 of the video: four are past its end, in half of the clips.
    assert short == (
        "recipe starter: 12% of the frames of training clips lie past the end of their video "
        "(short_video = hold: its last frame stands still); the sampling rate r of eq. (8) is seen "
        "as 1.50 +- 0.50"
    )
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["short_videos"]["past_end"] == pytest.approx(4 / 32)
    assert found["ego_motion"]["path_px"] == pytest.approx([2.9, 2.9], abs=0.1)


def test_settings_without_a_recipe_are_refused(folder: Path) -> None:
    result = CliRunner().invoke(app, ["data", "check", str(folder), "--set", "clip.fps=3"])
    assert result.exit_code != 0
    assert "belong to a recipe" in str(result.exception)


def test_a_good_set_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text(f"path,label\n{folder / '0.mp4'},a\n{folder / '2.mp4'},b\n")
    result = CliRunner().invoke(
        app, ["data", "check", str(tmp_path / "good.csv"), "--min-videos", "1"]
    )
    assert result.exit_code == 0
    assert "2 good videos in 2 classes of 1 to 1 training videos" in result.stdout
    assert "nothing is wrong" in result.stdout


def test_mini_sets_are_written_as_lists(folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        for split in ("train", "validation"):
            (tmp_path / split / f"class{number}").mkdir(parents=True)
            shutil.copy(folder / f"{number}.mp4", tmp_path / split / f"class{number}")
    arguments = ["data", "mini", str(tmp_path), "-o", str(tmp_path / "mini"), "--seed", "1"]
    first, again = (CliRunner().invoke(app, arguments) for _ in range(2))
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert "in place of" not in first.stderr
    assert again.stderr.count("3 classes, in place of an earlier list") == 2
    training, held_out = (read_split(tmp_path / "mini", s) for s in ("train", "validation"))
    assert len(training.labels) == 3
    assert training.labels == held_out.labels
    assert {s.video.parent.name for s in training.samples} == set(training.labels)


def test_classes_without_videos_are_found(folder: Path, tmp_path: Path) -> None:
    """The newcomer's case: every video of a class in training, none in validation."""
    (tmp_path / "train.csv").write_text(
        f"path,label\n{folder / '0.mp4'},Wave\n{folder / '2.mp4'},clap\n{folder / '3.mp4'},clap\n"
    )
    (tmp_path / "validation.csv").write_text(f"path,label\n{folder / '4.mp4'},clap\n")
    arguments = ["data", "check", str(tmp_path), "-o", str(tmp_path / "clean")]
    result = CliRunner().invoke(app, [*arguments, "--min-videos", "2"])
    assert result.exit_code == 1
    assert "empty: class 'Wave' has no validation video; its accuracy cannot" in result.stdout
    assert "few: class 'Wave' has 1 training video, under 2" in result.stdout
    assert "few: 1 validation video, under 2; each is 100 points of accuracy" in result.stdout
    assert "looked at; few videos, empty classes" in result.stdout
    assert (tmp_path / "clean" / "train.csv").is_file()
    content = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [(found["kind"], found["labels"]) for found in content["class_findings"]] == [
        ("few", ["Wave", "clap"]),
        ("empty", ["Wave"]),
        ("few", ["Wave", "clap"]),
    ]


def test_one_class_in_two_spellings_is_found() -> None:
    labels = ("Arm wave", "arm_wave", "clap")
    videos = tuple(Sample(Path(f"{number}.mp4"), number % 3) for number in range(9))
    (found,) = judge_classes({"train": LabelledVideos(labels, videos)}, min_videos=3)
    assert (found.kind, found.labels) == ("alike", ("Arm wave", "arm_wave"))


@pytest.mark.parametrize(
    "slip", ["fihgt", "figt", "figght", "fisht", "ifght", "fightt", "Fihgt", "f-ihgt"]
)
def test_a_rare_class_one_letter_from_a_common_one_is_found(slip: str) -> None:
    (found,) = alike({"fight": 8, slip: 2, "noFight": 8})
    assert (found.kind, found.labels) == ("alike", ("fight", slip))
    assert found.detail == (
        f"class {slip!r} (2 training videos) differs from 'fight' (8) by one letter; if it is one "
        "class, give both one name"
    )


@pytest.mark.parametrize(
    "counts",
    [
        {"walking": 9, "talking": 8},  # words of their own
        {"fight": 8, "fihgt": 3},  # more than a quarter
        {"fight": 8, "ifghh": 1},  # two letters
        {"fight": 8, "ightf": 1},  # the same letters, but far
        {"fall": 8, "ball": 1},  # too short
        {"camera1": 8, "camera2": 1},  # no letters
        {"fight": 8, "fight one": 1},
    ],
    ids=lambda counts: " ".join(counts),
)
def test_classes_that_are_two_are_left_alone(counts: dict[str, int]) -> None:
    assert alike(counts) == []


def alike(counts: dict[str, int]) -> list[ClassFinding]:
    samples = [
        Sample(Path("a.mp4"), label)
        for label, count in enumerate(counts.values())
        for _ in range(count)
    ]
    data = LabelledVideos(tuple(counts), tuple(samples))
    found = judge_classes({"train": data, "validation": data}, min_videos=0)
    return [finding for finding in found if finding.kind == "alike"]


def test_a_class_that_only_the_broken_videos_had_is_empty(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        f"path,label\n{folder / '0.mp4'},wave\n{folder / 'broken.mp4'},clap\n"
    )
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "list.csv")])
    assert result.exit_code == 1
    assert "empty: class 'clap' has no training video; training refuses that" in result.stdout
