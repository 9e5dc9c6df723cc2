"""Exported files of networks that look back only: the same answers, and what stands before."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import RUNTIME_TOLERANCE, relative_error
from stdeploy.artifacts.spec import Form
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.backends.tensorrt_builder import BuildOptions
from stdeploy.errors import ParityError
from stdeploy.export.engine import build_engine
from stdeploy.export.onnx import export_onnx
from stdeploy.export.onnx_verification import verify_onnx
from stdeploy.export.quantise import Quantiser
from stdeploy.fusion import fuse_model
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import save_fused
from stdeploy.models.frames_to_logits import logits_of
from tests.export.files import HESITANT
from tests.helpers.models import TINY_CLIP, card_of, tiny_model, write_signed
from tests.models.test_causal import LENGTHS, laid_out

CLIP = TINY_CLIP.model_copy(update={"short_side_px": 64, "crop_px": 64})
NETWORKS = ("i3d-resnet18", "resnet3d", "inception3d, separable")


def network(name: str) -> ActionModel:
    made = (
        laid_out(name)
        if "3d-" not in name
        else tiny_model(name, temporal_lengths=LENGTHS, causal=True)
    )
    return fuse_model(made).float()


def smooth_clips(count: int) -> NDArray[np.uint8]:
    """Clips (N, T, H, W, 3) of coloured patches."""
    generator = np.random.default_rng(0)
    side = CLIP.crop_px
    clips = []
    for _ in range(count):
        patches = generator.integers(0, 256, (2, 6, 6, 3)).astype(np.float32)
        first, last = (cv2.resize(each, (side, side)) for each in patches)
        part = np.linspace(0, 1, CLIP.num_frames)[:, None, None, None]
        clips.append((1 - part) * first + part * last)
    return np.array(clips).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.fused.safetensors and a.onnx, of a residual network."""
    folder = tmp_path_factory.mktemp("causal")
    model = network("i3d-resnet18")
    save_fused(folder / "a.fused.safetensors", model, card_of(model, CLIP))
    export_onnx(folder / "a.fused.safetensors")
    return folder


@pytest.mark.parametrize("form", ["conv3d", "planar"])
@pytest.mark.parametrize("name", NETWORKS)
def test_files_give_the_answers_of_the_network(name: str, form: Form, tmp_path: Path) -> None:
    model = network(name)
    save_fused(tmp_path / "a.fused.safetensors", model, card_of(model, CLIP))
    path = export_onnx(tmp_path / "a.fused.safetensors", form=form).path
    card = read_card(path)
    assert card.model.causal
    assert any(row.check.startswith("kernels") for row in card.parity)
    frames = golden_clip(3, CLIP.frames_shape)[None]
    expected = logits_of(model, CLIP, frames)
    for backend in ("onnxruntime", "openvino"):
        with open_runtime(path, card, RuntimeOptions(backend=backend, device="cpu")) as runtime:
            error = relative_error(expected, runtime.run(frames))
        assert error < RUNTIME_TOLERANCE["fp32"], backend


@pytest.mark.parametrize("form", ["conv3d", "planar"])
def test_int8_gives_the_same_on_both_runtimes(
    form: Form, folder: Path, calibration_videos: Path, tmp_path: Path
) -> None:
    """Zeros in front of a quantised convolution alone are right with none of its zero points."""
    result = export_onnx(
        folder / "a.fused.safetensors",
        tmp_path / "a.int8.onnx",
        precision="int8",
        form=form,
        calibrate=calibration_videos,
        allow=HESITANT,
    )
    assert not result.card.kept
    frames = golden_clip(3, CLIP.frames_shape)[None]
    with open_runtime(folder / "a.onnx") as runtime:
        expected = runtime.run(frames)
    for backend in ("onnxruntime", "openvino"):
        options = RuntimeOptions(backend=backend, device="cpu")
        with open_runtime(result.path, result.card, options) as runtime:
            assert relative_error(expected, runtime.run(frames)) < 0.05, backend


@pytest.mark.parametrize("form", ["conv3d", "planar"])
def test_openvino_keeps_quantisation_behind_a_pool_where_it_is(form: Form, tmp_path: Path) -> None:
    """Both are about as far from the network in fp32; where it moves, 8 to 23 times as far."""
    model = network("resnet3d")
    save_fused(tmp_path / "a.fused.safetensors", model, card_of(model, CLIP))
    graph = onnx.load(export_onnx(tmp_path / "a.fused.safetensors", form=form).path)
    frames = smooth_clips(6)
    quantiser = Quantiser(graph, frames)
    proto = quantiser.quantise(quantiser.layers)
    onnx.save(proto, tmp_path / "int8.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "int8.onnx", providers=["CPUExecutionProvider"]
    )
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(tmp_path / "int8.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    (ours,) = session.run(None, {"frames": frames})
    theirs = np.concatenate([compiled({"frames": frame[None]})[0] for frame in frames])
    expected = logits_of(model, CLIP, frames)
    assert relative_error(expected, theirs) < 3 * relative_error(expected, ours)


def test_zeros_around_a_layer_are_found_by_its_name(folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(folder / "a.onnx")
    node = next(n for n in proto.graph.node if "model.conv5.1.conv1.weight" in n.input)
    (pads,) = [attribute for attribute in node.attribute if attribute.name == "pads"]
    assert list(pads.ints) == [0, 1, 1, 0, 1, 1]
    pads.ints[0], pads.ints[3] = 2, 2
    write_signed(proto, tmp_path / "a.onnx")
    message = r"'conv5\.1\.conv1' its padding is 2x1x1 before and 2x1x1 behind, not 0x1x1 before"
    with pytest.raises(ParityError, match=message):
        verify_onnx(tmp_path / "a.onnx", folder / "a.fused.safetensors")


def test_engines_can_be_built(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    built = build_engine(folder / "a.onnx", BuildOptions(targets=("sm86",)))
    assert read_card(built.path).model.causal
