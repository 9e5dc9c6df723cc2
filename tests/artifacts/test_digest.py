"""The content digest: what it covers, in every kind of file."""

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from stdeploy.analysis.kernels import read_kernels
from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.contents import read_contents
from stdeploy.artifacts.digest import (
    CARD_KEY,
    DIGEST_FIELD,
    DIGEST_KEY,
    OnnxFile,
    content_sha256,
    tensor_name,
    torch_parts,
)
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ArtifactError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_checkpoint
from stdeploy.models.checkpoint import load_model, save_checkpoint
from stdeploy.train.progress import Progress, RunState
from tests.helpers.models import card_of, tiny_model

KINDS = ("a.pt", "a.fused.safetensors", "a.onnx")
CHANGED = "is not as it was written"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digest")
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5), width=0.05)
    save_checkpoint(folder / "a.pt", model, card_of(model))
    export_onnx(fuse_checkpoint(folder / "a.pt").path)
    return folder


def rewritten(source: Path, target: Path, *, card: str | None = None, signed: bool = True) -> Path:
    """A copy with another card, or without its digest, and all else as it was."""
    if source.suffix == ".pt":
        content = torch.load(source, weights_only=True)
        content["card"] = card or content["card"]
        if not signed:
            del content[DIGEST_FIELD]
        torch.save(content, target)
    elif source.suffix == ".safetensors":
        with safe_open(source, framework="numpy") as file:
            metadata = file.metadata()
        metadata[CARD_KEY] = card or metadata[CARD_KEY]
        if not signed:
            del metadata[DIGEST_KEY]
        save_file(load_file(source), target, metadata)
    else:
        proto = onnx.load(source)
        props = {prop.key: prop.value for prop in proto.metadata_props}
        props[CARD_KEY] = card or props[CARD_KEY]
        if not signed:
            del props[DIGEST_KEY]
        del proto.metadata_props[:]
        onnx.helper.set_model_props(proto, props)
        onnx.save(proto, target)
    return target


def test_digest_of_the_same_contents_is_the_same_on_every_machine() -> None:
    parts = [("card", b"{}"), (tensor_name("w", "float32", (2,)), b"\0\0\x80?\0\0\0@")]
    assert content_sha256(parts) == (
        "ec2e3fdd13c4500fe5013251501a5782894c2554ea8e04096b9c8b194148bfd1"
    )


def test_no_byte_moves_unseen_from_one_part_to_the_next() -> None:
    digests = {
        content_sha256(parts)
        for parts in (
            [("a", b"bc")],
            [("ab", b"c")],
            [("a", b"b"), ("", b"c")],
            [("a", b"b"), ("c", b"")],
        )
    }
    assert len(digests) == 4


@pytest.mark.parametrize("name", KINDS)
def test_files_written_again_by_their_own_libraries_open(
    artifacts: Path, tmp_path: Path, name: str
) -> None:
    assert read_card(rewritten(artifacts / name, tmp_path / name)) == read_card(artifacts / name)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", ["class 1", "class 0", "class 2", "class 3", "class 4"]),
        ("clip.fps", 25.0),
        ("clip.short_side_px", 41),
        ("clip.mean", [0.485, 0.456, 0.407]),
        ("clip.views", 3),
        ("lineage.origin", "elsewhere"),
    ],
)
def test_a_card_changed_by_hand_is_refused(
    artifacts: Path, tmp_path: Path, name: str, field: str, value: object
) -> None:
    fields = json.loads(read_card(artifacts / name).to_json())
    table, _, inner = field.rpartition(".")
    (fields[table] if table else fields)[inner] = value
    path = rewritten(artifacts / name, tmp_path / name, card=json.dumps(fields))
    with pytest.raises(ArtifactError, match=CHANGED):
        open_runtime(path)


def flipped(source: Path, target: Path, place: int, bit: int) -> Path:
    content = bytearray(source.read_bytes())
    content[place] ^= 1 << bit
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_refused_or_changes_nothing(
    artifacts: Path, tmp_path: Path, name: str
) -> None:
    """Of 40 places, the last of every fortieth of the file, with the lowest bit of a byte."""
    source, opened = artifacts / name, 0
    good = dict(read_contents(source).parts())
    good = {part: bytes(content) for part, content in good.items()}
    size = source.stat().st_size
    for number in range(40):
        path = flipped(source, tmp_path / name, (number + 1) * size // 40 - 1, 0)
        try:
            read_card(path)
        except ArtifactError:
            continue
        opened += 1
        assert {p: bytes(c) for p, c in read_contents(path).parts()} == good
    # Padding between the entries of a zip file, and names that no one reads.
    assert opened <= (6 if name == "a.pt" else 1)


def test_weights_changed_a_little_are_refused_though_the_golden_clip_passes(
    artifacts: Path, tmp_path: Path
) -> None:
    proto = onnx.load(artifacts / "a.onnx")
    kernel = next(t for t in proto.graph.initializer if len(t.dims) == 5)
    array = numpy_helper.to_array(kernel).copy()
    array.flat[0] *= 1.0001
    kernel.CopyFrom(numpy_helper.from_array(array, kernel.name))
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match=CHANGED):
        open_runtime(tmp_path / "a.onnx")
    card = read_card(artifacts / "a.onnx")
    ort = RuntimeOptions(backend="onnxruntime")
    open_runtime(tmp_path / "a.onnx", card, ort).close()  # who has the card is past the digest


@pytest.mark.parametrize("name", KINDS)
def test_a_file_without_a_digest_opens_with_one_line(
    artifacts: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = rewritten(artifacts / name, tmp_path / name, signed=False)
    with caplog.at_level(logging.WARNING):
        open_runtime(path).close()
        read_card(path)
    (record,) = [r for r in caplog.records if "content digest" in r.getMessage()]
    assert record.getMessage().startswith(f"'{name}' carries no content digest")


def test_every_reader_of_our_files_compares_them(artifacts: Path, tmp_path: Path) -> None:
    wrong = json.dumps({**json.loads(read_card(artifacts / "a.pt").to_json()), "metrics": {"x": 1}})
    for name in KINDS:
        rewritten(artifacts / name, tmp_path / name, card=wrong)
        with pytest.raises(ArtifactError, match=CHANGED):
            read_kernels(tmp_path / name)
    for name in KINDS[:2]:
        with pytest.raises(ArtifactError, match=CHANGED):
            load_model(tmp_path / name)
    with pytest.raises(ArtifactError, match=CHANGED):
        fuse_checkpoint(tmp_path / "a.pt", tmp_path / "b.fused.safetensors")
    with pytest.raises(ArtifactError, match=CHANGED):
        export_onnx(tmp_path / "a.fused.safetensors", tmp_path / "b.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(KINDS)


def test_onnx_files_keep_every_byte_when_their_card_is_replaced(
    artifacts: Path, tmp_path: Path
) -> None:
    source, target = artifacts / "a.onnx", tmp_path / "a.onnx"
    file = OnnxFile.read(source)
    file.with_card(file.metadata[CARD_KEY]).write(target)
    assert target.read_bytes() == source.read_bytes()
    file.with_card("{}").write(target)
    before, after = onnx.load(source), onnx.load(target)
    del before.metadata_props[:], after.metadata_props[:]
    assert before == after


@pytest.mark.parametrize(
    "content", [b"\x00" * 8, b"\x0e", b"\x3a\x05abc", b"\x08" + b"\xff" * 11, b"\x72\x02\x0a\x09"]
)
def test_bytes_that_are_no_message_are_no_onnx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"'.*a\.onnx' is no ONNX file"):
        OnnxFile.read(tmp_path / "a.onnx")


def test_two_cards_in_one_onnx_file_are_refused(artifacts: Path, tmp_path: Path) -> None:
    proto = onnx.load(artifacts / "a.onnx")
    proto.metadata_props.add(key=CARD_KEY, value="{}")
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match=r"its metadata holds 'stdeploy\.card' twice"):
        read_card(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**12),
        torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"),
        "text",
    ],
    ids=["expanded", "sparse", "meta", "text"],
)
def test_tensors_without_numbers_of_their_own_are_refused(tmp_path: Path, tensor: object) -> None:
    model = tiny_model(width=0.02)
    state = {**model.state_dict(), "head.classifier.bias": tensor}
    card: ModelCard = card_of(model)
    torch.save({"card": card.to_json(), "state_dict": state}, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match=r"'head\.classifier\.bias', which is no tensor with"):
        load_model(tmp_path / "a.pt")


def test_a_state_of_a_run_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.state"
    momentum = {"state": {0: {"step": 3, "buffer": torch.ones(3)}}, "betas": (0.9, 0.99)}
    state = RunState("abc", Progress(epoch=2), {"network": {"w": torch.ones(3)}, "sgd": momentum})
    state.save(path)
    assert RunState.load(path).progress == Progress(epoch=2)
    content = torch.load(path, weights_only=True)
    content["tensors"]["sgd"]["state"][0]["buffer"][1] = 1.0000001
    torch.save(content, path)
    with pytest.raises(ArtifactError, match=r"last\.state' is not as it was written"):
        RunState.load(path)
    del content[DIGEST_FIELD]
    torch.save(content, path)
    assert RunState.load(path).fingerprint == "abc"  # as states were before


def test_bf16_and_integers_are_covered_too() -> None:
    values = {"b": torch.ones(2, dtype=torch.bfloat16), "a": torch.tensor(3), "e": torch.ones(0, 3)}
    assert [(name, bytes(content)) for name, content in torch_parts(values)] == [
        ('["a","int64",[]]', np.int64(3).tobytes()),
        ('["b","bfloat16",[2]]', b"\x80\x3f\x80\x3f"),
        ('["e","float32",[0,3]]', b""),
    ]
