"""Artifacts that were changed after they were verified do not get past the golden clip."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.digest import CARD_KEY
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ArtifactError, ParityError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_model
from stdeploy.models.checkpoint import save_checkpoint, save_fused
from tests.helpers.models import TINY_CLIP, card_of, tiny_model, write_signed


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5))
    save_checkpoint(folder / "a.pt", model, card_of(model))
    fused = fuse_model(model).float()
    save_fused(folder / "a.fused.safetensors", fused, card_of(fused))
    export_onnx(folder / "a.fused.safetensors")
    return folder


def rewrite(source: Path, target: Path, change) -> Path:
    proto = onnx.load(source)
    change(proto)
    write_signed(proto, target)
    return target


def change_card(proto: onnx.ModelProto, **fields: object) -> None:
    (prop,) = [prop for prop in proto.metadata_props if prop.key == CARD_KEY]
    card = ModelCard.from_json(prop.value, source="test")
    prop.value = card.model_copy(update=fields).to_json()


def test_every_artifact_of_the_chain_gives_the_same_logits(artifacts: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, *TINY_CLIP.frames_shape), np.uint8)
    answers = {}
    for name in ("a.pt", "a.fused.safetensors", "a.onnx"):
        with open_runtime(artifacts / name) as runtime:
            assert runtime.device == "CPU"
            answers[name] = runtime.run(frames)
            assert answers[name].dtype == np.float32
    for name, logits in answers.items():
        np.testing.assert_allclose(logits, answers["a.pt"], rtol=1e-4, atol=1e-5, err_msg=name)


def test_one_damaged_weight_is_caught(artifacts: Path, tmp_path: Path) -> None:
    def damage(proto: onnx.ModelProto) -> None:
        kernel = next(t for t in proto.graph.initializer if len(t.dims) == 5)
        array = numpy_helper.to_array(kernel).copy()
        array.flat[0] += 1.0
        kernel.CopyFrom(numpy_helper.from_array(array, kernel.name))

    with pytest.raises(ParityError, match="golden clip wrongly"):
        open_runtime(rewrite(artifacts / "a.onnx", tmp_path / "a.onnx", damage))


def test_other_normalisation_is_caught(artifacts: Path, tmp_path: Path) -> None:
    source, target = artifacts / "a.fused.safetensors", tmp_path / "a.fused.safetensors"
    card = read_card(source)
    wrong = card.model_copy(update={"clip": card.clip.model_copy(update={"mean": (0, 0, 0)})})
    from stdeploy.models.checkpoint import load_model

    save_fused(target, load_model(source)[0], wrong)
    with pytest.raises(ParityError, match="golden clip wrongly"):
        open_runtime(target)


def test_swapped_colours_are_caught(artifacts: Path, tmp_path: Path) -> None:
    def swap(proto: onnx.ModelProto) -> None:
        stem = next(t for t in proto.graph.initializer if len(t.dims) == 5 and t.dims[1] == 3)
        array = np.ascontiguousarray(numpy_helper.to_array(stem)[:, ::-1])
        stem.CopyFrom(numpy_helper.from_array(array, stem.name))

    with pytest.raises(ParityError, match="golden clip wrongly"):
        open_runtime(rewrite(artifacts / "a.onnx", tmp_path / "a.onnx", swap))


def test_frozen_batch_is_caught(artifacts: Path, tmp_path: Path) -> None:
    def freeze(proto: onnx.ModelProto) -> None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(ArtifactError, match="frozen at batch 1"):
        open_runtime(rewrite(artifacts / "a.onnx", tmp_path / "a.onnx", freeze))


def test_card_with_another_clip_size_is_caught(artifacts: Path, tmp_path: Path) -> None:
    clip = TINY_CLIP.model_copy(update={"num_frames": 4})
    target = rewrite(
        artifacts / "a.onnx", tmp_path / "a.onnx", lambda proto: change_card(proto, clip=clip)
    )
    with pytest.raises(ArtifactError, match="its card announces"):
        open_runtime(target)


def test_half_a_file_is_refused(artifacts: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "a.fused.safetensors", "a.pt"):
        content = (artifacts / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ArtifactError, match=name):
            open_runtime(tmp_path / name)


def test_other_files_are_refused(artifacts: Path, tmp_path: Path) -> None:
    shutil.copy(artifacts / "a.onnx", tmp_path / "a.plan")
    with pytest.raises(ArtifactError, match=r"no backend runs \.plan files"):
        open_runtime(tmp_path / "a.plan")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 8, 32, 32, 3), np.float32), "float32"),
        (np.zeros((8, 32, 32, 3), np.uint8), r"\(8, 32, 32, 3\)"),
        (np.zeros((1, 3, 8, 32, 32), np.uint8), r"takes uint8 \(N, 8, 32, 32, 3\)"),
    ],
)
def test_frames_of_another_shape_or_type_are_refused(
    artifacts: Path, frames: np.ndarray, message: str
) -> None:
    for name in ("a.pt", "a.onnx"):
        with (
            open_runtime(artifacts / name) as runtime,
            pytest.raises(ArtifactError, match=message),
        ):
            runtime.run(frames)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_backends_report_to_no_one_and_need_no_home(artifacts: Path, backend: str) -> None:
    code = f"""
import os, sys
from pathlib import Path
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
assert 'openvino_telemetry' not in sys.modules
with open_runtime(Path({str(artifacts / "a.onnx")!r}), options=RuntimeOptions(backend={backend!r})):
    assert sys.modules['openvino_telemetry'] is None
    assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'
import openvino.tools.ovc as ovc
print(type(ovc.telemetry).__module__)
"""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
