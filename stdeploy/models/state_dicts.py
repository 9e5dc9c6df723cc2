"""Weights as training programs save them: under the names of wrappers, or in half precision."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from stdeploy.artifacts.spec import Precision

# What stands before, or within, the names of a network's own tensors: of processes in parallel
# and of averages, of torch.compile, of Lightning.
_WRAPPERS = frozenset({"module", "_orig_mod", "model"})
_AVERAGES = frozenset({"ema", "ema_model", "model_ema", "averaged_model"})
_COUNTERS = frozenset({"n_averaged", "num_updates", "updates", "decay", "initted", "step"})
_HALF: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}


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
