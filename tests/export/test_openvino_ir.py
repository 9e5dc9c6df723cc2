"""Files of OpenVINO, opened by OpenVINO alone, as its users do."""

from pathlib import Path

import numpy as np
import openvino
import pytest

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.backends.loader import open_runtime
from stdeploy.card_editing import edit_card
from stdeploy.errors import ArtifactError, BackendError, ParityError
from stdeploy.export.float_input import export_float_input
from stdeploy.export.openvino_ir import export_openvino
from tests.export.files import HESITANT, file_of


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvino_alone_gives_the_logits_of_the_onnx_file(
    exported_folder: Path, tmp_path: Path, precision: str
) -> None:
    parent = file_of(exported_folder, precision)
    written = export_openvino(parent, tmp_path / "a.xml", allow=HESITANT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    assert written.weights == tmp_path / "a.bin"
    core = openvino.Core()
    model = core.read_model(tmp_path / "a.xml")
    card = ModelCard.from_json(model.get_rt_info(["stdeploy", "card"]).astype(str), source="a.xml")
    assert card == read_card(parent)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    frames = np.stack([golden_clip(seed, card.clip.frames_shape) for seed in range(3)])
    with open_runtime(parent) as runtime:
        expected = runtime.run(frames)
    tolerance = 1e-5 if precision == "fp32" else 0.05
    largest = np.abs(expected).max()
    np.testing.assert_allclose(
        compiled([frames])["logits"], expected, rtol=0, atol=tolerance * largest
    )


def test_weights_are_not_rounded(exported_folder: Path, tmp_path: Path) -> None:
    # Its default would make float16 of them.
    export_openvino(exported_folder / "a.onnx", tmp_path / "a.xml")
    model = openvino.Core().read_model(tmp_path / "a.xml")
    types = {op.get_element_type().get_type_name() for op in model.get_ops() if "Const" in str(op)}
    assert "f32" in types
    assert "f16" not in types


def test_the_name_and_the_input_are_those_of_the_onnx_file(exported_folder: Path) -> None:
    path = export_float_input(exported_folder / "a.onnx").path
    written = export_openvino(path)
    assert written.path.name == "a.float-ncthw.xml"
    (taken,) = openvino.Core().read_model(written.path).inputs
    assert (taken.get_element_type().get_type_name(), taken.get_any_name()) == ("f32", "frames")


def test_what_openvino_does_not_run_is_said(exported_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"'a\.fp16\.onnx' is in fp16, which OpenVINO does not"):
        export_openvino(exported_folder / "a.fp16.onnx")
    with pytest.raises(ArtifactError, match=r"the name has to end in \.xml"):
        export_openvino(exported_folder / "a.onnx", tmp_path / "a.bin")


def test_nothing_is_written_where_answers_differ(
    exported_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = openvino.save_model

    def rounded(model: openvino.Model, path: str, **_: bool) -> None:
        save(model, path, compress_to_fp16=True)

    monkeypatch.setattr(openvino, "save_model", rounded)
    with pytest.raises(ParityError, match=r"'a\.xml' differs from its parent"):
        export_openvino(exported_folder / "a.onnx", tmp_path / "a.xml", allow={"max_error": 1e-6})
    assert not list(tmp_path.iterdir())


def test_stdeploy_names_what_it_opens(exported_folder: Path, tmp_path: Path) -> None:
    written = export_openvino(exported_folder / "a.onnx", tmp_path / "a.xml")
    assert read_card(written.path) == read_card(exported_folder / "a.onnx")
    with pytest.raises(ArtifactError, match="is for other programs; change the card of the file"):
        edit_card(written.path, {"fps": "12"})
    with pytest.raises(ArtifactError, match=r"is for OpenVINO to run; name the \.onnx file"):
        open_runtime(written.path)
    written.path.write_text("<net/>")
    with pytest.raises(ArtifactError, match="carries no model card"):
        read_card(written.path)
