import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.fusion import fuse_model
from stdeploy.models.checkpoint import load_model, save_checkpoint, save_fused
from tests.helpers.models import card_of, tiny_model


def test_card_comes_back_from_every_kind_of_artifact(tmp_path: Path) -> None:
    model = tiny_model(eta=float("inf"))
    card = card_of(model)
    save_checkpoint(tmp_path / "a.pt", model, card)
    assert read_card(tmp_path / "a.pt") == card
    fused = fuse_model(model).float()
    save_fused(tmp_path / "a.fused.safetensors", fused, card_of(fused))
    assert read_card(tmp_path / "a.fused.safetensors").model.fused


def test_card_with_a_label_too_few_is_refused() -> None:
    fields = card_of(tiny_model()).model_dump()
    with pytest.raises(SpecError, match="4 labels for 5 classes"):
        ModelCard.parse({**fields, "labels": fields["labels"][:4]})


def write_nothing_of_ours(path: Path) -> None:
    if path.suffix == ".pt":
        torch.save({"state_dict": {}}, path)
    elif path.suffix == ".safetensors":
        save_file({"a": torch.zeros(1)}, path)
    else:
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        node = helper.make_node("Identity", ["x"], ["y"])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        onnx.save(helper.make_model(helper.make_graph([node], "g", [value], [out])), path)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.onnx"])
def test_artifacts_of_others_are_refused(tmp_path: Path, name: str) -> None:
    write_nothing_of_ours(tmp_path / name)
    with pytest.raises(ArtifactError, match=r"no model card|no checkpoint of stdeploy"):
        read_card(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.onnx"])
@pytest.mark.parametrize("content", [b"", b"not an artifact at all", bytes(1000)])
def test_garbage_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        read_card(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [{"card": {}, "state_dict": {}}, {"card": "{}", "state_dict": []}, {"w": torch.ones(1)}, [1]],
)
def test_checkpoints_of_other_shapes_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match="no checkpoint of stdeploy"):
        read_card(tmp_path / "a.pt")


def test_altered_bytes_never_give_another_error(tmp_path: Path) -> None:
    model = tiny_model(width=0.02)
    save_checkpoint(tmp_path / "good.pt", model, card_of(model))
    good = (tmp_path / "good.pt").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), 20):
            bad[place] = rng.integers(0, 256)
        (tmp_path / "a.pt").write_bytes(bad)
        with contextlib.suppress(ArtifactError):
            load_model(tmp_path / "a.pt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"card": print, "state_dict": {}}, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match="cannot be read as a checkpoint"):
        read_card(tmp_path / "a.pt")


def test_missing_files_and_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        read_card(tmp_path / "none.onnx")
    with pytest.raises(ArtifactError, match=r"no artifact of stdeploy; those end in \.pt"):
        read_card(tmp_path / "video.mp4")
