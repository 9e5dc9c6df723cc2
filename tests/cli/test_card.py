"""stdeploy card."""

import json
from pathlib import Path

import pytest

from stdeploy.models.checkpoint import save_checkpoint
from tests.cli.program import Inside, stdeploy
from tests.conftest import card_of, tiny_model


@pytest.mark.parametrize(("classes", "told"), [(5, False), (6, True)])
def test_top_5_is_told_where_there_are_more_than_five_classes(
    inside: Inside, tmp_path: Path, classes: int, told: bool
) -> None:
    model = tiny_model(num_classes=classes)
    accuracies = {"validation_top1": 0.5, "validation_top5": 1.0}
    card = card_of(model).model_copy(update={"metrics": accuracies})
    save_checkpoint(tmp_path / "a.pt", model, card)
    shown = inside("card", "a.pt", cwd=tmp_path).stdout
    assert "accuracy  50.0% top-1 on one clip of each validation video" in shown
    assert ("100.0% top-5 on one clip of each validation video" in shown) is told


@pytest.mark.parametrize(
    ("views", "words", "hint"),
    [(1, ", 1 view, ", ""), (3, ", 3 views, ", " (stdeploy evaluate averages 3 views)")],
)
def test_the_card_says_what_its_accuracy_was_measured_on(
    inside: Inside, tmp_path: Path, views: int, words: str, hint: str
) -> None:
    model = tiny_model()
    plain = card_of(model)
    clip = plain.clip.model_copy(update={"views": views})
    metrics = {"validation_top1": 0.958}
    lineage = plain.lineage.model_copy(update={"frozen": ("conv1", "conv2")})
    card = plain.model_copy(update={"clip": clip, "metrics": metrics, "lineage": lineage})
    save_checkpoint(tmp_path / "a.pt", model, card)
    lines = inside("card", "a.pt", cwd=tmp_path).stdout.splitlines()
    assert f"accuracy  95.8% top-1 on one clip of each validation video{hint}" in lines
    assert words in lines[1]
    assert "frozen    conv1, conv2" in lines
    dumped = json.loads(inside("card", "a.pt", "--json", cwd=tmp_path).stdout)
    assert dumped["metrics"] == {"validation_top1": 0.958}
    save_checkpoint(tmp_path / "a.pt", model, plain)
    assert "accuracy" not in inside("card", "a.pt", cwd=tmp_path).stdout


def test_card_shows_and_dumps(chain: Path) -> None:
    shown = stdeploy("card", "ckpt.onnx", cwd=chain).stdout
    assert "i3d-resnet18, temporal lengths 1-1-3-3-5" in shown
    dumped = json.loads(stdeploy("card", "ckpt.onnx", "--json", cwd=chain).stdout)
    assert dumped["model"]["fused"] is True
