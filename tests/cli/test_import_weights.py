"""stdeploy import of weights, and every verb on what comes of it, as users type them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.importing.families import FAMILIES
from stdeploy.models.frames_to_logits import logits_of
from tests.helpers.program import Inside, records
from tests.helpers.videos import write_golden_videos
from tests.importing.test_resnets import (
    layout_of,
    names_and_assumed,
    network,
    under_their_names,
)

FAMILY = "hara/r3d"
SIZE = ["--set", "num_frames=8", "--set", "short_side_px=36", "--set", "crop_px=32"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """theirs.pth of 3 classes with the owner's answer, and a data set that has 2 of them."""
    model = network(layout_of(FAMILY))
    tensors = under_their_names(model, names_and_assumed(FAMILIES[FAMILY])[0])
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "theirs.pth")
    (tmp_path / "labels.txt").write_text("fight\nnoFight\nother\n")
    clip = golden_clip(0, (8, 32, 32, 3))
    np.save(tmp_path / "clip.npy", clip)
    seen = FAMILIES[FAMILY].clip.model_copy(
        update={"num_frames": 8, "short_side_px": 36, "crop_px": 32}
    )
    np.save(tmp_path / "logits.npy", logits_of(model, seen, clip[None])[0])
    write_golden_videos(tmp_path / "videos", count=4)
    rows = [f"videos/{n}.mp4,{'fight' if n < 3 else 'noFight'}" for n in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    return tmp_path


def test_weights_go_through_the_chain(inside: Inside, folder: Path) -> None:
    imported = inside(
        *("import", "theirs.pth", "--labels", "labels.txt", *SIZE),
        *("--owner", "clip.npy", "logits.npy"),
        cwd=folder,
    )
    assert imported.returncode == 0, imported.stderr
    assert "against the owner's logits" in imported.stdout
    assert "theirs.pt  next: stdeploy fuse theirs.pt" in imported.stdout
    shown = inside("card", "theirs.pt", cwd=folder).stdout
    assert "resnet3d, temporal lengths 7-3-3-3-3, bottleneck blocks 1-1-1-1, 6 channels" in shown
    assert "1 check, the nearest" in shown
    assert inside("fuse", "theirs.pt", cwd=folder).returncode == 0
    assert inside("export", "theirs.fused.safetensors", cwd=folder).returncode == 0
    scores = []
    for artifact in ("theirs.pt", "theirs.onnx"):
        row = records(
            inside(
                *("classify", "videos/0.mp4", "-m", artifact, "-k", 3, "--json"),
                *("--backend", "torch" if artifact.endswith(".pt") else "onnxruntime"),
                cwd=folder,
            )
        )[0]
        scores.append({each["label"]: each["score"] for each in row["predictions"]})
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert set(scores[0]) == {"fight", "noFight", "other"}


def test_classes_that_the_data_set_lacks_are_never_the_truth(inside: Inside, folder: Path) -> None:
    inside("import", "theirs.pth", "--labels", "labels.txt", *SIZE, cwd=folder)
    judged = inside("evaluate", "theirs.pt", "--data", "list.csv", "--json", cwd=folder)
    assert judged.returncode == 0, judged.stderr
    found = json.loads(judged.stdout)
    assert found["videos"] == 4
    assert found["classes"]["other"] is None
    assert [sum(row) for row in found["confusion"]] == [3, 1, 0]
    known = [rate for rate in found["classes"].values() if rate is not None]
    assert found["mean_class_accuracy"] == pytest.approx(sum(known) / 2)


def test_classes_of_other_names_are_renamed(inside: Inside, folder: Path) -> None:
    (folder / "theirs.txt").write_text("violence\npeace\nother\n")
    inside("import", "theirs.pth", "--labels", "theirs.txt", *SIZE, cwd=folder)
    refused = inside("evaluate", "theirs.pt", "--data", "list.csv", cwd=folder)
    assert refused.returncode == 2
    assert "'fight', 'noFight'" in refused.stderr
    assert "stdeploy card ARTIFACT --set labels=FILE" in refused.stderr
    assert inside("card", "theirs.pt", "--set", "labels=labels.txt", cwd=folder).returncode == 0
    assert inside("evaluate", "theirs.pt", "--data", "list.csv", cwd=folder).returncode == 0
    assert read_card(folder / "theirs.pt").labels == ("fight", "noFight", "other")


def test_an_owners_clip_of_another_size_names_the_option(inside: Inside, folder: Path) -> None:
    refused = inside(
        *("import", "theirs.pth", "--labels", "labels.txt", "--owner", "clip.npy", "logits.npy"),
        cwd=folder,
    )
    assert refused.returncode == 2
    assert "uint8 (8, 32, 32, 3); uint8 (16, 112, 112, 3) is wanted" in refused.stderr
    assert "--set num_frames=8" in refused.stderr
    assert not (folder / "theirs.pt").exists()


def test_a_recipe_that_changes_the_size_of_an_imported_networks_clips_says_so(
    inside: Inside, folder: Path
) -> None:
    labels = ("import", "theirs.pth", "--labels", "labels.txt", *SIZE)
    assert inside(*labels, cwd=folder).returncode == 0
    small = ["--set", "optimisation.epochs=1", "--set", "optimisation.batch_size=4"]
    small += ["--set", "optimisation.workers=0", "--set", "clip.views=1"]
    for number, (size, said) in enumerate(
        {("clip.num_frames=16",): True, (): False, ("clip.frame_stride=2",): False}.items()
    ):
        shown = inside(
            *("train", "--recipe", "finetune-imported", "--weights", "theirs.pt"),
            *("--data", "list.csv", "-o", f"{number}.pt", *small),
            *(word for field in size for word in ("--set", field)),
            cwd=folder,
        )
        assert shown.returncode == 0, shown.stderr
        told = "clips are 16 frames of 32 px here, as the recipe says, and were 8 frames of 32 px"
        assert (told in shown.stderr) == said
