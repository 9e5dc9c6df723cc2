"""Videos that a GPU decodes; in a rehearsal the stand-in of the tests does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stdeploy.artifacts.frames import on_host
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import BackendError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_model
from stdeploy.models.checkpoint import save_fused
from stdeploy.video.clips import ClipRequest, read_clips
from stdeploy.video.decode_pool import DecodePool
from stdeploy.video.limits import Limits
from tests.gpu.conftest import REHEARSAL, Gpu
from tests.helpers.models import TINY_CLIP, card_of, tiny_model

av = pytest.importorskip("av", reason="PyAV is not installed")

from stdeploy.video import nvdec  # noqa: E402 - after the check for PyAV
from tests.helpers.nvdec_stand_in import stand_in  # noqa: E402
from tests.helpers.odd_videos import ODD_VIDEOS, coloured_frames, encode  # noqa: E402

pytestmark = pytest.mark.needs_cuda

CLIP = ClipSpec(num_frames=8, frame_stride=2, fps=25.0, short_side_px=64, crop_px=56)
ON_GPU = "it was decoded on the GPU"
DECODED = ("h264.mp4", "h264-b-frames.mp4", "h264-b-frames.mkv", "hevc.mp4", "vp9.webm")
TURNED = ("rotated-90.mp4", "rotated-180.mp4", "rotated-270.mov", "later-start.mp4")


@pytest.fixture(autouse=True)
def library() -> Iterator[None]:
    if REHEARSAL:
        with stand_in():
            yield
        return
    try:
        nvdec.library()
    except BackendError as error:
        pytest.skip(str(error))
    yield


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.mp4"
    frames = coloured_frames(600, width=256, height=192)
    encode(path, frames, "libx264", bf="2", g="25")
    return path


@pytest.mark.parametrize("name", [*DECODED, *TURNED, "variable-rate.mp4"])
def test_frames_are_those_of_the_cpu(name: str, tmp_path: Path, gpu: Gpu) -> None:
    """To the bit: the codecs say what has to come out, and colours are whole numbers."""
    path = tmp_path / name
    encode(path, coloured_frames(40, width=256, height=192), **settings_of(name))
    request = ClipRequest(clip=CLIP, views=3, crops=3)
    (expected,) = read_clips(path, request)
    (found,) = read_clips(path, request.model_copy(update={"decoder": "nvdec"}))
    assert found.flaws.notes[0].startswith(ON_GPU), found.flaws.notes
    assert isinstance(found.frames, torch.Tensor)
    assert found.frames.device.type == gpu.device
    np.testing.assert_array_equal(found.times_seconds, expected.times_seconds)
    np.testing.assert_array_equal(on_host(found.frames), on_host(expected.frames))


def settings_of(name: str) -> dict[str, Any]:
    """How a file of that name is written, large enough for every decoder."""
    codec = {"hevc.mp4": "libx265", "vp9.webm": "libvpx-vp9"}.get(name, "libx264")
    settings: dict[str, Any] = {"codec": codec}
    if "b-frames" in name:
        settings |= {"bf": "3", "g": "12"}
    if "hevc" in name:
        settings["x265_params"] = "log-level=none"
    if name.startswith("rotated"):
        settings["rotation"] = int(name.partition("-")[2].partition(".")[0])
    if name.startswith("later"):
        settings["times"] = [2000 + 40 * number for number in range(40)]
    if name.startswith("variable"):
        settings["times"] = np.cumsum([33, 33, 50, 100, 17, 250, 40, 33] * 5).tolist()
    return settings


@pytest.mark.parametrize("name", ["hevc-10-bit.mp4", "interlaced.mpg", "mpeg4.avi", "odd-size.mkv"])
def test_what_it_does_not_decode_the_cpu_does(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    ODD_VIDEOS[name](path)
    request = ClipRequest(clip=CLIP, views=3)
    (expected,) = read_clips(path, request)
    (found,) = read_clips(path, request.model_copy(update={"decoder": "nvdec"}))
    assert "not on the GPU: " in found.flaws.notes[0]
    np.testing.assert_array_equal(on_host(found.frames), on_host(expected.frames))


@pytest.mark.parametrize(
    "how",
    [
        {"hop_seconds": 0.5, "group": 2},
        {"chunk_frames": 5},
        {"hop_seconds": 0.5, "group": 2, "shortest_shot_seconds": 0.5},
    ],
)
def test_windows_are_those_of_the_cpu(how: dict[str, object], scene: Path) -> None:
    request = ClipRequest(clip=CLIP, **how)  # type: ignore[arg-type]
    expected = list(read_clips(scene, request))
    found = list(read_clips(scene, request.model_copy(update={"decoder": "nvdec"})))
    assert found[-1].flaws.notes[0].startswith(ON_GPU), found[-1].flaws.notes
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(on_host(one.frames), on_host(other.frames))


def test_frames_far_apart_are_found(scene: Path) -> None:
    """Two views of 24 s, with a leap between them."""
    request = ClipRequest(clip=CLIP, views=2)
    (expected,) = read_clips(scene, request)
    (found,) = read_clips(scene, request.model_copy(update={"decoder": "nvdec"}))
    assert found.flaws.notes[0].startswith(ON_GPU), found.flaws.notes
    np.testing.assert_array_equal(on_host(found.frames), on_host(expected.frames))


def test_a_process_that_can_be_killed_decodes_there(scene: Path) -> None:
    request = ClipRequest(clip=CLIP, views=2)
    (expected,) = read_clips(scene, request)
    with DecodePool(1, Limits(), on_gpu=True) as pool:
        for _ in range(3):
            (found,) = pool.read_clips(scene, request.model_copy(update={"decoder": "nvdec"}))
            assert found.flaws.notes[0].startswith(ON_GPU), found.flaws.notes
            np.testing.assert_array_equal(on_host(found.frames), on_host(expected.frames))


@pytest.mark.parametrize("kind", ["torch", "cuda graphs", "onnxruntime"])
def test_runtimes_take_frames_where_they_lie(kind: str, tmp_path: Path, gpu: Gpu) -> None:
    path = tmp_path / "a.fused.safetensors"
    model = fuse_model(tiny_model()).float()
    save_fused(path, model, card_of(model))
    options = gpu.torch("fp32", cuda_graphs=kind == "cuda graphs")
    if kind == "onnxruntime":
        path = export_onnx(path).path
        options = type(options)(backend="onnxruntime", device=gpu.device)
    rng = np.random.default_rng(0)
    batches = rng.integers(0, 256, (3, 2, *TINY_CLIP.frames_shape), np.uint8)
    try:
        runtime = open_runtime(path, options=options)
    except BackendError as error:
        pytest.skip(str(error))
    with runtime:
        for frames in batches:
            there = torch.from_numpy(frames).to(gpu.device)
            expected = runtime.run(frames)
            np.testing.assert_allclose(runtime.run(there), expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(there.cpu().numpy(), frames)  # not written over
