"""The content digest of an artifact: SHA-256 over all that it holds.

It covers the card and the tensors (.pt, .safetensors), the graph with all that stands beside it
(.onnx) or the sidecar, which in turn has the digest of its plan (.engine). It is kept beside the
card. It finds damage and edits that nobody announced. It is no signature: who
writes the file can write the digest too.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stdeploy.errors import ArtifactError

CARD_KEY = "stdeploy.card"
DIGEST_KEY = "stdeploy.content_sha256"
DIGEST_FIELD = "content_sha256"  # in a .pt file, and in a sidecar

_WRAPPERS = ("module", "_orig_mod")

# A name, and the bytes that stand under it.
Part = tuple[str, bytes | memoryview]


def content_sha256(parts: Iterable[Part]) -> str:
    """Digest of named contents, 64 hexadecimal digits.

    Every name and every content is preceded by its length, so that no byte can move from one to
    the next unseen. Contents are hashed one after another and not kept.

    >>> content_sha256([("card", b"{}")])[:12]
    'c58c99259d4d'
    """
    digest = hashlib.sha256()
    for name, content in parts:
        head = name.encode("utf-8", "surrogatepass")
        digest.update(struct.pack("<QQ", len(head), memoryview(content).nbytes))
        digest.update(head)
        digest.update(content)
    return digest.hexdigest()


def card_part(card: str) -> Part:
    """A card as it is written in a file."""
    return "card", card.encode("utf-8", "surrogatepass")


def tensor_name(name: str, dtype: str, shape: Sequence[int]) -> str:
    """What the bytes of a tensor are: its name, type and shape in one text.

    >>> tensor_name("conv1.weight", "float32", (64, 3))
    '["conv1.weight","float32",[64,3]]'
    """
    return json.dumps([name, dtype, list(shape)], separators=(",", ":"))


def torch_parts(tensors: Mapping[str, Any]) -> Iterator[Part]:
    """The tensors of a network of torch, by name; one at a time is copied to the CPU.

    Names count without what DataParallel and torch.compile put into them ("module.",
    "_orig_mod."): a checkpoint that was saved again from a wrapped network holds the same.

    Args:
        tensors: dense ones.
    """
    bare = {name: ".".join(p for p in name.split(".") if p not in _WRAPPERS) for name in tensors}
    for name in sorted(tensors, key=lambda name: (bare[name], name)):
        yield _torch_part(bare[name], tensors[name])


def tree_parts(value: Any, place: str = "") -> Iterator[Part]:
    """Tables and lists of tensors, numbers and texts, such as the state of an optimiser.

    Args:
        value: of such kinds, nested in any way.
        place: where it stands in the whole.
    """
    import torch

    if isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from tree_parts(value[key], f"{place}/{key!r}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from tree_parts(item, f"{place}/{number}")
    elif isinstance(value, torch.Tensor):
        yield _torch_part(place, value)
    else:
        yield place, repr(value).encode("utf-8", "surrogatepass")


def _torch_part(name: str, tensor: Any) -> Part:
    import torch

    tensor = tensor.detach().cpu().contiguous()
    kind = str(tensor.dtype).removeprefix("torch.")
    content = tensor.reshape(-1).view(torch.uint8).numpy()
    return tensor_name(name, kind, tensor.shape), content.data


def safetensors_parts(path: Path) -> Iterator[Part]:
    """The tensors of a .safetensors file, by name, one at a time, without torch.

    Raises:
        ArtifactError: a tensor cannot be read.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                content = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
                yield tensor_name(name, tensor.dtype.name, tensor.shape), content.data
    except (SafetensorError, OSError, TypeError) as error:
        raise ArtifactError(f"{str(path)!r} is damaged: {error}") from error


def sidecar_part(fields: Mapping[str, Any]) -> Part:
    """The fields of a sidecar in one order, however they are laid out in its file.

    Args:
        fields: as JSON gives them; the digest among them does not count.
    """
    counted = {name: value for name, value in fields.items() if name != DIGEST_FIELD}
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
    return "sidecar", text.encode()
