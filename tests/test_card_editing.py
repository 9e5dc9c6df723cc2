"""Deliberate changes to a card, in every kind of file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from stdeploy.artifacts.card import Edit, read_card
from stdeploy.artifacts.contents import read_contents
from stdeploy.artifacts.digest import sidecar_part
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import sha256_of, sidecar_path
from stdeploy.backends.loader import open_runtime
from stdeploy.card_editing import edit_card
from stdeploy.errors import ArtifactError, ParityError, SpecError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_checkpoint
from stdeploy.models.checkpoint import save_checkpoint
from tests.helpers.models import card_of, tiny_model

KINDS = ("a.pt", "a.fused.safetensors", "a.onnx", "a.engine")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edit")
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5), width=0.05)
    save_checkpoint(folder / "a.pt", model, card_of(model))
    card = export_onnx(fuse_checkpoint(folder / "a.pt").path).card
    (folder / "a.engine").write_bytes(b"a plan of TensorRT")
    sidecar = EngineSidecar(
        card=card,
        engine_sha256=sha256_of(folder / "a.engine"),
        distribution="tensorrt",
        version="10.16.1.11",
        gpu="NVIDIA L4",
        targets=("sm89",),
        hardware_compatible=False,
        version_compatible=False,
        batches=(1, 8),
        onnx="a.onnx",
        onnx_sha256=sha256_of(folder / "a.onnx"),
    )
    sidecar.write(folder / "a.engine")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    for source in made.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", KINDS)
def test_labels_and_sampling_change_in_every_kind_of_file_and_it_still_opens(
    folder: Path, name: str
) -> None:
    path, before = folder / name, read_card(folder / name)
    plain = {p: bytes(c) for p, c in read_contents(path).parts() if "card" not in p}
    (folder / "names.txt").write_text(
        "run\nclass 1\nclass 2\nclass 3\nÜbung 💃\n", encoding="utf-8"
    )
    edited = edit_card(path, {"labels": str(folder / "names.txt"), "views": "5", "fps": "25"})
    card = read_card(path)
    assert edited.card == card
    assert not edited.answered_anew
    assert card.labels == ("run", "class 1", "class 2", "class 3", "Übung 💃")
    assert (card.clip.views, card.clip.fps) == (5, 25.0)
    assert (card.golden, card.parity, card.model) == (before.golden, before.parity, before.model)
    assert card.lineage.edits == (
        Edit(field="labels.0", old='"class 0"', new='"run"'),
        Edit(field="labels.4", old='"class 4"', new='"Übung 💃"'),
        Edit(field="clip.views", old="1", new="5"),
        Edit(field="clip.fps", old="12.0", new="25.0"),
    )
    if name == "a.engine":
        assert EngineSidecar.read(path).read_code(path) == b"a plan of TensorRT"
    else:
        assert {p: bytes(c) for p, c in read_contents(path).parts() if "card" not in p} == plain
        open_runtime(path).close()
    second = edit_card(path, {"views": "1", "origin": "our club"})
    assert [edit.field for edit in second.edits] == ["clip.views", "lineage.origin"]
    assert len(read_card(path).lineage.edits) == 6
    assert not list(folder.glob(".*"))


def test_edits_go_on_to_what_is_made_of_a_file(folder: Path) -> None:
    edit_card(folder / "a.pt", {"short_video": "loop"})
    result = export_onnx(fuse_checkpoint(folder / "a.pt").path)
    assert [edit.field for edit in result.card.lineage.edits] == ["clip.short_video"]
    assert result.card.clip.short_video == "loop"


def test_a_checkpoint_with_another_input_answers_its_golden_clip_anew(folder: Path) -> None:
    before = read_card(folder / "a.pt")
    edited = edit_card(
        folder / "a.pt", {"mean": "0.5,0.5,0.5", "num_frames": "12", "crop_px": "24"}
    )
    assert edited.answered_anew
    card = read_card(folder / "a.pt")
    assert card.clip.mean == (0.5, 0.5, 0.5)
    assert card.clip.frames_shape == (12, 24, 24, 3)
    assert not np.allclose(card.golden.logits, before.golden.logits, rtol=1e-3)
    open_runtime(folder / "a.pt").close()
    assert [edit.old for edit in card.lineage.edits] == ["[0.485, 0.456, 0.406]", "8", "32"]
    export_onnx(fuse_checkpoint(folder / "a.pt").path)


@pytest.mark.parametrize("name", KINDS[1:])
@pytest.mark.parametrize("change", ["mean=0,0,0", "std=1,1,1", "num_frames=16", "crop_px=40"])
def test_other_files_send_to_their_checkpoint_for_that(
    folder: Path, name: str, change: str
) -> None:
    field, _, value = change.partition("=")
    with pytest.raises(
        ArtifactError, match=rf"^{field} of .*{re.escape(name)}' was verified .*\.pt"
    ):
        edit_card(folder / name, {field: value})
    assert read_card(folder / name).lineage.edits == ()


def test_a_damaged_checkpoint_is_not_declared_good(folder: Path) -> None:
    content = torch.load(folder / "a.pt", weights_only=True)
    content["state_dict"]["head.classifier.bias"][0] += 1.0
    torch.save(content, folder / "a.pt")
    with pytest.raises(ArtifactError, match="is not as it was written"):
        edit_card(folder / "a.pt", {"fps": "25"})
    del content["content_sha256"]  # as files had none before
    torch.save(content, folder / "a.pt")
    with pytest.raises(ParityError, match="answers the golden clip wrongly"):
        edit_card(folder / "a.pt", {"mean": "0,0,0"})


def test_labels_that_cannot_be_used_are_mended_by_others(folder: Path) -> None:
    fields = json.loads((folder / "a.engine.json").read_text())
    fields["card"]["labels"][1] = "class 0"
    del fields["content_sha256"]
    (folder / "a.engine.json").write_text(json.dumps(fields))
    with pytest.raises(ArtifactError, match=r"labels 0 and 1 are both 'class 0'; .* --set "):
        read_card(folder / "a.engine")
    (folder / "names.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\nc\r\nd\r\ne\r\n")
    edit_card(folder / "a.engine", {"labels": str(folder / "names.txt")})
    assert read_card(folder / "a.engine").labels == ("a", "b", "c", "d", "e")


def test_a_sidecar_keeps_its_digest_however_it_is_laid_out(folder: Path) -> None:
    path = sidecar_path(folder / "a.engine")
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(fields.items())), ensure_ascii=True))
    assert EngineSidecar.read(folder / "a.engine").onnx == "a.onnx"
    assert sidecar_part(fields) == sidecar_part(dict(reversed(fields.items())))
    path.write_text(json.dumps({**fields, "targets": ["sm120"]}))
    with pytest.raises(ArtifactError, match=r"a\.engine\.json' is not as it was written"):
        EngineSidecar.read(folder / "a.engine")


def test_an_edit_that_fails_leaves_the_file_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "a.onnx").read_bytes()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stdeploy.card_editing.OnnxFile.write", fails)
    with pytest.raises(ArtifactError, match=r"a\.onnx.*No space left"):
        edit_card(folder / "a.onnx", {"fps": "25"})
    assert (folder / "a.onnx").read_bytes() == before
    assert not list(folder.glob(".*"))


def test_unknown_fields_and_files_of_others_are_refused(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"--set colour: .* no such field to set"):
        edit_card(folder / "a.pt", {"colour": "RGB"})
    with pytest.raises(ArtifactError, match="does not exist"):
        edit_card(folder / "b.pt", {"fps": "25"})
    with pytest.raises(ArtifactError, match="is no artifact of stdeploy"):
        edit_card(folder / "a.engine.json", {"fps": "25"})
