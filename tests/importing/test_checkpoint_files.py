"""A file of weights, and what is given beside it: what cannot be used is one line."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stdeploy.errors import ArtifactError, StdeployError
from stdeploy.fusion import fuse_checkpoint
from stdeploy.importing.checkpoint import import_checkpoint
from stdeploy.importing.clip_description import OwnerAnswer
from stdeploy.importing.families import FAMILIES
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import logits_of
from tests.helpers.program import stdeploy as run
from tests.importing import test_slowfast

FAMILY = "mmaction2/slowfast"
CLIP: Mapping[str, object] = {"num_frames": 8, "short_side_px": 40, "crop_px": 32}
SETTINGS = [part for name, value in CLIP.items() for part in ("--set", f"{name}={value}")]
FRAMES = np.zeros((8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a narrow SlowFast of three classes, under the names of mmaction2."""
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(
        {"state_dict": test_slowfast.weights_of(test_slowfast.network(FAMILY), FAMILY)}, path
    )
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels": ["a", "", "c"]}, "label 1 is empty; every class has a name"),
        ({"labels": ["a", "b", "a"]}, "labels 0 and 2 are both 'a'"),
        ({"labels": ["a"]}, "the softmax of one number is 1 for every video"),
        ({"labels": ["a", "b"]}, "2 labels for a network of 3 classes"),
        ({"family": "mmaction/slowfast"}, "is not known; did you mean 'mmaction2/slowfast'?"),
        ({"family": "nothing"}, f"is not known; there are {', '.join(FAMILIES)}"),
        ({"owner": OwnerAnswer(FRAMES[1:], np.zeros(3))}, "the owner's clip is uint8 (7, 32, 32"),
        ({"owner": OwnerAnswer(FRAMES, np.zeros(4))}, "logits are float64 (4,); floats (3,)"),
        ({"owner": OwnerAnswer(FRAMES, np.full(3, np.nan))}, "hold a number that is not finite"),
        ({"owner": OwnerAnswer(FRAMES, np.ones((1, 3)))}, "other logits than its owner's"),
    ],
)
def test_what_does_not_fit_the_weights_is_told(
    weights: Path, tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    given = {"labels": ["a", "b", "c"], "clip": CLIP, **arguments}
    with pytest.raises(StdeployError, match=re.escape(said)) as error:
        import_checkpoint(weights, tmp_path / "ours.pt", **given)
    assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_is_ours_already_is_told(weights: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours.pt"
    import_checkpoint(weights, ours, labels=["a", "b", "c"], clip=CLIP)
    for path in (ours, fuse_checkpoint(ours).path):
        with pytest.raises(ArtifactError, match="is an artifact of stdeploy already, and needs"):
            import_checkpoint(path, tmp_path / "x.pt", labels=["a", "b", "c"])


def test_weights_in_safetensors_are_taken(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    tensors = torch.load(weights, weights_only=True)["state_dict"]
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    imported = import_checkpoint(path, labels=["a", "b", "c"], clip=CLIP)
    assert (imported.family.name, imported.path) == (FAMILY, tmp_path / "net.pt")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ArtifactError, match="is no safetensors file"):
        import_checkpoint(path, labels=["a", "b", "c"], clip=CLIP)


def of_itself() -> dict[str, object]:
    content: dict[str, object] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"w": torch.zeros(1).expand(10**6, 10**6)}, "holds 'w', which is no tensor with numbers"),
        ({"model": {"w": torch.ones(2, 2).to_sparse()}}, "holds 'w', which is no tensor with num"),
        ([torch.ones(2)], "holds no weights; a state_dict is wanted"),
        ({"epoch": 3}, "holds no weights; a state_dict is wanted"),
        (of_itself(), "holds no weights; a state_dict is wanted"),
        ({"w\x1b[2J": torch.ones(2)}, r"holds 1 tensors \('w\\\\x1b\[2J', \.\.\.\)"),
    ],
    ids=["bomb", "sparse", "list", "no tensor", "table of itself", "escape"],
)
def test_files_without_plain_weights_are_refused(
    tmp_path: Path, content: object, said: str
) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ArtifactError, match=said):
        import_checkpoint(tmp_path / "net.pth", labels=["a", "b"])
    (tmp_path / "net.pth").write_bytes((tmp_path / "net.pth").read_bytes()[:200])
    with pytest.raises(ArtifactError, match="cannot be read as a checkpoint: it is damaged"):
        import_checkpoint(tmp_path / "net.pth", labels=["a", "b"])


def test_what_another_program_wrote_is_not_written_over(weights: Path, tmp_path: Path) -> None:
    source, other = tmp_path / "net.pth", tmp_path / "net.pt"
    source.write_bytes(weights.read_bytes())
    torch.save({"theirs": torch.ones(2)}, other)
    before = other.read_bytes()
    with pytest.raises(ArtifactError, match="exists, and stdeploy did not write it; name another"):
        import_checkpoint(source, labels=["a", "b", "c"], clip=CLIP)
    assert other.read_bytes() == before
    other.unlink()
    for _ in range(2):  # ours is made anew
        assert import_checkpoint(source, labels=["a", "b", "c"], clip=CLIP).path == other


def test_the_program_compares_with_files_of_numpy(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\r\nb\r\nc\r\n\r\n")
    imported = import_checkpoint(weights, tmp_path / "ours.pt", labels=["a", "b", "c"], clip=CLIP)
    frames = np.random.default_rng(0).integers(0, 255, FRAMES.shape, dtype=np.uint8)
    model, card = load_model(imported.path)
    np.save(tmp_path / "clip.npy", frames)
    np.save(tmp_path / "logits.npy", logits_of(model, card.clip, frames[None]))  # (1, K)
    np.savez(tmp_path / "both.npz", frames)
    given = ("import", str(weights), "--labels", "names.txt", *SETTINGS, "-o", "x.pt", "--owner")
    done = run(*given, "clip.npy", "logits.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the owner's clip" in done.stdout
    (tmp_path / "x.pt").unlink()
    for name in ("both.npz", "none.npy", "names.txt"):
        failed = run(*given, name, "logits.npy", cwd=tmp_path)
        assert failed.returncode == 2
        assert failed.stderr.startswith("stdeploy: --owner: the owner's clip: ")
        assert len(failed.stderr.splitlines()) == 1
        assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "With the clip as BGR they agree: save the clip in RGB"),
        (
            {"mean": (0.45,) * 3, "std": (0.225,) * 3},
            "mean 0.45 and std 0.225 would be right: --set mean=0.45,0.45,0.45 --set std=0.225,",
        ),
        ({"mean": (0.1,) * 3}, "Another --as, mean, std or order of colours may be right"),
    ],
)
def test_what_would_give_the_owners_answer_is_named(
    weights: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    given = {"labels": ["a", "b", "c"], "clip": CLIP}
    imported = import_checkpoint(weights, tmp_path / "ours.pt", **given)  # type: ignore[arg-type]
    frames = np.random.default_rng(0).integers(0, 255, FRAMES.shape, dtype=np.uint8)
    frames[..., 0] //= 4  # so that its colours differ
    model, card = load_model(imported.path)
    seen = frames if change else np.ascontiguousarray(frames[..., ::-1])
    logits = logits_of(model, card.clip.model_copy(update=change), seen[None])
    owner = OwnerAnswer(frames, logits)
    with pytest.raises(StdeployError, match=re.escape(said)):
        import_checkpoint(weights, tmp_path / "x.pt", owner=owner, **given)  # type: ignore[arg-type]
