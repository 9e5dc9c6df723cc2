"""Files in planar form: proven like any other, opened and refused like any other."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from stdeploy.analysis.kernels import read_kernels
from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import PLANAR_TOLERANCE
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.dense_trunk import DenseTrunk
from stdeploy.backends.loader import open_runtime
from stdeploy.backends.tensorrt_builder import BuildOptions
from stdeploy.errors import ArtifactError, BackendError, ParityError, SpecError
from stdeploy.export.engine import build_engine
from stdeploy.export.float_input import export_float_input
from stdeploy.export.kernels import deviations
from stdeploy.export.layers import layers_of
from stdeploy.export.onnx import export_onnx
from stdeploy.export.onnx_verification import verify_onnx
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model, save_checkpoint, save_fused
from stdeploy.models.planar import planar_form
from tests.export.files import HESITANT, PRECISIONS, fused_network
from tests.helpers.models import card_of, tiny_model, write_signed


@pytest.fixture(scope="module")
def planar_folder(
    exported_folder: Path, calibration_videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """a.planar.onnx and a.planar.int8.onnx, of a.fused.safetensors of `exported_folder`."""
    folder = tmp_path_factory.mktemp("planar")
    fused = folder / "a.fused.safetensors"
    fused.write_bytes((exported_folder / fused.name).read_bytes())
    for precision in ("fp32", "int8"):
        export_onnx(
            fused, precision=precision, form="planar", calibrate=calibration_videos, allow=HESITANT
        )
    return folder


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_of_every_precision_pass_their_gate(
    exported_folder: Path, calibration_videos: Path, tmp_path: Path, precision: Precision
) -> None:
    result = export_onnx(
        exported_folder / "a.fused.safetensors",
        tmp_path / "p.onnx",
        precision=precision,
        form="planar",
        calibrate=calibration_videos,
        allow=HESITANT,
    )
    card = read_card(result.path)
    assert (card.form, card.precision) == ("planar", precision)
    checks = {row.check: row for row in card.parity}
    assert checks["planar form, golden clip"].error < 1e-6
    assert any(check.startswith("kernels") for check in checks)


def test_the_graph_has_no_3d_operation(planar_folder: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(planar_folder / "a.planar.onnx"))
    graph = model.graph
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.value_info}
    wide = [name for name, rank in ranks.items() if rank > 4]
    ends = {node.output[0] for node in graph.node if node.op_type in ("Cast", "Mul", "Add")}
    turned = {node.output[0] for node in graph.node if node.op_type == "Transpose"}
    assert set(wide) <= ends | turned  # what comes before the frames are in the batch
    assert len(ranks) > 50
    kernels = [len(tensor.dims) for tensor in graph.initializer if tensor.name.endswith("weight")]
    assert max(kernels) == 4


def test_every_backend_gives_the_logits_of_the_usual_file(
    exported_folder: Path, planar_folder: Path
) -> None:
    card = read_card(planar_folder / "a.planar.onnx")
    frames = golden_clip(7, card.clip.frames_shape)[None].repeat(3, axis=0)
    with open_runtime(exported_folder / "a.onnx") as runtime:
        expected = torch.from_numpy(runtime.run(frames))
    for backend in ("onnxruntime", "openvino"):
        options = RuntimeOptions(backend=backend, device="cpu")  # type: ignore[arg-type]
        with open_runtime(planar_folder / "a.planar.onnx", options=options) as runtime:
            found = torch.from_numpy(runtime.run(frames))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    options = RuntimeOptions(backend="torch", device="cpu", planar=True)
    with open_runtime(planar_folder / "a.fused.safetensors", options=options) as runtime:
        assert runtime.device == "CPU, planar"
        found = torch.from_numpy(runtime.run(frames))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_channel_that_is_off_is_found_and_named(planar_folder: Path, tmp_path: Path) -> None:
    model, card = load_model(planar_folder / "a.fused.safetensors")
    parent = layers_of(planar_form(model, card.clip.num_frames), card.clip)
    proto = onnx.load(planar_folder / "a.planar.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name == "model.conv4.1.conv2.weight":
            numbers = onnx.numpy_helper.to_array(tensor).copy()
            numbers[5] *= 1.01
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))
    write_signed(proto, tmp_path / "a.onnx")
    (found,) = deviations(tmp_path / "a.onnx", parent)
    assert (found.layer, found.channel) == ("conv4.1.conv2", 5)
    assert not deviations(planar_folder / "a.planar.onnx", parent)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("op", ["Slice", "Pad"])
def test_a_window_that_moved_by_a_frame_is_found_and_named(
    planar_folder: Path, tmp_path: Path, precision: str, op: str
) -> None:
    model, card = load_model(planar_folder / "a.fused.safetensors")
    parent = layers_of(planar_form(model, card.clip.num_frames), card.clip)
    name = "a.planar.onnx" if precision == "fp32" else "a.planar.int8.onnx"
    assert not deviations(planar_folder / name, parent)
    proto = onnx.load(planar_folder / name)
    node = [each for each in proto.graph.node if each.op_type == op][-1]
    makers = {output: each for each in proto.graph.node for output in each.output}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}

    def moved(place: int, change: np.ndarray) -> None:  # type: ignore[type-arg]
        made = makers.get(node.input[place])
        tensor = made.attribute[0].t if made else constants[node.input[place]]
        numbers = onnx.numpy_helper.to_array(tensor) + change
        proto.graph.initializer.append(onnx.numpy_helper.from_array(numbers, f"moved_{place}"))
        node.input[place] = f"moved_{place}"

    if op == "Pad":
        moved(1, np.array([1, 0, -1, 0]))
    else:
        moved(1, np.array([-1]))
        moved(2, np.array([-1]))
    write_signed(proto, tmp_path / "a.onnx")
    (found,) = deviations(tmp_path / "a.onnx", parent)
    assert found.layer == "conv5.1.conv2"
    assert found.text.endswith("not -2, -1, ...; -1, 0, ...; 0, 1, ...; 1, 2, ...; 2, 3, ...")


def test_it_is_verified_once_more_against_the_fused_network(planar_folder: Path) -> None:
    rows = verify_onnx(planar_folder / "a.planar.onnx", planar_folder / "a.fused.safetensors")
    assert all(row.passed for row in rows)


def test_what_is_made_of_it_is_planar_too(planar_folder: Path) -> None:
    written = export_float_input(planar_folder / "a.planar.onnx")
    assert written.path.name == "a.planar.float-ncthw.onnx"
    assert (written.card.form, written.card.input) == ("planar", "float-ncthw")
    pytest.importorskip("tensorrt_rtx")
    built = build_engine(planar_folder / "a.planar.onnx", BuildOptions(targets=("sm86",)))
    assert built.sidecar.card.form == "planar"


def test_what_needs_3d_convolutions_says_so(planar_folder: Path, tmp_path: Path) -> None:
    path = planar_folder / "a.planar.onnx"
    with open_runtime(path) as runtime, pytest.raises(SpecError, match="is in planar form; name"):
        DenseTrunk.open(path, read_card(path), runtime)
    with pytest.raises(ArtifactError, match=r"is in planar form, whose filters lie stacked"):
        read_kernels(path)
    with pytest.raises(SpecError, match="is a graph, and its planar form is made of"):
        export_onnx(path, tmp_path / "b.onnx", form="planar")
    model = tiny_model()
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    options = RuntimeOptions(backend="torch", planar=True)
    with pytest.raises(BackendError, match=r"--planar is of fused networks, and 'a\.pt' is none"):
        open_runtime(tmp_path / "a.pt", options=options)
    with pytest.raises(SpecError, match="onnxruntime has no --planar"):
        open_runtime(path, options=RuntimeOptions(backend="onnxruntime", planar=True))


def test_nothing_is_written_where_the_form_computes_otherwise(
    planar_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: ActionModel, num_frames: int) -> ActionModel:
        planar = planar_form(model, num_frames)
        conv = planar.get_submodule("conv3.0.conv1")
        assert isinstance(conv, nn.Conv2d)
        with torch.no_grad():
            conv.weight[0] *= 1.0001
        return planar

    monkeypatch.setattr("stdeploy.export.planar_verification.planar_form", wrong)
    with pytest.raises(ParityError, match=r"the planar form of .* differs from it: planar form, n"):
        export_onnx(planar_folder / "a.fused.safetensors", tmp_path / "p.onnx", form="planar")
    assert not list(tmp_path.iterdir())
    assert PLANAR_TOLERANCE["fp64"] <= 1e-12


@pytest.mark.parametrize("lengths", [(1, 1, 3, 3, 5), (7, 3, 3, 3, 3)], ids=str)
def test_an_inception_pads_before_frames_are_taken(
    tmp_path: Path, lengths: tuple[int, ...]
) -> None:
    # Its first filter strides in time, behind a padding of its own: no neighbours in the graph.
    model = fused_network("i3d-inception", temporal_lengths=lengths)
    save_fused(tmp_path / "a.fused.safetensors", model, card_of(model))
    result = export_onnx(tmp_path / "a.fused.safetensors", form="planar", allow=HESITANT)
    assert max(row.error for row in result.parity if row.tolerance == 1e-4) < 1e-5


@pytest.mark.slow
def test_engines_of_planar_networks_are_built_for_other_gpus() -> None:
    pytest.importorskip("tensorrt_rtx")
    program = Path(__file__).parents[2] / "benchmarks" / "planar_engines.py"
    networks = ("plain", "x3d")  # filters that are dense, and one for each channel
    result = subprocess.run(
        [sys.executable, program, "--networks", *networks],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.split() for line in result.stdout.splitlines())
    rows = [" ".join(words) for words in lines if words[1:2] and words[1] in networks]
    assert len(rows) == len(networks) * 4
    assert all(row.count(" MB |") == 3 for row in rows), result.stdout
