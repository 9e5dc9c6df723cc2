"""An .onnx file is compared with its parent before it gets its name, and whenever one asks."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.spec import ClipSpec, Precision
from stdeploy.errors import ArtifactError, ParityError, SpecError
from stdeploy.export import onnx as exporter
from stdeploy.export.onnx import export_onnx
from stdeploy.export.onnx_verification import verify_onnx
from stdeploy.models.checkpoint import save_fused
from tests.export.files import HESITANT, LENGTHS, PLACE, PRECISIONS, altered, file_of, fused_network
from tests.helpers.models import TINY_CLIP, card_of
from tests.helpers.onnx_faults import (
    HUNDREDTH,
    convolution,
    plant,
)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_is_written_where_a_channel_is_off_by_a_hundredth(
    exported_folder: Path,
    calibration_videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
) -> None:
    """1 % of one channel changes answers less than lower precision does."""
    shutil.copy(exported_folder / "a.fused.safetensors", tmp_path)
    save = exporter.save_graph

    def planting(graph: onnx.ModelProto, *rest: Any) -> None:
        changed = onnx.ModelProto()
        changed.CopyFrom(graph)
        plant(changed, HUNDREDTH, PLACE)
        save(changed, *rest)

    monkeypatch.setattr(exporter, "save_graph", planting)
    message = (
        rf"^'a\.fused\.safetensors' in {precision} holds other numbers than its parent: in layer "
        r"'conv4\.1\.conv2', channel 5, its kernel is off by .*; nothing was written$"
    )
    options: dict[str, Any] = {"calibrate": calibration_videos, "allow": HESITANT}
    with pytest.raises(ParityError, match=message):
        export_onnx(tmp_path / "a.fused.safetensors", precision=precision, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.fused.safetensors"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_is_verified_once_more(exported_folder: Path, precision: str) -> None:
    path = file_of(exported_folder, precision)
    rows = verify_onnx(path, exported_folder / "a.fused.safetensors", allow=HESITANT)
    assert all(row.passed for row in rows)
    recorded = read_card(path).parity
    assert [row.check for row in rows] == [row.check for row in recorded]
    assert rows[-1] == recorded[-1]
    assert rows[-1].detail == "605 channels of 21 layers"


def test_another_parent_is_told_from_the_own(exported_folder: Path, tmp_path: Path) -> None:
    other = fused_network(temporal_lengths=LENGTHS, seed=1)
    save_fused(tmp_path / "b.fused.safetensors", other, card_of(other))
    message = (
        r"^'a\.onnx' holds other numbers than its parent: in layer 'conv1', channel \d, its kernel "
        r"is off by .*, it has to be equal \(and \d+ more like it\); export it again: stdeploy "
        r"export .*b\.fused\.safetensors$"
    )
    with pytest.raises(ParityError, match=message):
        verify_onnx(exported_folder / "a.onnx", tmp_path / "b.fused.safetensors")


def test_wrong_answers_are_told_where_all_numbers_are_right(
    exported_folder: Path, tmp_path: Path
) -> None:
    """A ReLU that is left out is in no kernel."""

    def change(proto: onnx.ModelProto) -> None:
        next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Identity"

    path = altered(exported_folder, tmp_path, "fp32", change)
    with pytest.raises(ParityError, match=r"^'a\.onnx' differs from its parent: .*export it again"):
        verify_onnx(path, exported_folder / "a.fused.safetensors")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"model": {"num_classes": 4}}, ArtifactError, "holds another network"),
        ({"clip": {"num_frames": 16}}, ArtifactError, "takes other clips"),
        ({"allow": {"speed": 1.0}}, SpecError, "no threshold 'speed'"),
        ({"max_clips": 0}, SpecError, "max_clips = 0"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(
    exported_folder: Path,
    tmp_path: Path,
    fields: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    model = fused_network(temporal_lengths=LENGTHS, **fields.pop("model", {}))
    clip = ClipSpec.parse({**TINY_CLIP.model_dump(), **fields.pop("clip", {})})
    save_fused(tmp_path / "b.fused.safetensors", model, card_of(model, clip))
    with pytest.raises(error, match=message):
        verify_onnx(exported_folder / "a.onnx", tmp_path / "b.fused.safetensors", **fields)


def drop_weight(proto: onnx.ModelProto) -> None:
    node = convolution(proto, "model.conv5.1.conv2.weight")
    del node.input[1:]


def cut_tensor(proto: onnx.ModelProto) -> None:
    tensor = next(t for t in proto.graph.initializer if t.name == "model.conv5.1.conv2.weight")
    tensor.raw_data = tensor.raw_data[:-6]


@pytest.mark.parametrize("change", [drop_weight, cut_tensor])
def test_a_damaged_graph_is_one_line(
    exported_folder: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    path = altered(exported_folder, tmp_path, "fp32", change)
    with pytest.raises(ParityError, match=r"'a\.onnx': Conv 'node_conv3d_19' cannot be read"):
        verify_onnx(path, exported_folder / "a.fused.safetensors")


def test_an_engine_is_no_onnx_file(exported_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(b"plan")
    with pytest.raises(ArtifactError, match=r"an \.onnx file is wanted"):
        verify_onnx(tmp_path / "a.engine", exported_folder / "a.fused.safetensors")
