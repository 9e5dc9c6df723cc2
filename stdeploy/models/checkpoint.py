"""Networks in files: checkpoints (.pt) of training, and fused weights (.safetensors).

Training programs save weights under the names of wrappers, or in half precision: see `unwrapped`.
"""

import collections
import errno
import logging
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.contents import read_checkpoint
from stdeploy.artifacts.digest import (
    CARD_KEY,
    DIGEST_FIELD,
    DIGEST_KEY,
    card_part,
    content_sha256,
    torch_parts,
)
from stdeploy.artifacts.files import is_compiled, whole_file
from stdeploy.artifacts.golden import check_golden
from stdeploy.artifacts.parity import RUNTIME_TOLERANCE
from stdeploy.artifacts.spec import Precision
from stdeploy.errors import ArtifactError
from stdeploy.models.base import ActionModel
from stdeploy.models.frames_to_logits import golden_of
from stdeploy.models.registry import build

_log = logging.getLogger(__name__)
# What stands before, or within, the names of a network's own tensors: of processes in parallel
# and of averages, of torch.compile, of Lightning.
_WRAPPERS = frozenset({"module", "_orig_mod", "model"})
_AVERAGES = frozenset({"ema", "ema_model", "model_ema", "averaged_model"})
_COUNTERS = frozenset({"n_averaged", "num_updates", "updates", "decay", "initted", "step"})
_HALF: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}


def save_checkpoint(path: Path, model: ActionModel, card: ModelCard) -> None:
    """Write a trained network with its card.

    Args:
        path: a name that ends in .pt.
        model: any network built from card.model.
        card: goes under the key "card", as JSON.
    """
    text, tensors = card.to_json(), model.state_dict()
    digest = content_sha256((card_part(text), *torch_parts(tensors)))
    with whole_file(path) as temporary:
        write_tensors({"card": text, DIGEST_FIELD: digest, "state_dict": tensors}, temporary)


def write_tensors(content: object, path: Path) -> None:
    """torch.save, with a full disk reported as what it is.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        # torch reports a failed write as a RuntimeError about positions in its archive.
        cause = error.__context__
        if not isinstance(cause, OSError):
            cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise cause from error


def save_fused(path: Path, model: ActionModel, card: ModelCard) -> None:
    """Write a fused network with its card.

    Args:
        path: a name that ends in .safetensors.
        model: built from card.model, with fused = True.
        card: goes into the header's metadata.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    text = card.to_json()
    digest = content_sha256((card_part(text), *torch_parts(tensors)))
    content = save(tensors, metadata={CARD_KEY: text, DIGEST_KEY: digest, "format": "pt"})
    with whole_file(path) as temporary:
        # Not save_file, which would put a file of its own in the place of the locked one.
        temporary.write_bytes(content)


def load_model(path: Path) -> tuple[ActionModel, ModelCard]:
    """Read a network of either kind, in evaluation mode, float32, on the CPU.

    Weights under the names of wrappers (`module.`, `_orig_mod.`, `ema_model.`, ...) or in half
    precision are taken, and the log says what was done. What half precision changes is compared
    with the golden clip, whose logits in the card become those of the weights as they are.

    Args:
        path: a .pt or .safetensors file.

    Raises:
        ArtifactError: not such a file, or its weights do not fit its card.
        ParityError: rounded to half precision they answer the golden clip otherwise.
    """
    if path.suffix == ".pt":
        content = read_checkpoint(path)
        card = ModelCard.from_json(content["card"], source=path.name)
        tensors = content["state_dict"]
    elif path.suffix == ".safetensors":
        card = read_card(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ArtifactError(f"{str(path)!r} is damaged: {error}") from error
    else:
        foreign = not (path.suffix == ".onnx" or is_compiled(path))
        ours = f"; another project's come in with stdeploy import {shlex.quote(str(path))}"
        raise ArtifactError(
            f"{str(path)!r} holds no weights for torch; give a .pt or .fused.safetensors file"
            f"{ours if foreign else ''}"
        )
    model = build(card.buildable("reading weights"))
    tensors, renamed = unwrapped(tensors, model.state_dict())
    stored = stored_precision(tensors)
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"the weights of {str(path)!r} do not fit its card: {reason}"
        ) from error
    model.eval()
    model.stored = stored
    done = [renamed] if renamed else []
    if stored != "fp32":
        off, card = _rebased(model, card, stored, path)
        done.append(
            f"weights of {stored} were widened to fp32 (golden clip: relative error {off:.1e}, "
            f"{RUNTIME_TOLERANCE[stored]:.0e} is allowed)"
        )
    if done:
        say(f"{path.name}: {'; '.join(done)}")
    return model, card


def _rebased(
    model: ActionModel, card: ModelCard, stored: Precision, path: Path
) -> tuple[float, ModelCard]:
    """How far rounded weights are from their card's golden clip, and a card with their own."""
    golden = golden_of(model, card.clip, card.golden.seed)
    error = check_golden(
        card.golden.logits,
        np.asarray(golden.logits),
        magnitude=card.golden.magnitude,
        tolerance=RUNTIME_TOLERANCE[stored],
        source=f"{path.name!r}, rounded to {stored},",
    )
    described = f"{card.lineage.origin}, weights rounded to {stored}".removeprefix(", ")
    lineage = card.lineage.model_copy(update={"origin": described})
    return error, card.model_copy(update={"golden": golden, "lineage": lineage})


def say(text: str) -> None:
    """Log what was done to the weights of a file; of several processes the first one does."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        _log.warning("%s", text)


def unwrapped(
    tensors: Mapping[str, Any], wanted: Iterable[str]
) -> tuple[Mapping[str, Any], str | None]:
    """The tensors under the names that a bare network gives them.

    Where a file holds the weights and their running average, the average is taken.

    Args:
        tensors: by the names in a file.
        wanted: names of the network, all of which have to be there.

    Returns:
        Tensors by name, and what was done, in words. What came, and None, where the names are
        right already or do not become right.

    >>> unwrapped({"module.a.weight": 1, "n_averaged": 2}, ["a.weight"])
    ({'a.weight': 1}, "names were taken without 'module.'")
    """
    needed = set(wanted)
    first_parts = {name.partition(".")[0] for name in tensors}
    if needed <= tensors.keys() and not first_parts & (_WRAPPERS | _AVERAGES):
        return tensors, None
    found: dict[bool, dict[str, Any]] = {False: {}, True: {}}
    removed: dict[bool, dict[str, None]] = {False: {}, True: {}}
    count = collections.Counter[tuple[bool, str]]()
    for name, tensor in tensors.items():
        parts = name.split(".")
        begin = 0
        while begin < len(parts) - 1 and parts[begin] in _WRAPPERS | _AVERAGES:
            begin += 1
        # One part of a network may be wrapped alone.
        inner = [part for part in parts[begin:] if part not in ("module", "_orig_mod")]
        average, own = bool(_AVERAGES & set(parts[:begin])), ".".join(inner)
        taken_off = [*parts[:begin], *(part for part in parts[begin:] if part not in inner)]
        found[average][own] = tensor
        count[average, own] += 1
        if own in needed:
            removed[average] |= dict.fromkeys(taken_off)
    for average in (True, False):
        own_names = found[average].keys()
        if needed <= own_names and all(count[average, name] == 1 for name in own_names):
            kept = {n: t for n, t in found[average].items() if n in needed or n not in _COUNTERS}
            said = f"names were taken without {', '.join(repr(f'{p}.') for p in removed[average])}"
            if average and needed <= found[False].keys():
                said += ", which are the running average; the file holds other weights too"
            return kept, said
    return tensors, None


def stored_precision(tensors: Mapping[str, Any]) -> Precision:
    """The coarsest type that floating-point tensors have: "fp32", "fp16" or "bf16"."""
    types = {tensor.dtype for tensor in tensors.values() if isinstance(tensor, Tensor)}
    return next((_HALF[t] for t in (torch.bfloat16, torch.float16) if t in types), "fp32")
