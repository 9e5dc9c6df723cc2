"""Files that take float32 (N, 3, T, H, W): the same answers, from every backend and every kind."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.digest import CARD_KEY
from stdeploy.artifacts.golden import golden_clip
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.dense_trunk import DenseTrunk
from stdeploy.backends.loader import open_runtime
from stdeploy.backends.tensorrt_builder import BuildOptions
from stdeploy.errors import ArtifactError, ParityError, SpecError
from stdeploy.export.engine import build_engine
from stdeploy.export.float_input import export_float_input
from stdeploy.export.onnx_verification import verify_onnx
from stdeploy.export.triton import write_triton
from stdeploy.importing.onnx_import import import_onnx
from tests.export.files import HESITANT, PRECISIONS, file_of
from tests.helpers.models import write_signed
from tests.importing.networks import FRAMES, SIDE, TinyNetwork, built, write_onnx, write_toml


@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_are_those_of_the_file_with_frames(
    exported_folder: Path, tmp_path: Path, precision: str
) -> None:
    parent = file_of(exported_folder, precision)
    result = export_float_input(parent, tmp_path / "f.onnx", allow=HESITANT)
    card = read_card(result.path)
    assert (card.input, card.precision, card.lineage.parent) == (
        "float-ncthw",
        precision,
        parent.name,
    )
    assert len(card.parity) == 7
    assert all(row.passed for row in card.parity)
    assert onnx.load(result.path).graph.node[0].op_type == "Mul"  # nothing is turned twice


def test_another_program_gets_the_logits_from_plain_pixels(exported_folder: Path) -> None:
    result = export_float_input(exported_folder / "a.onnx")
    assert result.path.name == "a.float-ncthw.onnx"
    frames = golden_clip(7, result.card.clip.frames_shape)
    session = onnxruntime.InferenceSession(result.path)
    (taken,) = session.get_inputs()
    assert (taken.type, taken.shape[1:]) == ("tensor(float)", list(result.card.input_shape))
    pixels = frames.transpose(3, 0, 1, 2)[None].astype(np.float32)
    (logits,) = session.run(None, {"frames": pixels})
    with open_runtime(exported_folder / "a.onnx") as runtime:
        np.testing.assert_allclose(logits, runtime.run(frames[None]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_backends_take_frames_all_the_same(exported_folder: Path, backend: str) -> None:
    path = export_float_input(exported_folder / "a.onnx").path
    frames = golden_clip(7, read_card(path).clip.frames_shape)[None].repeat(3, axis=0)
    options = RuntimeOptions(backend=backend, device="cpu")  # type: ignore[arg-type]
    with (
        open_runtime(path, options=options) as given,
        open_runtime(exported_folder / "a.onnx", options=options) as expected,
    ):
        np.testing.assert_allclose(given.run(frames), expected.run(frames), rtol=0, atol=1e-5)


def test_imported_networks_have_it_too(tmp_path: Path) -> None:
    network = write_onnx(built(TinyNetwork), tmp_path / "net.onnx", (3, FRAMES, SIDE, SIDE))
    import_onnx(network, write_toml(tmp_path / "clip.toml"), tmp_path / "x.onnx")
    result = export_float_input(tmp_path / "x.onnx")
    assert max(row.error for row in result.parity) < 1e-6


def test_what_else_is_made_of_it_takes_the_same(exported_folder: Path, tmp_path: Path) -> None:
    path = export_float_input(exported_folder / "a.onnx", tmp_path / "a.onnx").path
    config = (
        write_triton(path, tmp_path / "repository").folder.parent / "config.pbtxt"
    ).read_text()
    assert 'name: "frames" data_type: TYPE_FP32 dims: [ 3, 8, 32, 32 ]' in config
    pytest.importorskip("tensorrt_rtx")
    built_engine = build_engine(path, BuildOptions(targets=("sm86",)))
    assert built_engine.sidecar.card.input == "float-ncthw"


def test_what_needs_frames_says_so(exported_folder: Path, tmp_path: Path) -> None:
    path = export_float_input(exported_folder / "a.onnx", tmp_path / "f.onnx").path
    card = read_card(path)
    with pytest.raises(SpecError, match="takes float-ncthw already"):
        export_float_input(path)
    with open_runtime(path) as runtime, pytest.raises(SpecError, match=r"name 'a\.onnx', or pass"):
        DenseTrunk.open(path, card, runtime)
    with pytest.raises(
        ArtifactError, match=r"compared with 'a\.onnx', which is the file to verify"
    ):
        verify_onnx(path, exported_folder / "a.fused.safetensors")
    with pytest.raises(ArtifactError, match=r"an \.onnx file is wanted"):
        export_float_input(exported_folder / "a.fused.safetensors")


def test_a_card_that_says_another_input_than_the_file_has_is_found(
    exported_folder: Path, tmp_path: Path
) -> None:
    proto = onnx.load(export_float_input(exported_folder / "a.onnx", tmp_path / "f.onnx").path)
    for entry in proto.metadata_props:
        if entry.key == CARD_KEY:
            card = ModelCard.from_json(entry.value, source="f.onnx")
            entry.value = card.model_copy(update={"input": "uint8-nthwc"}).to_json()
    write_signed(proto, tmp_path / "g.onnx")
    with pytest.raises(ArtifactError, match="its card announces uint8 'frames'"):
        open_runtime(tmp_path / "g.onnx")


def test_a_graph_that_begins_otherwise_is_refused(exported_folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(exported_folder / "a.onnx")
    (cast,) = (node for node in proto.graph.node if node.op_type == "Cast")
    proto.graph.node.insert(0, onnx.helper.make_node("Identity", ["frames"], ["same"]))
    cast.input[0] = "same"
    write_signed(proto, tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match="does not begin with Cast, Mul, Add, Transpose"):
        export_float_input(tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_nothing_is_written_where_answers_differ(
    exported_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(exported_folder / "a.onnx", tmp_path / "a.onnx")
    made = onnx.numpy_helper.from_array

    def shifted(array: np.ndarray, name: str) -> onnx.TensorProto:  # type: ignore[type-arg]
        return made(array * np.float32(1.02), name)

    monkeypatch.setattr("stdeploy.export.float_input.numpy_helper.from_array", shifted)
    with pytest.raises(ParityError, match=r"'a\.onnx' with float-ncthw differs from its parent"):
        export_float_input(tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
