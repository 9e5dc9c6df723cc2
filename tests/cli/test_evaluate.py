"""stdeploy evaluate."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stdeploy.artifacts.card import read_card
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample
from stdeploy.inference.evaluation import Judged, count
from stdeploy.models.checkpoint import save_checkpoint
from tests.helpers.models import card_of, tiny_model
from tests.helpers.program import Inside, records, stdeploy


@pytest.mark.parametrize(("classes", "told"), [(5, False), (6, True)])
def test_top_5_is_told_where_there_are_more_than_five_classes(classes: int, told: bool) -> None:
    labels = tuple(f"class {number}" for number in range(classes))
    video = Path("a.mp4")
    judged = [Judged(video, 1, np.arange(classes, dtype=float))]
    evaluation = count(judged, LabelledVideos(labels, (Sample(video, 1),)))
    assert ("top-5" in evaluation.in_words()) is told
    assert evaluation.in_words().startswith("top-1 0.0%")


def test_failed_videos_give_evaluate_exit_status_1(chain: Path, tmp_path: Path) -> None:
    labels = read_card(chain / "ckpt.onnx").labels
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(chain / "a.mp4", videos / "1.webm")
    for broken in range(2, 7):
        (videos / f"{broken}.webm").write_bytes(b"no video")
    numbers = {label: number for number, label in enumerate(labels)}
    (tmp_path / "labels.json").write_text(json.dumps(numbers))
    entries = [{"id": n, "template": labels[0]} for n in range(1, 7)]
    (tmp_path / "validation.json").write_text(json.dumps(entries))
    (tmp_path / "train.json").write_text(json.dumps(entries[:1]))
    result = stdeploy("evaluate", "ckpt.onnx", "--data", tmp_path, cwd=chain)
    assert result.returncode == 1
    assert "on 1 video, 5 more could not be read" in result.stdout
    _, headline, *reasons, others = result.stderr.splitlines()
    assert headline == "5 of 6 videos could not be classified:"
    assert [line.split(" is no video ")[0] for line in reasons] == [
        f"  {videos / name}" for name in ("2.webm", "3.webm", "4.webm")
    ]
    command = f"stdeploy data check {tmp_path}"
    assert others == f"  ... and 2 more, {command} names them all"
    named = stdeploy(*command.split()[1:], cwd=chain).stdout
    assert all(f"broken: {videos / str(name)}.webm is no video" in named for name in range(2, 7))


def test_evaluate_compares_two_artifacts(inside: Inside, chain: Path, tmp_path: Path) -> None:
    first, second, *_ = read_card(chain / "ckpt.onnx").labels
    rows = f"path,label\n{chain / 'a.mp4'},{first}\n{chain / 'b.mp4'},{second}\n"
    (tmp_path / "list.csv").write_text(rows)
    arguments = ["evaluate", "ckpt.pt", "ckpt.onnx", "--data", tmp_path / "list.csv"]
    options = ["--views", 2, "--crops", 3, "--confusion", tmp_path / "confusion.svg"]
    shown = inside(*arguments, *options, "--per-class", cwd=chain)
    assert shown.returncode == 0, shown.stderr
    assert "2 views of 3 crops a video" in shown.stderr
    assert "they agree on 100.0% of 2 videos" in shown.stdout
    assert shown.stdout.count(f"%  {first}") == 2
    assert "top-5" not in shown.stdout  # of five classes it says nothing
    assert (tmp_path / "confusion.svg").is_file()
    lines = records(inside(*arguments, "--json", cwd=chain))
    assert lines[0]["videos"] == 2
    assert lines[0]["top5"] == 1.0
    assert lines[0]["confusion"] == lines[1]["confusion"]
    assert lines[0]["calibration_error"] == pytest.approx(lines[1]["calibration_error"], abs=1e-4)
    assert lines[2] == {"agreement": 1.0, "differing": []}


def test_evaluate_names_which_artifact_says_what(
    inside: Inside, chain: Path, tmp_path: Path
) -> None:
    for name, favourite in (("zero.pt", 0), ("three.pt", 3)):
        model = tiny_model()
        with torch.no_grad():
            model.head.classifier.bias[favourite] += 100
        save_checkpoint(tmp_path / name, model, card_of(model))
    (tmp_path / "list.csv").write_text(f"path,label\n{chain / 'a.mp4'},class 1\n")
    arguments = ("evaluate", "zero.pt", "three.pt", "--data", "list.csv")
    shown = inside(*arguments, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-2:] == [
        "they agree on 0.0% of 1 video",
        f"  {chain / 'a.mp4'} is 'class 1': zero.pt says 'class 0', three.pt 'class 3'",
    ]
    *_, compared = records(inside(*arguments, "--json", cwd=tmp_path))
    row = [str(chain / "a.mp4"), "class 1", "class 0", "class 3"]
    assert compared == {"agreement": 0.0, "differing": [row]}
