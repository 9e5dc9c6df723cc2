"""Checkpoints as training programs leave them, and a disk that is full."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from stdeploy.artifacts.card import read_card
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ArtifactError, ParityError
from stdeploy.fusion import fuse_checkpoint, fuse_model
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import (
    load_model,
    save_checkpoint,
    save_fused,
    stored_precision,
    unwrapped,
)
from tests.artifacts.test_files import files_of_at_most
from tests.helpers.models import card_of, tiny_model

Tensors = dict[str, Tensor]


def compiled(model: ActionModel) -> Tensors:
    return {f"_orig_mod.{name}": t for name, t in model.state_dict().items()}


def part_compiled(model: ActionModel) -> Tensors:
    return {n.replace("conv3.", "conv3._orig_mod."): t for n, t in model.state_dict().items()}


def in_parallel(model: ActionModel) -> Tensors:
    return nn.DataParallel(model).state_dict()


def compiled_in_parallel(model: ActionModel) -> Tensors:
    return {f"module._orig_mod.{name}": t for name, t in model.state_dict().items()}


def averaged(model: ActionModel) -> Tensors:
    return AveragedModel(model, use_buffers=True).state_dict()


def weights_and_average(model: ActionModel) -> Tensors:
    own = model.state_dict()
    others = {name: torch.zeros_like(t) for name, t in own.items()}
    return {f"model.{n}": t for n, t in others.items()} | {f"ema_model.{n}": own[n] for n in own}


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (compiled, r"names were taken without '_orig_mod\.'$"),
        (part_compiled, r"names were taken without '_orig_mod\.'$"),
        (in_parallel, r"names were taken without 'module\.'$"),
        (compiled_in_parallel, r"names were taken without 'module\.', '_orig_mod\.'$"),
        (averaged, r"names were taken without 'module\.'$"),
        (weights_and_average, r"'ema_model\.', which are the running average; the file holds oth"),
    ],
)
def test_a_wrapped_checkpoint_is_taken_and_one_line_says_so(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    saved: Callable[[ActionModel], Tensors],
    said: str,
) -> None:
    model = tiny_model()
    path = tmp_path / "a.pt"
    torch.save({"card": card_of(model).to_json(), "state_dict": saved(model)}, path)
    found, card = load_model(path)
    assert card == card_of(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    (line,) = [r.message for r in caplog.records if r.name == "stdeploy.models.checkpoint"]
    assert re.search(rf"^a\.pt: .*{said}", line)


@pytest.mark.parametrize("saved", [compiled, part_compiled, in_parallel, compiled_in_parallel])
def test_a_checkpoint_that_was_wrapped_and_saved_again_is_as_it_was_written(
    tmp_path: Path, saved: Callable[[ActionModel], Tensors]
) -> None:
    model = tiny_model()
    path = tmp_path / "a.pt"
    save_checkpoint(path, model, card_of(model))
    content = torch.load(path)
    torch.save({**content, "state_dict": saved(model)}, path)
    assert load_model(path)[1] == read_card(path) == card_of(model)
    content["state_dict"]["head.classifier.bias"] += 1e-3
    torch.save(content, path)
    with pytest.raises(ArtifactError, match=r"not as it was written.*save it without 'content_s"):
        load_model(path)


def test_a_plain_checkpoint_is_taken_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model()
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    load_model(tmp_path / "a.pt")
    assert caplog.messages == []


def test_names_that_do_not_become_right_are_told_as_they_are(tmp_path: Path) -> None:
    model = tiny_model()
    tensors = {f"module.{name}": t for name, t in model.state_dict().items()}
    del tensors["module.head.classifier.bias"]
    torch.save({"card": card_of(model).to_json(), "state_dict": tensors}, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match=r"do not fit its card: .*Missing key"):
        load_model(tmp_path / "a.pt")
    # Two tensors for one name: which is meant cannot be known.
    twice = {"a.weight": 1, "module.a.weight": 2}
    assert unwrapped(twice, ["a.weight"]) == (twice, None)


@pytest.mark.parametrize(("dtype", "stored"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16")])
def test_a_checkpoint_in_half_precision_is_taken_through_the_whole_chain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: torch.dtype, stored: str
) -> None:
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5))
    half = {n: t.to(dtype) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    assert stored_precision(half) == stored
    path = tmp_path / "a.pt"
    torch.save({"card": card_of(model).to_json(), "state_dict": half}, path)
    open_runtime(path, options=RuntimeOptions(backend="torch")).close()
    (line,) = [r.message for r in caplog.records if r.name == "stdeploy.models.checkpoint"]
    assert line.startswith(f"a.pt: weights of {stored} were widened to fp32 (golden clip: relative")
    fused = fuse_checkpoint(path)
    assert fused.card.lineage.origin == f"weights rounded to {stored}"
    caplog.clear()
    open_runtime(fused.path).close()
    assert caplog.messages == []
    # Rounding that changes the answer is no rounding.
    half["head.classifier.weight"][0] += 1.0
    torch.save({"card": card_of(model).to_json(), "state_dict": half}, path)
    with pytest.raises(ParityError, match=f"'a.pt', rounded to {stored}, answers the golden clip"):
        load_model(path)


def test_a_full_disk_names_the_checkpoint_and_leaves_the_old_one(tmp_path: Path) -> None:
    model = tiny_model()
    fused = fuse_model(model).float()
    for name, save, network in (
        ("a.pt", save_checkpoint, model),
        ("a.fused.safetensors", save_fused, fused),
    ):
        (tmp_path / name).write_text("old")
        with (
            files_of_at_most(10_000),
            pytest.raises(ArtifactError, match=rf"cannot write '.*/{name}': File too large; free"),
        ):
            save(tmp_path / name, network, card_of(network))
        assert (tmp_path / name).read_text() == "old"
    assert len([*tmp_path.iterdir()]) == 2
