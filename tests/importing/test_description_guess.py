"""The description that `--ask` proposes can be imported with, and says what it guessed."""

from pathlib import Path

import pytest
import torch
from torch import nn

from stdeploy.errors import SpecError
from stdeploy.importing.clip_description import ClipDescription
from stdeploy.importing.description_guess import propose_description
from tests.helpers.program import stdeploy as run
from tests.importing.networks import (
    CLASSES,
    FRAMES,
    SIDE,
    TinyNetwork,
    TwoPaths,
    built,
    write_onnx,
)


@pytest.mark.parametrize(
    ("layout", "end", "gives"),
    [
        ("NCTHW", "logits", "logits"),
        ("NTHWC", "softmax", "probabilities"),
        ("NVTCHW", "softmax of positions", "probabilities"),
    ],
)
def test_what_a_graph_shows_is_read_off_it(
    tmp_path: Path, layout: str, end: str, gives: str
) -> None:
    sizes = {"V": 1, "C": 3, "T": FRAMES, "H": SIDE, "W": SIDE}
    network = built(lambda: TinyNetwork(layout, end))
    path = write_onnx(network, tmp_path / "net.onnx", tuple(sizes[axis] for axis in layout[1:]))
    proposal = propose_description(path)
    (tmp_path / "clip.toml").write_text(proposal.toml)
    found = ClipDescription.read(tmp_path / "clip.toml")
    assert (found.said.input.layout, found.said.output.gives) == (layout, gives)
    assert (found.clip.num_frames, found.clip.crop_px) == (FRAMES, SIDE)
    assert len(found.labels) == CLASSES
    assert {"clip.fps", "input.mean", "input.colour_order", "labels"} <= set(proposal.guessed)
    assert not {"input.layout", "clip.num_frames", "output.gives"} & set(proposal.guessed)


def test_paths_and_rows_for_each_frame_are_seen(tmp_path: Path) -> None:
    clip = (3, FRAMES, SIDE, SIDE)
    two = write_onnx(built(TwoPaths), tmp_path / "two.onnx", (3, FRAMES // 4, SIDE, SIDE), clip)
    text = propose_description(two).toml
    assert 'paths = [{name = "input0", every = 4}, {name = "input1", every = 1}]' in text
    rows = write_onnx(built(lambda: TinyNetwork(end="per frame")), tmp_path / "rows.onnx", clip)
    assert "per_frame = true" in propose_description(rows).toml


def test_a_known_project_is_recognised_by_its_names(tmp_path: Path) -> None:
    class Recogniser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU())
            self.cls_head = nn.Linear(4, CLASSES)

        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.cls_head(self.backbone(clip).mean((2, 3, 4)))
            return logits

    path = write_onnx(built(Recogniser), tmp_path / "net.onnx", (3, FRAMES, SIDE, SIDE))
    text = propose_description(path).toml
    assert 'origin = "mmaction2"  # a guess' in text
    assert "mean = [123.675, 116.28, 103.53]  # a guess: what mmaction2 trains with" in text


def test_blocks_with_numbers_are_nobodys(tmp_path: Path) -> None:
    """As transformers and ConvNeXts call them, too."""

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Conv3d(4, 4, 3))
            self.head = nn.Linear(4, CLASSES)

        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.blocks(clip).mean((2, 3, 4)))
            return logits

    path = write_onnx(built(Blocks), tmp_path / "net.onnx", (3, FRAMES, SIDE, SIDE))
    proposal = propose_description(path)
    assert "origin" not in proposal.guessed
    assert "a guess: ImageNet's" in proposal.toml


def test_the_layout_of_three_frames_is_a_guess(tmp_path: Path) -> None:
    network = built(lambda: TinyNetwork("NTCHW"))
    proposal = propose_description(
        write_onnx(network, tmp_path / "net.onnx", (3, 3, SIDE, SIDE), legacy=True)
    )
    assert 'layout = "NCTHW"  # a guess: several of its axes may be the colours' in proposal.toml
    assert "input.layout" in proposal.guessed


@pytest.mark.parametrize(
    ("layout", "sizes", "said"),
    [
        ("NCTHW", (4, FRAMES, SIDE, SIDE), r"\(\?, 4, 8, 32, 32\); no axis has the 3 colours"),
        ("NCTHW", (3, FRAMES, SIDE, 48), "frames are taken where they are square"),
        ("NVCTHW", (3, 3, FRAMES, SIDE, SIDE), "of the axis of views, one is taken"),
    ],
)
def test_clips_of_another_kind_are_told(
    tmp_path: Path, layout: str, sizes: tuple[int, ...], said: str
) -> None:
    def network() -> TinyNetwork:
        made = TinyNetwork(layout)
        made.conv1 = nn.Conv3d(sizes[layout.index("C") - 1], 8, 3, padding=1, bias=False)
        return made

    path = write_onnx(built(network), tmp_path / "net.onnx", sizes, legacy=True, batch=None)
    with pytest.raises(SpecError, match=said):
        propose_description(path)


def test_what_takes_no_clips_is_told(tmp_path: Path) -> None:
    picture = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 2)).eval()
    path = write_onnx(picture, tmp_path / "net.onnx", (3, 8, 8))
    with pytest.raises(SpecError, match=r"of shape \(\?, 3, 8, 8\); float32 clips of 5 axes"):
        propose_description(path)


def test_the_command_writes_what_can_be_imported(tmp_path: Path) -> None:
    write_onnx(built(TinyNetwork), tmp_path / "net.onnx", (3, FRAMES, SIDE, SIDE))
    asked = run("import", "net.onnx", "--ask", cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert "guessed, to be looked at: labels, clip.frame_stride" in asked.stderr
    (tmp_path / "clip.toml").write_text(asked.stdout)
    done = run("import", "net.onnx", "--card", "clip.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    both = run("import", "net.onnx", "--ask", "--card", "clip.toml", cwd=tmp_path)
    assert "--ask imports nothing" in both.stderr
