"""stdeploy card."""

import json
from pathlib import Path
from typing import Any

import pytest

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.layouts import (
    InceptionLayout,
    Layout,
    ResNetLayout,
    SlowFastLayout,
    StageLayout,
    StemLayout,
    X3DLayout,
    X3DStageLayout,
)
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.cli.card import network_in_words
from stdeploy.models.checkpoint import save_checkpoint
from tests.helpers.models import card_of, tiny_model
from tests.helpers.program import Inside, stdeploy


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


def _resnet(stem_channels: int = 64, **fields: Any) -> ResNetLayout:
    blocks = {"block": "bottleneck", "stem": StemLayout(channels=stem_channels)} | fields
    middles = 2 if blocks["block"] == "basic" else 1
    separable = blocks.get("convolution", "joint") != "joint"
    stages = [
        StageLayout(
            channels=8, lengths=(3,) * count, middles=((9,) * middles,) * (count * separable)
        )
        for count in (3, 4, 6, 2)
    ]
    return ResNetLayout(**blocks, stages=tuple(stages))


_X3D_STAGES = tuple(
    X3DStageLayout(channels=8, inner=9, excitations=(0,) * count) for count in (3, 5, 11, 7)
)
_PATHS = {"slow": _resnet(16), "fast": _resnet(2)}


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (_resnet(), "bottleneck blocks 3-4-6-2, 64 channels after conv1"),
        (
            _resnet(depthwise=True),
            "bottleneck blocks 3-4-6-2 (depthwise), 64 channels after conv1",
        ),
        (
            _resnet(1, block="basic", convolution="time-space"),
            "basic blocks 3-4-6-2 (time-space convolutions), 1 channel after conv1",
        ),
        (X3DLayout(stages=_X3D_STAGES), "blocks 3-5-11-7, 24 channels after conv1"),
        (InceptionLayout(separable=True), "separable convolutions, 64 channels after conv1"),
        (
            SlowFastLayout(
                **_PATHS,
                alpha=4,
                slow_frames="every",
                lateral=(4, 4, 4, 4),
                lateral_length=5,
                lateral_relu=True,
            ),
            "slow: bottleneck blocks 3-4-6-2, 16 channels after conv1; "
            "fast: bottleneck blocks 3-4-6-2, 2 channels after conv1",
        ),
    ],
)
def test_an_imported_network_is_described_by_its_layout(layout: Layout, words: str) -> None:
    spec = ModelSpec(
        architecture="any",
        temporal_lengths=layout.temporal_lengths,
        num_classes=3,
        layout=layout,
    )
    shown = network_in_words(spec)
    assert f", {words}, multi-branch, eta 2" in shown
    assert "width" not in shown


def test_card_shows_and_dumps(chain: Path) -> None:
    shown = stdeploy("card", "ckpt.onnx", cwd=chain).stdout
    assert "i3d-resnet18, temporal lengths 1-1-3-3-5" in shown
    dumped = json.loads(stdeploy("card", "ckpt.onnx", "--json", cwd=chain).stdout)
    assert dumped["model"]["fused"] is True


def test_text_of_a_card_never_moves_the_cursor(inside: Inside, tmp_path: Path) -> None:
    model = tiny_model()
    plain = card_of(model)
    lineage = plain.lineage.model_copy(update={"origin": "x\x1b[2J\ry\u202e", "licence": "MIT\x07"})
    save_checkpoint(tmp_path / "a.pt", model, plain.model_copy(update={"lineage": lineage}))
    lines = inside("card", "a.pt", cwd=tmp_path).stdout.splitlines()
    assert "origin    x\\x1b[2J\\ry\\u202e" in lines
    assert "licence   MIT\\x07" in lines


def test_set_changes_a_card_and_tells_what(inside: Inside, tmp_path: Path) -> None:
    model = tiny_model()
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    (tmp_path / "names.txt").write_text("run\nclass 1\nclass 2\nclass 3\njump\n")
    changed = inside("card", "a.pt", "--set", "labels=names.txt", "--set", "fps=25", cwd=tmp_path)
    assert changed.stdout == (
        'a.pt  labels.0 "class 0" -> "run", labels.4 "class 4" -> "jump", clip.fps 12.0 -> 25.0\n'
    )
    shown = inside("card", "a.pt", cwd=tmp_path).stdout.splitlines()
    assert (
        'edited    labels.0 "class 0" -> "run", labels.4 "class 4" -> "jump", '
        + ("clip.fps 12.0 -> 25.0")
        in shown
    )
    again = inside("card", "a.pt", "--set", "fps=25.0", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == "a.pt says so already; nothing was written\n"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fps"], "--set 'fps': write name=value, such as fps=12"),
        (["fps="], "--set 'fps=': write name=value, such as fps=12"),
        (["fps=1", "fps=2"], "--set fps is given twice"),
        (["fsp=1"], "--set fsp: a card has no such field to set; did you mean 'fps'?"),
        (["seed=1"], "--set seed: a card has no such field to set; there are labels, fps, "),
        (["fps=0"], "a.pt: clip.fps = '0': 0.001 or more is allowed"),
        (["views=many"], "a.pt: clip.views = 'many': a whole number is allowed"),
        (["mean=0.5"], "a.pt: clip.mean = ['0.5']: a list of 3 values is wanted"),
        (["short_side_px=16"], "crop_px 32 is larger than short_side_px 16"),
        (["labels=none.txt"], "--set labels='none.txt': No such file or directory; name a text"),
        (["labels=four.txt"], "4 labels for 5 classes; a card names every class once"),
        (["labels=twice.txt"], "labels 0 and 1 are both 'run'"),
        (["labels=a.pt"], "--set labels='a.pt': it is no text in UTF-8"),
    ],
)
def test_set_refuses_what_cannot_be_and_writes_nothing(
    inside: Inside, tmp_path: Path, texts: list[str], message: str
) -> None:
    model = tiny_model()
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "twice.txt").write_text("run\nrun\nc\nd\ne\n")
    before = (tmp_path / "a.pt").read_bytes()
    options = [word for text in texts for word in ("--set", text)]
    result = inside("card", "a.pt", *options, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "a.pt").read_bytes() == before
    assert read_card(tmp_path / "a.pt").lineage.edits == ()
