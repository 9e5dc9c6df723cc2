"""Frames that are tensors: runtimes take them where they lie, or fetch them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stdeploy.artifacts.frames import on_host, stacked
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ArtifactError
from stdeploy.export.float_input import export_float_input
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_model
from stdeploy.models.checkpoint import save_fused
from tests.helpers.models import TINY_CLIP, card_of, tiny_model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("device") / "a.fused.safetensors"
    model = fuse_model(tiny_model()).float()
    save_fused(path, model, card_of(model))
    onnx = export_onnx(path).path
    return {"torch": path, "onnxruntime": onnx, "openvino": onnx}


FRAMES = np.random.default_rng(0).integers(0, 256, (2, *TINY_CLIP.frames_shape), np.uint8)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_tensors_get_the_answers_of_arrays(files: dict[str, Path], backend: str) -> None:
    options = RuntimeOptions(backend=backend, device="cpu", threads=1)
    with open_runtime(files[backend], options=options) as runtime:
        tensors = torch.from_numpy(FRAMES)
        np.testing.assert_array_equal(runtime.run(tensors), runtime.run(FRAMES))
        with pytest.raises(ArtifactError, match=r"frames are torch.float32 \(2, .*takes uint8"):
            runtime.run(tensors.float())


@pytest.mark.parametrize("kind", ["uint8", "float-ncthw"])
def test_onnxruntime_reads_the_memory_of_a_tensor(files: dict[str, Path], kind: str) -> None:
    path = files["onnxruntime"]
    if kind == "float-ncthw":
        path = export_float_input(path, allow={"top1_changed": 1.0}).path
    with open_runtime(path, options=RuntimeOptions(backend="onnxruntime", device="cpu")) as runtime:
        expected = runtime.run(FRAMES)
        views = torch.from_numpy(FRAMES.transpose(1, 0, 2, 3, 4).copy()).transpose(0, 1)
        np.testing.assert_array_equal(runtime._run_in_place(views), expected)


def test_clips_become_a_batch_where_they_lie() -> None:
    clips = [torch.from_numpy(clip) for clip in FRAMES]
    assert isinstance(stacked(clips), torch.Tensor)
    assert isinstance(stacked([clips[0], FRAMES[1]]), np.ndarray)
    for mixture in (clips, [clips[0], FRAMES[1]], list(FRAMES)):
        np.testing.assert_array_equal(on_host(stacked(mixture)), FRAMES)
    assert stacked([FRAMES[0]]).base is not None  # one needs no copy
