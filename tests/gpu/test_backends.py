"""Every backend on a GPU gives the logits of the CPU, and what must be refused there is."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import sidecar_path
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_backend, open_runtime
from stdeploy.backends.tensorrt_builder import BuildOptions, usable_distributions
from stdeploy.backends.torch_epilogues import conv_relu
from stdeploy.backends.torch_execution import exact
from stdeploy.errors import ArtifactError
from stdeploy.export.aot import build_package
from stdeploy.export.engine import build_engine
from stdeploy.export.onnx import export_onnx, save_graph, to_onnx
from stdeploy.export.quantise import Quantiser
from stdeploy.fusion import fuse_model
from stdeploy.hardware import gpus
from stdeploy.models.checkpoint import load_model, save_fused
from tests.gpu.conftest import REHEARSAL, Gpu
from tests.helpers.models import TINY_CLIP, card_of, tiny_model

pytestmark = pytest.mark.needs_cuda

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2, "int8": 1e-1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    model = fuse_model(tiny_model(temporal_lengths=(1, 1, 3, 3, 5))).float()
    save_fused(folder / "a.fused.safetensors", model, card_of(model))
    return folder


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def onnx_file(request: pytest.FixtureRequest, folder: Path) -> Path:
    options: dict[str, Any] = {"precision": request.param}
    return export_onnx(folder / "a.fused.safetensors", **options).path


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, *TINY_CLIP.frames_shape), np.uint8)


@pytest.fixture(scope="module")
def expected(folder: Path, frames: np.ndarray) -> np.ndarray:
    with open_runtime(
        folder / "a.fused.safetensors", options=RuntimeOptions(device="cpu")
    ) as runtime:
        return runtime.run(frames)


def assert_near(actual: np.ndarray, expected: np.ndarray, precision: str) -> None:
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"cuda_graphs": True},
        {"compile": True},
        {"planar": True},
        {"planar": True, "fused_relu": True},
        {"planar": True, "fused_relu": True, "cuda_graphs": True},
    ],
    ids=str,
)
def test_torch(
    folder: Path, frames: np.ndarray, expected: np.ndarray, precision: str, extra: dict, gpu: Gpu
) -> None:
    options = gpu.torch(precision, **extra)
    with open_runtime(folder / "a.fused.safetensors", options=options) as runtime:
        assert gpu.name in runtime.device
        # Opening has replayed one clip; each other size is compiled anew, slowly on a CPU.
        for batch in (1,) if REHEARSAL and "compile" in extra else (5, 2, 5):
            assert_near(runtime.run(frames[:batch]), expected[:batch], runtime.precision)


def test_onnxruntime_uses_cuda(
    onnx_file: Path, frames: np.ndarray, expected: np.ndarray, gpu: Gpu
) -> None:
    with open_runtime(onnx_file, options=RuntimeOptions(backend="onnxruntime")) as runtime:
        assert gpu.onnxruntime in runtime.device
        for batch in (5, 2, 5):
            assert_near(runtime.run(frames[:batch]), expected[:batch], runtime.precision)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("graphs", [False, True])
def test_onnxruntime_with_either_layout_and_as_graphs(
    onnx_file: Path,
    frames: np.ndarray,
    expected: np.ndarray,
    gpu: Gpu,
    channels_last: bool,
    graphs: bool,
) -> None:
    options = gpu.onnx(channels_last=channels_last, cuda_graphs=graphs)
    with open_runtime(onnx_file, options=options) as runtime:
        assert ("CUDA graphs" in runtime.device) == options.cuda_graphs
        # A graph is captured for each size, and replayed with other frames.
        for batch in (5, 2, 5):
            for order in (1, -1):
                clips = np.ascontiguousarray(frames[:batch][::order])
                assert_near(runtime.run(clips), expected[:batch][::order], runtime.precision)


def test_auto_takes_a_form_that_answers_rightly(
    folder: Path, frames: np.ndarray, expected: np.ndarray, gpu: Gpu
) -> None:
    with open_runtime(folder / "a.fused.safetensors") as runtime:
        assert gpu.name in runtime.device
        for batch in (5, 2):
            assert_near(runtime.run(frames[:batch]), expected[:batch], "fp32")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_fused_relu_takes_nothing_from_memory_that_was_free(precision: str, gpu: Gpu) -> None:
    """torch gives cuDNN the memory of the answer as what is added, times 0: NaN stays NaN then."""
    wanted: Any = precision
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[
        gpu.precision(wanted)
    ]
    torch.manual_seed(0)
    x, weight, bias = torch.randn(4, 16, 20, 20), torch.randn(32, 16, 3, 3) / 12, torch.randn(32)
    right = conv2d(x, weight, bias, padding=1).relu()
    x, weight = (
        part.to(gpu.device, dtype, memory_format=torch.channels_last) for part in (x, weight)
    )
    bias = bias.to(gpu.device, dtype)
    with torch.inference_mode(), exact():
        for _ in range(3):  # the first chooses an algorithm, and writes there while it does
            spoilt = torch.full_like(right, torch.nan, dtype=dtype, device=gpu.device)
            del spoilt  # the next tensor of this size lies where it lay
            found = conv_relu(x, weight, bias, None, (1, 1), (1, 1), 1).float().cpu()
            assert_near(found.numpy(), right.numpy(), precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_package(
    folder: Path, frames: np.ndarray, expected: np.ndarray, precision: str, gpu: Gpu
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a C++ compiler, and g++ is not installed")
    options: dict[str, Any] = {"precision": precision, "form": "planar"}
    built = build_package(folder / "a.fused.safetensors", **options)
    assert (built.sidecar.gpu is None) == REHEARSAL
    for graphs in (False, not REHEARSAL):
        with open_runtime(
            built.path, options=RuntimeOptions(backend="aotinductor", cuda_graphs=graphs)
        ) as runtime:
            assert gpu.name in runtime.device
            for batch in (5, 2, 5):
                assert_near(runtime.run(frames[:batch]), expected[:batch], precision)


def test_int8_of_onnxruntime_is_right_and_warned_of(
    folder: Path,
    frames: np.ndarray,
    gpu: Gpu,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, card = load_model(folder / "a.fused.safetensors")
    card = card.model_copy(update={"precision": "int8"})
    quantiser = Quantiser(to_onnx(model, card), frames)
    path = tmp_path / "a.int8.onnx"
    save_graph(quantiser.quantise(tuple(quantiser.layers)), card, path)
    on_cpu = RuntimeOptions(backend="onnxruntime", device="cpu")
    answers = []
    for options in (on_cpu, gpu.onnx()):
        with open_backend(path, card, options) as runtime:
            answers.append(runtime.run(frames))
    assert_near(answers[1], answers[0], "int8")
    assert REHEARSAL or "a.int8.onnx: ONNX Runtime has no int8 convolutions" in caplog.text


@pytest.fixture(scope="module")
def engine(onnx_file: Path) -> Path:
    distributions = list(usable_distributions())
    if not distributions:
        pytest.skip("neither TensorRT nor TensorRT-RTX is installed")
    options = BuildOptions(batches=(2, 4))
    if REHEARSAL:
        built = build_engine(onnx_file, dataclasses.replace(options, targets=("sm86",)))
        pytest.skip(f"{built.path.name} is built, but runs on a GPU alone")
    target = gpus()[0].target
    if [f.name for f in distributions] == ["tensorrt_rtx"] and not hasattr(
        distributions[0].api.ComputeCapability, target.upper()
    ):
        pytest.skip(f"TensorRT-RTX {distributions[0].version} makes no engines for {target}")
    return build_engine(onnx_file, options).path


@pytest.mark.parametrize("graphs", [False, True])
def test_engine_and_batches_over_its_largest(
    engine: Path, frames: np.ndarray, expected: np.ndarray, graphs: bool
) -> None:
    sidecar = EngineSidecar.read(engine)
    assert sidecar.gpu == gpus()[0].name
    assert all(row.passed for row in sidecar.card.parity)
    assert sidecar.card.parity
    with open_runtime(engine, options=RuntimeOptions(cuda_graphs=graphs)) as runtime:
        for batch in (1, 5, 2, 5, 1, 1):
            logits = runtime.run(frames[:batch])
            assert_near(logits, expected[:batch], runtime.precision)


def test_engine_of_another_host_is_refused_or_built_again(engine: Path, tmp_path: Path) -> None:
    sidecar = EngineSidecar.read(engine)
    copy = tmp_path / engine.name
    for source, target in (
        (engine, copy),
        (sidecar_path(engine), sidecar_path(copy)),
        (engine.with_name(sidecar.onnx), tmp_path / sidecar.onnx),
    ):
        target.write_bytes(source.read_bytes())
    sidecar.model_copy(update={"targets": ("sm75",), "gpu": "Tesla T4"}).write(copy)
    with pytest.raises(ArtifactError, match=r"built for sm75 on Tesla T4, here is .*--rebuild"):
        open_runtime(copy)
    with open_runtime(copy, options=RuntimeOptions(rebuild=True)) as runtime:
        assert runtime.name == "tensorrt"
    assert EngineSidecar.read(copy).targets == (gpus()[0].target,)
