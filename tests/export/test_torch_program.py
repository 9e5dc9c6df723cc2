"""Programs of torch.export, loaded as their users do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import InputFormat
from stdeploy.backends.loader import open_runtime
from stdeploy.card_editing import edit_card
from stdeploy.errors import ArtifactError, ParityError, SpecError
from stdeploy.export.torch_program import export_torch_program


@pytest.mark.parametrize("input_format", ["uint8-nthwc", "float-ncthw"])
def test_torch_alone_gives_the_logits_of_the_fused_network(
    exported_folder: Path, tmp_path: Path, input_format: InputFormat
) -> None:
    fused = exported_folder / "a.fused.safetensors"
    written = export_torch_program(fused, tmp_path / "a.pt2", input_format=input_format)
    extra = {"stdeploy.card.json": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=extra).module()
    card = ModelCard.from_json(extra["stdeploy.card.json"], source="a.pt2")
    assert card == written.card
    assert card.input == input_format
    assert json.loads(extra["stdeploy.card.json"])["labels"] == list(card.labels)
    frames = np.stack([golden_clip(seed, card.clip.frames_shape) for seed in range(3)])
    given = torch.from_numpy(frames)
    if input_format == "float-ncthw":
        given = given.permute(0, 4, 1, 2, 3).float()
    with open_runtime(fused) as runtime, torch.no_grad():
        np.testing.assert_allclose(program(given), runtime.run(frames), rtol=0, atol=1e-5)


def test_its_name_says_its_input(exported_folder: Path) -> None:
    fused = exported_folder / "a.fused.safetensors"
    assert export_torch_program(fused).path.name == "a.pt2"
    float_one = export_torch_program(fused, input_format="float-ncthw")
    assert float_one.path.name == "a.float-ncthw.pt2"
    assert read_card(float_one.path) == float_one.card
    with pytest.raises(ArtifactError, match="is for other programs; change the card of the file"):
        edit_card(float_one.path, {"fps": "12"})
    with pytest.raises(ArtifactError, match=r"is for torch\.export\.load to run"):
        open_runtime(float_one.path)
    float_one.path.write_bytes(b"PK")
    with pytest.raises(ArtifactError, match=r"is no program of torch\.export"):
        read_card(float_one.path)


def test_what_cannot_become_a_program_is_refused(exported_folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"a \*\.fused\.safetensors file is wanted"):
        export_torch_program(exported_folder / "a.onnx")
    wrong: Any = "float-nthwc"
    with pytest.raises(SpecError, match="input_format"):
        export_torch_program(exported_folder / "a.fused.safetensors", input_format=wrong)


def test_nothing_is_written_where_answers_differ(
    exported_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = torch.export.export

    def changed(graph: torch.nn.Module, *args: Any, **options: Any) -> torch.export.ExportedProgram:
        with torch.no_grad():
            next(graph.parameters()).mul_(1.05)
        return export(graph, *args, **options)

    monkeypatch.setattr(torch.export, "export", changed)
    with pytest.raises(ParityError, match=r"'a\.pt2' differs from its parent"):
        export_torch_program(exported_folder / "a.fused.safetensors", tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())
