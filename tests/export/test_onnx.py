from pathlib import Path

import onnx
import pytest
import torch

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.files import sha256_of
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ArtifactError, ParityError
from stdeploy.export import onnx as export
from stdeploy.fusion import fuse_checkpoint, fuse_model
from stdeploy.models.checkpoint import load_model, save_checkpoint, save_fused
from tests.helpers.models import cancelling_model, card_of, tiny_model

ORT = RuntimeOptions(backend="onnxruntime")


def fused_file(folder: Path, architecture: str = "i3d-resnet18", **fields: object) -> Path:
    model = fuse_model(tiny_model(architecture, **fields)).float()
    path = folder / "ckpt.fused.safetensors"
    save_fused(path, model, card_of(model))
    return path


def test_card_travels_with_the_file(tmp_path: Path) -> None:
    source = fused_file(tmp_path)
    result = export.export_onnx(source, tmp_path / "other.onnx")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["ckpt.fused.safetensors", "other.onnx"]
    checks = [row.check for row in result.card.parity]
    assert checks[:3] == [f"onnxruntime, batch {n}" for n in (1, 2, 5)]
    assert checks[-1] == "kernels, channels beyond rounding"
    assert len(checks) == 8
    assert all(row.passed for row in result.card.parity)
    card, parent = read_card(tmp_path / "other.onnx"), read_card(source)
    assert card == result.card
    assert (card.model, card.clip, card.labels) == (parent.model, parent.clip, parent.labels)
    assert card.lineage.parent == "ckpt.fused.safetensors"
    assert card.lineage.parent_sha256 == sha256_of(source)


def test_file_is_self_contained_and_takes_any_batch_of_frames(tmp_path: Path) -> None:
    result = export.export_onnx(fused_file(tmp_path))
    proto = onnx.load(result.path)
    onnx.checker.check_model(proto, full_check=True)
    (frames,), (logits,) = proto.graph.input, proto.graph.output
    assert (frames.name, logits.name) == ("frames", "logits")
    assert frames.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = frames.type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [d.dim_value for d in dims][1:] == [8, 32, 32, 3]
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer)
    assert {node.op_type for node in proto.graph.node}.isdisjoint({"BatchNormalization"})


def test_unfused_weights_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    save_checkpoint(tmp_path / "ckpt.pt", model, card_of(model))
    with pytest.raises(ArtifactError, match=r"is not fused yet; run: stdeploy fuse \S*ckpt\.pt"):
        export.export_onnx(tmp_path / "ckpt.pt")


def test_two_classes_that_cancel_go_through_the_whole_chain(tmp_path: Path) -> None:
    model = cancelling_model()
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    result = export.export_onnx(fuse_checkpoint(tmp_path / "a.pt").path)
    assert all(row.passed for row in result.card.parity)
    card = read_card(result.path)
    unaware = card.model_copy(update={"golden": card.golden.model_copy(update={"magnitude": 0.0})})
    with pytest.raises(ParityError, match="answers the golden clip wrongly"):
        open_runtime(result.path, unaware, ORT)
    open_runtime(result.path, card, ORT).close()


def test_fused_weights_that_were_altered_are_refused(tmp_path: Path) -> None:
    source = fused_file(tmp_path)
    model, card = load_model(source)
    with torch.no_grad():
        model.conv4[0].conv1.weight[0, 0] += 1.0
    save_fused(source, model, card)
    with pytest.raises(ParityError, match="answers the golden clip wrongly"):
        export.export_onnx(source)
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt.fused.safetensors"]


def test_nothing_is_written_where_the_runtime_answers_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fused_file(tmp_path)
    to_onnx = export.to_onnx

    def damaged(model: torch.nn.Module, card: object) -> onnx.ModelProto:
        with torch.no_grad():
            model.conv5[0].conv1.weight[0, 0] += 0.5
        return to_onnx(model, card)

    monkeypatch.setattr(export, "to_onnx", damaged)
    with pytest.raises(ParityError, match="nothing was written"):
        export.export_onnx(source)
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt.fused.safetensors"]
