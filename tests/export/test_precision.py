"""Lower precisions: what is written has passed its gate, and damage to it is caught."""

import collections
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from stdeploy.artifacts.card import ParityRow, read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import GATES, difference
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.datasets.loader import NamedVideos
from stdeploy.errors import ArtifactError, BackendError, DatasetError, ParityError, SpecError
from stdeploy.export import verification
from stdeploy.export.calibration import named_videos, read_calibration
from stdeploy.export.onnx import export_onnx
from stdeploy.export.verification import wider_thresholds
from stdeploy.fusion import fuse_model
from stdeploy.hardware import cpu_emulates_bf16
from stdeploy.models.checkpoint import load_model, save_fused
from tests.helpers.models import TINY_CLIP, card_of, tiny_model, write_signed
from tests.helpers.videos import write_golden_videos, write_video

BF16 = pytest.param(
    "bf16", marks=pytest.mark.skipif(not cpu_emulates_bf16(), reason="needs AVX-512 to verify")
)
PRECISIONS = ("fp16", BF16, "int8")
# The best classes of a random network lie so near each other that any rounding swaps them.
HESITANT = {"top1_changed": 1.0}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos to calibrate on, in a folder with subfolders, one of them broken."""
    folder = tmp_path_factory.mktemp("clips")
    for number in (0, 1):
        write_golden_videos(folder / str(number), count=2, first_seed=2 * number)
    (folder / "0" / "broken.mp4").write_bytes(b"no video")
    return folder


def fused_file(folder: Path, **fields: object) -> Path:
    model = fuse_model(tiny_model(temporal_lengths=(1, 1, 3, 3, 5), **fields)).float()
    path = folder / "a.fused.safetensors"
    save_fused(path, model, card_of(model))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    """a.fp16.onnx, a.bf16.onnx, a.int8.onnx beside their parent."""
    fused = fused_file(tmp_path_factory.mktemp("precision"))
    for precision in ("fp16", "bf16", "int8") if cpu_emulates_bf16() else ("fp16", "int8"):
        options: dict[str, Any] = {"precision": precision, "calibrate": clips, "allow": HESITANT}
        export_onnx(fused, **options)
    return fused.parent


def options_for(precision: str) -> RuntimeOptions:
    backend = "openvino" if precision == "bf16" else "onnxruntime"
    return RuntimeOptions(backend=backend, emulate=True)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_card_records_gate_clips_and_answer(exported: Path, precision: str, clips: Path) -> None:
    card = read_card(exported / f"a.{precision}.onnx")
    assert card.precision == precision
    assert card.calibration is not None
    assert (card.calibration.source, card.calibration.clips) == (str(clips), 4)
    assert card.calibration.held_out == (1 if precision == "int8" else 0)
    rows = {row.check.partition(", ")[2]: row for row in card.parity}
    assert list(rows) == [
        *("batch 1", "batch 2", "batch 5"),
        *("largest logit error", "mean logit error", "top-1 changed"),
        "KL of the probabilities, nats",
        "channels beyond rounding",
    ]
    assert all(row.passed and row.precision == precision for row in card.parity)
    assert rows["largest logit error"].tolerance == GATES[precision].max_error
    groups = {"int8": {"3 real clips of the ranges", "1 real clip held out"}}.get(
        precision, {"4 real clips"}
    )
    for name in ("largest logit error", "mean logit error", "KL of the probabilities, nats"):
        assert rows[name].detail in {"5 synthetic clips", *groups}
    assert rows["top-1 changed"].detail == "9 clips"
    # It is its own answer that is remembered beside its parent's, and they differ a little.
    assert card.golden.verified is not None
    changed = difference(np.array([card.golden.logits]), np.array([card.golden.verified]))
    assert 0 < changed.max_error <= GATES[precision].max_error


@pytest.mark.parametrize("precision", PRECISIONS)
def test_file_is_smaller_and_its_head_stays_fp32(exported: Path, precision: str) -> None:
    path = exported / f"a.{precision}.onnx"
    weights = (exported / "a.fused.safetensors").stat().st_size
    assert path.stat().st_size < weights * (0.4 if precision == "int8" else 0.65)
    graph = onnx.load(path).graph
    kinds = collections.Counter(t.data_type for t in graph.initializer if len(t.dims) == 5)
    expected = {
        "fp16": onnx.TensorProto.FLOAT16,
        "bf16": onnx.TensorProto.BFLOAT16,
        "int8": onnx.TensorProto.INT8,
    }
    # Weights of 7 bits, where the processor wants them, can spoil a layer of a random network.
    kept = {onnx.TensorProto.FLOAT} if read_card(path).kept else set()
    assert set(kinds) == {expected[precision], *kept}
    (head,) = [t for t in graph.initializer if t.name.endswith("head.classifier.weight")]
    parent, _ = load_model(exported / "a.fused.safetensors")
    exact = parent.head.classifier.weight.detach().numpy()
    assert head.data_type == onnx.TensorProto.FLOAT
    assert np.array_equal(numpy_helper.to_array(head), exact)


def test_int8_is_symmetric_and_has_one_scale_per_output_channel(exported: Path) -> None:
    graph = onnx.load(exported / "a.int8.onnx").graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    kept = {f"model.{name}.weight" for name in read_card(exported / "a.int8.onnx").kept}
    convolutions = [
        node for node in graph.node if node.op_type == "Conv" and node.input[1] not in kept
    ]
    assert len(convolutions) > 10
    for node in convolutions:
        for number, name in enumerate(node.input[:2]):
            dequantise = makers[name]
            assert dequantise.op_type == "DequantizeLinear"
            scale, zero = tensors[dequantise.input[1]], tensors[dequantise.input[2]]
            assert not zero.any()
            if number == 1:
                assert scale.shape == (tensors[dequantise.input[0]].shape[0],)
    # None behind a convolution: that would round twice.
    consumers = [
        node.op_type
        for node in graph.node
        for n in node.input
        if n in makers and makers[n].op_type == "Conv"
    ]
    assert "QuantizeLinear" not in consumers


def test_openvino_answers_int8_as_onnxruntime_does(exported: Path) -> None:
    path = exported / "a.int8.onnx"
    for backend in ("onnxruntime", "openvino"):
        with open_runtime(path, options=RuntimeOptions(backend=backend)) as runtime:
            assert runtime.precision == "int8"


def damage_weight(graph: onnx.GraphProto) -> None:
    kernel = max((t for t in graph.initializer if len(t.dims) == 5), key=lambda t: t.dims[2])
    raw = bytearray(kernel.raw_data)
    raw[: len(raw) // 4] = bytes(len(raw) // 4)
    kernel.raw_data = bytes(raw)


def damage_mean(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        if tensor.name.endswith("normalise.offset"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), tensor.name))
            return
    add = next(node for node in graph.node if node.op_type == "Add")
    offset = next(t for t in graph.initializer if t.name in add.input)
    zeros = np.zeros(offset.dims, np.float32)
    offset.CopyFrom(numpy_helper.from_array(zeros, offset.name))


def swap_channels(graph: onnx.GraphProto) -> None:
    stem = next(t for t in graph.initializer if len(t.dims) == 5 and t.dims[1] == 3)
    size = len(stem.raw_data) // int(np.prod(stem.dims))
    array = np.frombuffer(stem.raw_data, np.uint8).reshape(*stem.dims, size)
    stem.raw_data = np.ascontiguousarray(array[:, ::-1]).tobytes()


def freeze_batch(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("damage", [damage_weight, damage_mean, swap_channels, freeze_batch])
def test_damage_is_caught_when_the_file_is_opened(
    exported: Path, tmp_path: Path, precision: str, damage: Callable[[onnx.GraphProto], None]
) -> None:
    proto = onnx.load(exported / f"a.{precision}.onnx")
    damage(proto.graph)
    write_signed(proto, tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match=r"golden clip wrongly|frozen at batch 1"):
        open_runtime(tmp_path / "a.onnx", options=options_for(precision))


def test_layers_that_spoil_int8_are_kept_and_named(tmp_path: Path, clips: Path) -> None:
    fused = fused_file(tmp_path)
    model, card = load_model(fused)
    block = model.conv3[0]
    with torch.no_grad():
        # The same function, but one channel is so loud that 8 bits leave nothing to the others.
        block.conv1.weight[0] *= 3e3
        block.conv1.bias[0] *= 3e3
        block.conv2.weight[:, 0] /= 3e3
    save_fused(fused, model, card)
    options: dict[str, Any] = {"precision": "int8", "calibrate": clips, "allow": HESITANT}
    result = export_onnx(fused, **options)
    assert "conv3.0.conv2" in result.card.kept
    assert len(result.card.kept) <= 4
    assert all(row.passed for row in result.card.parity)
    graph = onnx.load(result.path).graph
    kernels = {t.name: t.data_type for t in graph.initializer if len(t.dims) == 5}
    assert kernels["model.conv3.0.conv2.weight"] == onnx.TensorProto.FLOAT
    assert kernels["model.conv3.0.conv1.weight_quantized"] == onnx.TensorProto.INT8


@pytest.mark.parametrize(
    ("found", "options"),
    [
        ([("top-1 changed", 2 / 37)], "--allow top1_changed=0.055"),
        ([("top-1 changed", 1 / 37)], "--allow top1_changed=0.028"),
        (
            [("KL of the probabilities, nats", 0.0812), ("mean logit error", 0.05)],
            "--allow kl_nats=0.082 --allow mean_error=0.05",
        ),
        ([("largest logit error", 9.96)], "--allow max_error=10"),
        ([("largest logit error", 0.3), ("batch 2", 0.3)], ""),
        ([("largest logit error", float("nan"))], ""),
        ([("largest logit error", float("inf"))], ""),
    ],
)
def test_the_thresholds_that_allow_what_was_found(
    found: list[tuple[str, float]], options: str
) -> None:
    rows = [
        ParityRow.model_construct(
            check=f"onnxruntime, {check}", precision="int8", error=error, tolerance=0.0
        )
        for check, error in found
    ]
    assert wider_thresholds(rows) == options


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_nothing_is_written_where_the_gate_fails(
    tmp_path: Path, clips: Path, precision: str
) -> None:
    fused = fused_file(tmp_path)
    options: dict[str, Any] = {
        "precision": precision,
        "calibrate": clips,
        "allow": {"max_error": 1e-09},
    }
    message = "even with" if precision == "int8" else "allowed 1.0e-09"
    with pytest.raises(ParityError, match=message) as told:
        export_onnx(fused, **options)
    # The option that is named allows what was measured.
    measured = re.search(r"largest logit error (\S+), allowed", str(told.value))
    named = re.search(r"to allow that: --allow max_error=(\S+)$", str(told.value))
    assert measured is not None
    assert named is not None
    assert float(measured[1]) * 0.95 <= float(named[1]) <= float(measured[1]) * 1.15
    assert [p.name for p in tmp_path.iterdir()] == [fused.name]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"precision": "int8"}, SpecError, "--calibrate DATA"),
        ({"allow": {"speed": 1.0}}, SpecError, "no threshold 'speed'"),
        ({"allow": {"kl_nats": -1.0}}, SpecError, "give 0 or more"),
        ({"calibrate": Path("none")}, DatasetError, "does not exist; name a folder of videos"),
    ],
    ids=str,
)
def test_impossible_wishes_are_refused(
    tmp_path: Path, fields: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_onnx(fused_file(tmp_path), **fields)


def test_bf16_is_not_written_where_it_cannot_be_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "cpu_emulates_bf16", lambda: False)
    fused = fused_file(tmp_path)
    with pytest.raises(BackendError, match="lacks AVX-512"):
        export_onnx(fused, precision="bf16")
    assert [p.name for p in tmp_path.iterdir()] == [fused.name]


def plain(colour: tuple[int, int, int], noise: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    frames = np.full((20, 48, 64, 3), colour) + draw.integers(-noise, noise + 1, (20, 48, 64, 3))
    return list(frames.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ({"black": plain((0, 0, 0))}, r"/black\.mp4' shows single colours .* differ by 0\.0 of"),
        (
            {name: plain((9, 90, 200), noise=5) for name in "ab"},
            r"/a\.mp4' shows single colours .*/b\.mp4' shows single colours",
        ),
        (
            {"fade": [np.full((48, 64, 3), 12 * n, np.uint8) for n in range(20)]},
            r"/fade\.mp4' shows single colours",
        ),
        (
            {"one": list(golden_clip(0, (20, 48, 64, 3)))},
            r"/clips' gives one clip: what sets the ranges of int8 must not be all that judges it",
        ),
        (
            {name: list(golden_clip(0, (20, 48, 64, 3))) for name in "ab"},
            r"gives one clip, and '.*/b\.mp4' has the frames of '.*/a\.mp4': what sets",
        ),
    ],
    ids=("black", "single colour", "fade", "one video", "the same twice"),
)
def test_int8_is_refused_where_its_clips_say_nothing_or_would_judge_themselves(
    tmp_path: Path, videos: dict[str, list[np.ndarray]], message: str
) -> None:
    (tmp_path / "clips").mkdir()
    for name, frames in videos.items():
        write_video(tmp_path / "clips" / f"{name}.mp4", frames, fps=12.0)
    options: dict[str, Any] = {"precision": "int8", "calibrate": tmp_path / "clips"}
    with pytest.raises(DatasetError, match=message):
        export_onnx(fused_file(tmp_path), **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fused.safetensors", "clips"]


def test_a_clip_of_one_colour_is_left_out_and_few_clips_are_warned_of(tmp_path: Path) -> None:
    folder = write_golden_videos(tmp_path / "clips", count=5)
    write_video(folder / "black.mp4", plain((0, 0, 0)), fps=12.0)
    clips = read_calibration(named_videos(folder), TINY_CLIP, max_clips=32, hold_out=True)
    assert (clips.record.clips, clips.record.held_out) == (5, 1)
    assert (len(clips.frames), len(clips.for_ranges)) == (5, 4)
    left_out, few = clips.notes
    assert re.match(r"left out: '.*/black\.mp4' shows single colours", left_out)
    assert re.match(r"only 5 clips of .*: 4 set the ranges of int8, and 1 and the synthetic", few)
    # The fourth in the order of the folder judges, and comes last.
    alone = read_calibration(NamedVideos(folder, None, (folder / "3.mp4",)), TINY_CLIP, max_clips=1)
    assert np.array_equal(clips.frames[-1], alone.frames[0])
    assert alone.notes == ()


def test_eight_clips_are_enough_to_say_nothing(tmp_path: Path) -> None:
    folder = write_golden_videos(tmp_path / "clips", count=8)
    clips = read_calibration(named_videos(folder), TINY_CLIP, max_clips=8, hold_out=True)
    assert (clips.record.held_out, len(clips.for_ranges), clips.notes) == (2, 6, ())


def test_int8_is_judged_by_clips_that_did_not_set_its_ranges(tmp_path: Path) -> None:
    """Ranges of dim clips cut off what others need, which dim clips alone do not show."""
    (tmp_path / "dim").mkdir()
    for seed in range(8):
        frames = golden_clip(seed, (20, 48, 64, 3)) // 8
        write_video(tmp_path / "dim" / f"{seed}.mp4", list(frames), fps=12.0)
    options: dict[str, Any] = {
        "precision": "int8",
        "calibrate": tmp_path / "dim",
        "allow": HESITANT,
    }
    card = export_onnx(fused_file(tmp_path), **options).card
    assert len(card.kept) >= 2  # none would be kept if those clips alone judged
    mean = next(row for row in card.parity if row.check.endswith("mean logit error"))
    assert mean.detail == "5 synthetic clips"
    assert mean.error > 0.01


def test_a_folder_without_readable_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"no video")
    options: dict[str, Any] = {"precision": "int8", "calibrate": tmp_path / "clips"}
    with pytest.raises(DatasetError, match="no video that can be read"):
        export_onnx(fused_file(tmp_path), **options)
