"""Windows that share the work of the trunk, against the trunk run on the whole video at once."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.dense_trunk import DenseTrunk, _temporal_reach
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import SpecError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_checkpoint
from stdeploy.inference.dense_windows import DenseWindows
from stdeploy.models.checkpoint import load_model, save_checkpoint
from stdeploy.models.frames_to_logits import FrameNormalisation
from tests.helpers.models import card_of, tiny_model

CLIP = ClipSpec(num_frames=6, frame_stride=2, fps=10.0, short_side_px=36, crop_px=32)


@pytest.fixture(scope="module", params=[False, True], ids=["centred", "causal"])
def causal(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, causal: bool) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    model = tiny_model(temporal_lengths=(3, 1, 3, 1, 5), causal=causal)
    save_checkpoint(folder / "a.pt", model, card_of(model, CLIP))
    fuse_checkpoint(folder / "a.pt")
    export_onnx(folder / "a.fused.safetensors")
    return folder / "a.onnx"


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def trunk(artifact: Path, request: pytest.FixtureRequest) -> DenseTrunk:
    card = read_card(artifact)
    with open_runtime(artifact, card, RuntimeOptions(backend=request.param)) as runtime:
        return DenseTrunk.open(artifact, card, runtime)


def whole(artifact: Path, frames: np.ndarray) -> np.ndarray:
    """Features (T, C) of all frames at once, by torch."""
    model, card = load_model(artifact.with_name("a.fused.safetensors"))
    with torch.inference_mode():
        x = FrameNormalisation(card.clip)(torch.from_numpy(frames[None]))
        return model.forward_features(x).mean(dim=(3, 4))[0].T.numpy()


def test_reach_is_that_of_the_filters(trunk: DenseTrunk, causal: bool) -> None:
    # conv1: 1; four convolutions of conv3: 1 each; four of conv5: 2 each
    radius = 1 + 4 + 8
    assert (trunk.before, trunk.after) == ((2 * radius, 0) if causal else (radius, radius))


@pytest.mark.parametrize("hop", [1, 3, 7])
@pytest.mark.parametrize(("stretch", "chunk"), [(5, 3), (16, 16), (64, 7)])
def test_windows_are_averages_of_the_whole_video(
    artifact: Path, trunk: DenseTrunk, hop: int, stretch: int, chunk: int
) -> None:
    frames = golden_clip(5, (50, 32, 32, 3))
    windows = DenseWindows(trunk, window=6, hop=hop, stretch=stretch)
    found = [
        logits
        for start in range(0, len(frames), chunk)
        for logits in windows.add(frames[start : start + chunk])
    ]
    found += list(windows.finish())
    logits = np.concatenate(found)
    features = whole(artifact, frames).astype(np.float64)
    expected = np.stack(
        [trunk.logits(features[s : s + 6].mean(axis=0)[None])[0] for s in range(0, 45, hop)]
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_video_that_is_one_clip_gets_what_the_network_says(
    artifact: Path, trunk: DenseTrunk
) -> None:
    frames = golden_clip(6, CLIP.frames_shape)
    windows = DenseWindows(trunk, window=6)
    found = [*windows.add(frames), *windows.finish()]
    card = read_card(artifact)
    with open_runtime(artifact, card, RuntimeOptions(backend="onnxruntime")) as runtime:
        np.testing.assert_allclose(
            np.concatenate(found), runtime.run(frames[None]), rtol=1e-4, atol=1e-4
        )


def test_a_short_video_gives_one_window(trunk: DenseTrunk) -> None:
    windows = DenseWindows(trunk, window=6)
    found = [*windows.add(golden_clip(7, (4, 32, 32, 3))), *windows.finish()]
    assert np.concatenate(found).shape == (1, 5)


def reach_of(*nodes: onnx.NodeProto, **constants: list[int]) -> tuple[int, int]:
    """Of a graph x -> a -> b -> ..., as far as features see."""
    value = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    numbers = [
        onnx.numpy_helper.from_array(np.array(values, np.int64), name)
        for name, values in constants.items()
    ]
    last = nodes[-1].output[0]
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", shape=None)], [value(last, shape=None)], numbers
    )
    return _temporal_reach(graph, Path("a.onnx"))


def test_reach_counts_the_first_frame_where_it_stands_again() -> None:
    make = onnx.helper.make_node
    pool = partial(make, "MaxPool", ["b"], ["c"], kernel_shape=[3, 1, 1])
    numbers = {"none": [0], "one": [1], "time": [2], "two": [2], "all": [2**63 - 1]}
    first = make("Slice", ["x", "none", "one", "time", "one"], ["a"])
    before = make("Concat", ["a", "a", "x"], ["b"], axis=2)
    assert reach_of(first, before, pool(), **numbers) == (2, 0)
    behind = make("Concat", ["x", "a", "a"], ["b"], axis=2)
    others = make("Concat", ["a", "x"], ["b"], axis=-3)
    second = make("Slice", ["x", "one", "two", "time", "one"], ["a"])
    every_other = make("Slice", ["x", "none", "all", "time", "two"], ["a"])
    added = make("Add", ["a", "x"], ["b"])
    for nodes in (
        (first, behind, pool()),
        (second, others, pool()),
        (every_other, pool()),
        (first, added, pool()),
    ):
        with pytest.raises(SpecError, match="takes frames out of its features and puts them"):
            reach_of(*nodes, **numbers)
    whole = make("Slice", ["x", "none", "all", "time", "one"], ["b"])
    assert reach_of(whole, pool(), **numbers) == (0, 2)


def test_reach_counts_zeros_wherever_they_stand() -> None:
    make = onnx.helper.make_node
    pool = partial(make, "MaxPool", kernel_shape=[3, 1, 1])
    pads = [0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    in_front = make("Pad", ["x", "pads"], ["a"])
    assert reach_of(in_front, pool(["a"], ["b"]), pads=pads) == (2, 0)
    by_axis = make("Pad", ["x", "pads", "", "axes"], ["a"])
    assert reach_of(by_axis, pool(["a"], ["b"]), pads=[2, 0], axes=[-3]) == (2, 0)
    assert reach_of(pool(["x"], ["b"], pads=[1, 0, 0, 1, 0, 0])) == (1, 1)
    assert reach_of(pool(["x"], ["b"], pads=[4, 0, 0, 0, 0, 0], dilations=[2, 1, 1])) == (4, 0)
    even = partial(make, "MaxPool", ["x"], ["b"], kernel_shape=[4, 1, 1])
    assert reach_of(even(auto_pad="SAME_UPPER")) == (1, 2)
    assert reach_of(even(auto_pad="SAME_LOWER")) == (2, 1)
    shortcut = make("Add", ["b", "x"], ["c"])
    assert reach_of(in_front, pool(["a"], ["b"]), shortcut, pads=pads) == (2, 0)
    with pytest.raises(SpecError, match=r"pads by numbers that are not in the file, .*windows$"):
        reach_of(make("Pad", ["x", "y"], ["a"]))


def test_a_network_that_strides_in_time_is_refused(tmp_path: Path) -> None:
    clip = ClipSpec(num_frames=16, frame_stride=1, fps=10.0, short_side_px=64, crop_px=64)
    model = tiny_model("i3d-inception", temporal_lengths=(7, 3, 3, 3, 3), branches="single")
    save_checkpoint(tmp_path / "a.pt", model, card_of(model, clip))
    fuse_checkpoint(tmp_path / "a.pt")
    export_onnx(tmp_path / "a.fused.safetensors")
    card = read_card(tmp_path / "a.onnx")
    with (
        open_runtime(tmp_path / "a.onnx", card, RuntimeOptions(backend="onnxruntime")) as runtime,
        pytest.raises(SpecError, match=r"strides in time, .* or pass --timeline windows$"),
    ):
        DenseTrunk.open(tmp_path / "a.onnx", card, runtime)


def test_other_files_than_onnx_are_refused(artifact: Path) -> None:
    with (
        open_runtime(artifact) as runtime,
        pytest.raises(SpecError, match=r"needs an \.onnx file, .* or pass --timeline windows$"),
    ):
        DenseTrunk.open(artifact.with_name("a.fused.safetensors"), read_card(artifact), runtime)
