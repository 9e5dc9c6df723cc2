"""Cards that were made to do harm: one line each, and nothing large is made of them."""

import json
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.contents import json_fields
from stdeploy.artifacts.digest import card_part, content_sha256, torch_parts
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.values import check_labels
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.errors import ArtifactError, DatasetError
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.models.frames_to_logits import golden_of
from tests.helpers.models import TINY_CLIP, card_of, tiny_model

NAMES = ["class 0", "class 1", "class 2", "class 3", "class 4"]


@pytest.fixture(scope="module")
def fields() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(card_of(tiny_model(width=0.02)).to_json())
    return found


def written(folder: Path, card: str) -> Path:
    """A checkpoint with any text for a card, and the digest that goes with it."""
    tensors = tiny_model(width=0.02).state_dict()
    digest = content_sha256((card_part(card), *torch_parts(tensors)))
    content = {"card": card, "content_sha256": digest, "state_dict": tensors}
    torch.save(content, folder / "a.pt")
    return folder / "a.pt"


def changed(fields: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    table, _, name = place.rpartition(".")
    if not table:
        return {**fields, name: value}
    return {**fields, table: {**fields[table], name: value}}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("golden.seed", -1, r"golden\.seed = -1: 0 or more is allowed"),
        ("golden.seed", 2**200, r"golden\.seed = 16\d+: less than 1\.8\d+e\+19 is allowed"),
        ("golden.logits", [float("nan")] * 5, r"golden\.logits\.0 = nan: a finite number"),
        ("golden.logits", ["Infinity"] * 5, r"golden\.logits\.0 = 'Infinity': a finite number"),
        ("golden.verified", [float("-inf")] * 5, r"golden\.verified\.0 = -inf: a finite number"),
        ("golden.magnitude", "Infinity", r"golden\.magnitude = 'Infinity': a finite number"),
        ("golden.magnitude", 1e30, r"magnitude 1e\+30 beside logits .* let any answer pass"),
        ("clip.num_frames", 10**8, r"clip\.num_frames = 100000000: 100000 or less is allowed"),
        ("clip.crop_px", 10**6, r"clip\.crop_px = 1000000: 4096 or less is allowed"),
        ("clip.frame_stride", 10**400, r"clip\.frame_stride = 1000.* \.\.\. .*000: "),
        ("clip.fps", 1e-300, r"clip\.fps = 1e-300: 0\.001 or more is allowed"),
        ("clip.views", 10**9, r"clip\.views = 1000000000: 1000 or less is allowed"),
        ("clip.mean", [float("nan"), 0, 0], r"clip\.mean\.0 = nan: a finite number is allowed"),
        ("clip.std", [float("inf"), 1, 1], r"clip\.std\.0 = inf: a finite number is allowed"),
        ("model.temporal_lengths", [10**8 + 1, 1, 1, 1, 1], "t1 is 100000001; at most 255"),
        ("labels", ["run", *NAMES[1:4], "run"], r"labels 0 and 4 are both 'run'; .* --set labels="),
        ("labels", ["a\x1b[31m", *NAMES[1:]], r"label 0 holds a control character: 'a\\x1b\[31m'"),
        ("labels", ["a\nb", *NAMES[1:]], r"label 0 holds a control character: 'a\\nb'"),
        ("labels", [*NAMES[:4], "\u202egnp"], r"label 4 holds a control character: '\\u202egnp'"),
        ("labels", ["x" * 10**6, *NAMES[1:]], "label 0 has 1000000 characters; at most 1000 are"),
        ("labels", "x" * 10**6, r"labels = 'xxx.{80,200} \.\.\. .*xxx': a list in brackets"),
        ("metrics", {"top1": "NaN"}, r"metrics\.top1 = 'NaN': a finite number is allowed"),
    ],
)
def test_each_is_refused_in_one_line(
    tmp_path: Path, fields: dict[str, Any], place: str, value: object, message: str
) -> None:
    path = written(tmp_path, json.dumps(changed(fields, place, value)))
    with pytest.raises(ArtifactError, match=message) as caught:
        read_card(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("depth", [500, 5000, 10**6])
def test_deep_nesting_is_refused_in_one_line(
    tmp_path: Path, fields: dict[str, Any], depth: int
) -> None:
    text = json.dumps(fields)[:-1] + ', "kept": ' + "[" * depth + "]" * depth + "}"
    with pytest.raises(ArtifactError, match=r"'a\.pt' cannot be used: .*(nested|text is allowed)"):
        read_card(written(tmp_path, text))


def test_a_number_longer_than_any_is_refused_in_one_line(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    text = json.dumps(fields)[:-1] + ', "kept": ' + "9" * 5000 + "}"
    with pytest.raises(ArtifactError, match=r"cannot be used: a number in it has more digits than"):
        read_card(written(tmp_path, text))


def test_a_card_longer_than_any_is_refused() -> None:
    with pytest.raises(ValueError, match="68000002 characters; at most 67108864 are allowed"):
        json_fields('"' + "x" * 68_000_000 + '"')


def test_a_clip_of_many_large_frames_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    clip = {**fields["clip"], "num_frames": 10**5, "crop_px": 64, "short_side_px": 64}
    with pytest.raises(ArtifactError, match=r"100000 frames of 64 x 64 px would be 1\.14 GiB; a"):
        read_card(written(tmp_path, json.dumps({**fields, "clip": clip})))


def test_nothing_is_allocated_for_a_large_clip(tmp_path: Path, fields: dict[str, Any]) -> None:
    """1e8 frames would be 286 GiB here: the program is given 8 GiB of addresses in all."""
    path = written(tmp_path, json.dumps(changed(fields, "clip.num_frames", 10**8)))
    result = subprocess.run(
        [sys.executable, "-m", "stdeploy", "classify", "x.mp4", "--model", str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
    )
    assert result.returncode == 2
    assert "num_frames = 100000000" in result.stderr
    assert "Traceback" not in result.stderr


def sidecar(fields: dict[str, Any], **other: object) -> dict[str, Any]:
    return {
        "card": fields,
        "engine_sha256": "0" * 64,
        "flavour": "tensorrt",
        "version": "10.16.1.11",
        "gpu": "NVIDIA L4",
        "targets": ["sm89"],
        "hardware_compatible": False,
        "version_compatible": False,
        "batches": [4, 16],
        "onnx": "a.onnx",
        "onnx_sha256": "0" * 64,
        **other,
    }


def engine(folder: Path, content: object) -> Path:
    (folder / "a.engine").write_bytes(b"plan")
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "a.engine.json").write_text(text)
    return folder / "a.engine"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("onnx", "../../etc/a.onnx", r"onnx = '\.\./\.\./etc/a\.onnx': the name of an \.onnx file"),
        ("onnx", "--help.onnx", "onnx = '--help.onnx': the name of an"),
        ("onnx", "passwd", "onnx = 'passwd': the name of an"),
        ("batches", [0, 0], r"batches\.0 = 0: 1 or more is allowed"),
        ("batches", [1, 10**9], r"batches\.1 = 1000000000: 65536 or less is allowed"),
        ("batches", [8, 2], r"batches \(8, 2\): the largest comes last"),
    ],
)
def test_sidecars_that_lead_elsewhere_are_refused_in_one_line(
    tmp_path: Path, fields: dict[str, Any], field: str, value: object, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        EngineSidecar.read(engine(tmp_path, sidecar(fields, **{field: value})))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", ["[" * 10**5, "[]", "3", '{"card": 3}', "\x00", '{"card": {}'], ids=range(6)
)
def test_sidecars_that_are_no_table_are_refused_in_one_line(tmp_path: Path, content: str) -> None:
    for read in (EngineSidecar.read, read_card):
        with pytest.raises(ArtifactError, match="which cannot be read"):
            read(engine(tmp_path, content))


def test_suggested_commands_take_a_name_for_one_word(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    name = "a; rm -rf $(HOME) '`.onnx"
    path = engine(tmp_path, sidecar(fields, onnx=name, version="1.²"))
    assert shlex.split(EngineSidecar.read(path).rebuild_command(path)) == [
        *("stdeploy", "export", str(tmp_path / name), "--trt", "--batches", "4,16")
    ]


def test_data_with_labels_that_no_card_takes_is_refused_before_training() -> None:
    with pytest.raises(DatasetError, match=r"labels 0 and 1 are both 'a'; .* rename this class"):
        LabelledVideos(("a", "a"), ())
    with pytest.raises(DatasetError, match=r"label 1 holds a control character: 'b\\t'"):
        LabelledVideos(("a", "b\t"), ())


def test_a_network_that_answers_with_nan_gets_no_card() -> None:
    model = tiny_model(width=0.02)
    with torch.no_grad():
        model.head.classifier.bias[0] = torch.nan
    with pytest.raises(ArtifactError, match="golden clip with numbers that are not finite"):
        golden_of(model, TINY_CLIP)


def test_labels_in_other_scripts_are_kept(tmp_path: Path) -> None:
    labels = ("跳舞 💃", "نمی‌دود", "a\u00a0b", "👩‍🚒", "Übung")
    card = card_of(model := tiny_model(width=0.02)).model_copy(update={"labels": labels})
    save_checkpoint(tmp_path / "a.pt", model, card)
    assert read_card(tmp_path / "a.pt").labels == labels
    assert ModelCard.from_json(card.to_json(), source="test").labels == labels


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["", *NAMES[1:]], "label 0 shows nothing: ''"),
        ([*NAMES[:4], " \u200b"], r"label 4 shows nothing: ' \\u200b'"),
        ([*NAMES[:4], "class 1 "], "labels 1 and 4 look the same: 'class 1' and 'class 1 '"),
        (["\u00e9", "e\u0301", *NAMES[2:]], r"look the same: '\\xe9' and 'e\\u0301'"),
    ],
    ids=str,
)
def test_names_given_now_are_looked_at_more_closely_than_those_of_older_files(
    labels: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_labels(labels)
    check_labels(labels, named_before=True)  # files that have them go on to open
