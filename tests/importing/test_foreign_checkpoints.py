"""Checkpoints of other projects against the logits that those projects' own code gave."""

import contextlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import relative_error
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.importing.checkpoint import (
    import_checkpoint,
    read_weights,
    recognise,
)
from stdeploy.importing.clip_description import OwnerAnswer
from stdeploy.importing.families import FAMILIES
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import logits_of
from tests.conftest import SHARED

FOREIGN = SHARED / "foreign"
LABELS = ("a", "b", "c", "d", "e")
# Which family each is of, and whether its weights say so alone.
KNOWN = {
    "hara_r3d18": ("hara/r3d", True),
    "hara_r3d18_A": ("hara/r3d", True),
    "hara_r3d50": ("hara/r3d", True),
    "ibm_i3d_r18": ("ibm/i3d-resnet", False),
    "ibm_i3d_r18_ts": ("ibm/i3d-resnet-time-stride", False),
    "ibm_i3d_r50": ("ibm/i3d-resnet", False),
    "ibm_s3d_r50_ts": ("ibm/s3d-resnet-time-stride", False),
    "kylemin_s3d": ("kylemin/s3d", True),
    "mm_i3d_r50": ("mmaction2/i3d", True),
    "mm_ircsn_r50": ("mmaction2/ir-csn", True),
    "mm_slowonly_r50": ("mmaction2/slowonly", True),
    "piergiaj_i3d": ("piergiaj/i3d", True),
    "ptv_slow_r50": ("pytorchvideo/slow", True),
    "ptv_slowfast_r50": ("pytorchvideo/slowfast", True),
    "ptv_x3d_xs": ("pytorchvideo/x3d-xs", False),
    "tv_r2plus1d_18": ("torchvision/r2plus1d-18", True),
    "tv_r3d_18": ("torchvision/r3d-18", True),
    "tv_s3d": ("torchvision/s3d", True),
}


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    path = SHARED / "tools" / "foreign.py"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    spec = importlib.util.spec_from_file_location("foreign", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["foreign"] = module
    spec.loader.exec_module(module)
    return module


def described(name: str) -> dict:
    path = FOREIGN / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return json.loads(path.read_text())


def clip_of(description: dict) -> dict[str, object]:
    side = description["side_px"]
    return {"num_frames": description["num_frames"], "short_side_px": side, "crop_px": side}


@pytest.mark.parametrize("name", KNOWN)
def test_logits_are_those_of_the_project(name: str, maker: ModuleType, tmp_path: Path) -> None:
    description = described(name)
    source = maker.write(FOREIGN / f"{name}.json", tmp_path)
    family, alone = KNOWN[name]
    frames = golden_clip(0, (description["num_frames"], *[description["side_px"]] * 2, 3))
    logits = np.array(description["logits"])
    imported = import_checkpoint(
        source,
        tmp_path / "ours.pt",
        labels=LABELS,
        family=None if alone else family,
        clip=clip_of(description),
        owner=OwnerAnswer(frames, logits),
    )
    assert imported.family.name == family
    assert list(imported.card.clip.mean) == description["mean"]
    assert list(imported.card.clip.std) == description["std"]
    model, card = load_model(imported.path)
    answer = logits_of(model, card.clip, frames[None])[0]
    assert relative_error(logits, answer) < 1e-5
    assert card.parity[0].error < 1e-5
    assert card.parity[0].detail == "against the owner's logits"


@pytest.mark.parametrize("name", [name for name, (_, alone) in KNOWN.items() if not alone])
def test_what_fits_two_networks_is_refused(name: str, maker: ModuleType, tmp_path: Path) -> None:
    source = maker.write(FOREIGN / f"{name}.json", tmp_path)
    with pytest.raises(SpecError, match=r"names and shapes of several networks.*--as [a-z]+/"):
        import_checkpoint(source, tmp_path / "ours.pt", labels=LABELS)
    assert not (tmp_path / "ours.pt").exists()


@pytest.mark.parametrize("name", ["ibm_i3d_r18_ts", "hara_r3d18"])
def test_they_never_load_as_anything_else(name: str, maker: ModuleType, tmp_path: Path) -> None:
    tensors = read_weights(maker.write(FOREIGN / f"{name}.json", tmp_path))
    fitting = []
    for family in FAMILIES:
        with contextlib.suppress(ArtifactError):
            recognise(tensors, source=name, family=family)
            fitting.append(family)
    # Of IBM's two networks with the same weights a person has to say which it is.
    both = ["ibm/i3d-resnet", "ibm/i3d-resnet-time-stride"]
    assert fitting == (both if name.startswith("ibm") else ["hara/r3d"])
