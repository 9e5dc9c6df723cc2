"""What can be asked of a runtime, and that it is given or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.spec import Precision
from stdeploy.backends import loader, selection
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.backends.onnxruntime import OnnxRuntime, cuda_options
from stdeploy.backends.openvino import OpenVinoRuntime
from stdeploy.backends.torch_execution import exact
from stdeploy.errors import ArtifactError, BackendError, ParityError, SpecError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_model
from stdeploy.hardware import cpu_emulates_bf16, cpu_multiplies, gpus
from stdeploy.models.checkpoint import save_fused
from tests.helpers.models import TINY_CLIP, card_of, tiny_model

needs_no_gpu = pytest.mark.skipif(bool(gpus()), reason="about hosts without a GPU")


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backends")
    model = fuse_model(tiny_model(temporal_lengths=(1, 1, 3, 3, 5))).float()
    save_fused(folder / "a.fused.safetensors", model, card_of(model))
    return export_onnx(folder / "a.fused.safetensors").path


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_backend_gives_the_same_logits(onnx_file: Path, backend: str, batch: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (batch, *TINY_CLIP.frames_shape), np.uint8)
    with open_runtime(onnx_file.with_name("a.fused.safetensors")) as torch_runtime:
        expected = torch_runtime.run(frames)
    with open_runtime(onnx_file, options=RuntimeOptions(backend=backend)) as runtime:
        assert (runtime.name, runtime.device, runtime.precision) == (backend, "CPU", "fp32")
        np.testing.assert_allclose(runtime.run(frames), expected, rtol=1e-4, atol=1e-5)


def test_logits_of_an_earlier_run_stay_as_they_were(onnx_file: Path) -> None:
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 256, (2, 1, *TINY_CLIP.frames_shape), np.uint8)
    for backend in ("onnxruntime", "openvino"):
        with open_runtime(onnx_file, options=RuntimeOptions(backend=backend)) as runtime:
            first = runtime.run(one)
            kept = first.copy()
            assert not np.array_equal(runtime.run(two), kept)
            np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "torch"}, ArtifactError, "torch does not run .onnx files"),
        ({"backend": "tensorrt"}, ArtifactError, "choose onnxruntime or openvino"),
        ({"backend": "onnxruntime", "precision": "fp16"}, BackendError, "--precision fp16"),
        ({"backend": "openvino", "precision": "int8"}, BackendError, "--precision int8"),
        ({"backend": "openvino", "device": "cuda"}, BackendError, "runs on the CPU only"),
        ({"backend": "onnxruntime", "compile": True}, SpecError, "has no --compile"),
        ({"backend": "openvino", "cuda_graphs": True}, SpecError, "has no --cuda-graphs"),
        (
            {"backend": "onnxruntime", "device": "cpu", "cuda_graphs": True},
            BackendError,
            "--cuda-graphs needs --device cuda",
        ),
        (
            {"backend": "onnxruntime", "device": "cpu", "channels_last": True},
            BackendError,
            "--channels-last needs --device cuda",
        ),
        ({"backend": "openvino", "channels_last": True}, SpecError, "has no --channels-last"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused(
    onnx_file: Path, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_runtime(onnx_file, options=RuntimeOptions(**options))


@needs_no_gpu
def test_a_gpu_that_is_not_there_is_refused_or_allowed_for(onnx_file: Path) -> None:
    weights = onnx_file.with_name("a.fused.safetensors")
    for artifact in (onnx_file, weights):
        with pytest.raises(BackendError, match=r"CUDA\w* was asked for"):
            open_runtime(artifact, options=RuntimeOptions(device="cuda"))
        options = RuntimeOptions(device="cuda", allow_cpu=True)
        with open_runtime(artifact, options=options) as runtime:
            assert runtime.device == "CPU"


@pytest.mark.skipif(cpu_multiplies("bf16"), reason="this processor has bf16")
def test_bf16_is_not_emulated_unless_asked_for(onnx_file: Path) -> None:
    with pytest.raises(BackendError, match="no bf16 instructions"):
        open_runtime(onnx_file, options=RuntimeOptions(backend="openvino", precision="bf16"))
    options = RuntimeOptions(backend="openvino", precision="bf16", emulate=True)
    if cpu_emulates_bf16():
        with open_runtime(onnx_file, options=options) as runtime:
            assert runtime.precision == "bf16"
    else:  # what OpenVINO emulates with is not there either, and it goes on in float32
        with pytest.raises(BackendError, match="in f32"):
            open_runtime(onnx_file, options=options)


def test_torch_in_bf16_runs_near_fp32(onnx_file: Path) -> None:
    weights = onnx_file.with_name("a.fused.safetensors")
    with open_runtime(weights, options=RuntimeOptions(precision="bf16")) as runtime:
        assert runtime.precision == "bf16"
    with pytest.raises(BackendError, match="minutes a clip"):
        open_runtime(weights, options=RuntimeOptions(precision="fp16", device="cpu"))


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        (
            "bf16",
            r"on torch \(CPU\) in bf16 answers .* loses more to bf16 than that, or a kernel of "
            r"this runtime is wrong; run it in fp32$",
        ),
        ("fp32", r"on torch \(CPU\) answers .* differ from what was verified$"),
    ],
)
def test_a_wrong_answer_in_lower_precision_is_laid_to_it(
    onnx_file: Path, precision: Precision, message: str
) -> None:
    weights = onnx_file.with_name("a.fused.safetensors")
    card = read_card(weights)
    other = tuple(1.5 * logit for logit in card.golden.logits)
    wrong = card.model_copy(update={"golden": card.golden.model_copy(update={"logits": other})})
    with open_runtime(weights, options=RuntimeOptions(precision=precision)) as runtime:
        assert loader.replay_golden(runtime, card, source="a") < 0.05
        with pytest.raises(ParityError, match=message):
            loader.replay_golden(runtime, wrong, source="a")


def test_cudnn_stays_on_and_tf32_off_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own context switches cuDNN off unless it is told not to."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = cudnn.enabled
    with exact():
        assert cudnn.enabled
        assert not cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert cudnn.enabled == before


def test_auto_times_both_once_and_remembers(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "cache_folder", lambda: tmp_path / "cache")
    tried = []
    real = loader.open_backend

    def spy(artifact, card, options):
        tried.append(options.backend)
        return real(artifact, card, options)

    monkeypatch.setattr(loader, "open_backend", spy)
    with open_runtime(onnx_file) as runtime:
        chosen = runtime.name
    assert tried == ["onnxruntime", "openvino"]
    (remembered,) = json.loads((tmp_path / "cache" / "choices.json").read_text()).values()
    assert remembered == chosen
    with open_runtime(onnx_file) as runtime:
        assert runtime.name == chosen
    assert tried == ["onnxruntime", "openvino", chosen]


def test_auto_does_without_a_backend_that_answers_wrongly(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "cache_folder", lambda: tmp_path)
    right = OpenVinoRuntime.run
    monkeypatch.setattr(OpenVinoRuntime, "run", lambda self, frames: right(self, frames) * 1.01)
    with open_runtime(onnx_file) as runtime:
        assert runtime.name == "onnxruntime"
    with pytest.raises(ParityError, match="golden clip wrongly"):
        open_runtime(onnx_file, options=RuntimeOptions(backend="openvino"))


def test_an_unreadable_memory_is_no_error(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "cache_folder", lambda: tmp_path)
    (tmp_path / "choices.json").write_text("[not json")
    with open_runtime(onnx_file) as runtime:
        assert runtime.precision == read_card(onnx_file).precision


def test_fp16_alone_may_use_tensor_cores_on_cuda() -> None:
    # `use_tf32=0` takes them from fp16 convolutions, too: see `cuda_options`.
    assert cuda_options("fp16") == {"use_tf32": "1"}
    for precision in ("fp32", "int8"):
        assert cuda_options(precision) == {"use_tf32": "0"}  # type: ignore[arg-type]
    assert cuda_options("fp16", channels_last=True, cuda_graphs=True) == {
        "use_tf32": "1",
        "prefer_nhwc": "1",
        "enable_cuda_graph": "1",
    }


def test_onnxruntime_is_measured_on_gpus_in_what_it_computes_there(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntime, "sees_gpu", classmethod(lambda _cls: True))
    card = read_card(onnx_file)
    on_cpu = RuntimeOptions(backend="onnxruntime", device="cpu")
    for precision in ("fp32", "fp16"):
        first, *others = OnnxRuntime.ways(card.model_copy(update={"precision": precision}))
        assert first == on_cpu
        assert all(way.device == "cuda" for way in others)
        assert [(way.channels_last, way.cuda_graphs) for way in others] == [
            (False, False),
            (False, True),
            (True, False),
            (True, True),
        ]
    assert list(OnnxRuntime.ways(card.model_copy(update={"precision": "int8"}))) == [on_cpu]
