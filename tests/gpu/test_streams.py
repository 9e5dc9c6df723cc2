"""Streams on a GPU: what is kept stays there, and says what the whole video says."""

from pathlib import Path

import numpy as np
import pytest

from stdeploy.artifacts.parity import relative_error
from stdeploy.backends.base import RuntimeOptions, StreamOptions
from stdeploy.backends.loader import open_streams
from stdeploy.export.stream import export_stream
from stdeploy.export.stream_verification import whole_video
from stdeploy.models.checkpoint import load_model, save_fused
from tests.export.files import fused_network
from tests.gpu.conftest import Gpu
from tests.helpers.models import card_of

pytestmark = pytest.mark.needs_cuda

FRAMES, WINDOW = 40, 16
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    model = fused_network(temporal_lengths=(1, 1, 3, 3, 5))
    save_fused(folder / "a.fused.safetensors", model, card_of(model))
    export_stream(folder / "a.fused.safetensors", window=WINDOW)
    return folder


def check(artifact: Path, options: RuntimeOptions, asked: StreamOptions, named: str) -> None:
    """Three streams in changing company against the networks that see whole videos."""
    model, card = load_model(artifact.with_name("a.fused.safetensors"))
    noise = np.random.default_rng(0)
    videos = noise.integers(0, 256, (3, FRAMES, 32, 32, 3), dtype=np.uint8)
    with open_streams(artifact, options=options, asked=asked) as runtime:
        assert named in runtime.session.device
        streams = [runtime.begin(FRAMES) for _ in videos]
        found: list[list[np.ndarray]] = [[] for _ in videos]
        calls = FRAMES + runtime.spec.calls_behind
        while waiting := [n for n, each in enumerate(streams) if each.position < calls]:
            chosen = noise.permutation(waiting)[: noise.integers(1, len(waiting) + 1)]
            frames = [videos[n][[min(streams[n].position, FRAMES - 1)]] for n in chosen]
            answer = runtime.step(np.stack(frames), [streams[n] for n in chosen])
            for row, n in enumerate(chosen):
                found[n].append(answer.places[row])
        behind, precision = runtime.spec.delay_places, runtime.session.precision
    for video, places in zip(videos, found, strict=True):
        whole = whole_video(model, card.clip, video)
        said = np.concatenate(places)[behind : behind + FRAMES].astype(np.float64)
        assert relative_error(whole.places, said, scale=whole.magnitude) < TOLERANCE[precision]


@pytest.mark.parametrize("cuda_graphs", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torch_says_what_whole_videos_say(
    folder: Path, gpu: Gpu, precision: str, cuda_graphs: bool
) -> None:
    options = gpu.torch(precision, cuda_graphs=cuda_graphs)  # type: ignore[arg-type]
    check(folder / "a.fused.safetensors", options, StreamOptions(1, WINDOW), gpu.name)


def test_onnx_runtime_says_what_whole_videos_say(folder: Path, gpu: Gpu) -> None:
    check(folder / "a.stream.onnx", gpu.onnx(), StreamOptions(), gpu.onnxruntime)
