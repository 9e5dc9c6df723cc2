"""Artifacts of every kind, written before the packages had their present names, still open.

`version_0_1_0/` was written by commit 1581781: an I3D-ResNet-18 of width 1/32, and its logits for
one clip. The plan of the engine is left out: it runs on a GPU only, and no code here reads it
before its sidecar.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import sha256_of
from stdeploy.artifacts.golden import golden_clip
from stdeploy.backends.loader import open_runtime

FOLDER = Path(__file__).parent / "version_0_1_0"
ENGINE = "before.sm86.fp32.engine"
LOGITS = {
    name: np.array([float.fromhex(value) for value in values])
    for name, values in json.loads((FOLDER / "logits.json").read_text()).items()
}


@pytest.mark.parametrize("name", LOGITS)
def test_an_artifact_opens_and_answers_as_before(name: str) -> None:
    card = read_card(FOLDER / name)
    assert card.labels == ("class 0", "class 1", "class 2")
    frames = golden_clip(11, card.clip.frames_shape)[None]
    with open_runtime(FOLDER / name) as runtime:  # it replays its golden clip
        logits = runtime.run(frames)[0]
    # Another processor may round otherwise; where they were written they are equal to the last bit.
    tolerance = 1e-5 if card.precision == "fp32" else 5e-2
    assert np.abs(logits - LOGITS[name]).max() <= tolerance * np.abs(LOGITS[name]).max()


def test_a_sidecar_opens_and_is_written_with_the_same_fields(tmp_path: Path) -> None:
    engine = tmp_path / ENGINE
    engine.write_bytes(b"a plan")
    shutil.copy(FOLDER / f"{ENGINE}.json", tmp_path)
    sidecar = EngineSidecar.read(engine)
    assert sidecar.distribution == "tensorrt_rtx"
    before = json.loads((FOLDER / f"{ENGINE}.json").read_text())
    sidecar.write(engine)
    assert json.loads((tmp_path / f"{ENGINE}.json").read_text()) == before
    assert sidecar.engine_sha256 != sha256_of(engine)
