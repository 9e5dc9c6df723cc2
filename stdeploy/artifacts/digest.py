"""The content digest of an artifact: SHA-256 over all that it holds.

It covers the card and the tensors (.pt, .safetensors), the graph with all that stands beside it
(.onnx) or the sidecar, which in turn has the digest of its plan (.engine). It is kept beside the
card. It finds damage and edits that nobody announced. It is no signature: who
writes the file can write the digest too.
"""

import dataclasses
import hashlib
import json
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

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


# An .onnx file as protobuf lays it out: its metadata, and all else as bytes that nobody parses.
#
# A message is a sequence of fields: a tag (number and wire type), then a value, or a length and as
# many bytes (protobuf.dev, Encoding). So the card of a file is found and its content hashed without
# building the graph in memory, and a file gets another card without a change to its other bytes.

_METADATA = 14  # ModelProto.metadata_props, of StringStringEntryProto
_KEY, _VALUE = 1, 2
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_SIZES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MOST_VARINT_BYTES = 10


@dataclasses.dataclass(frozen=True)
class OnnxFile:
    """The fields of an .onnx file.

    Attributes:
        metadata: metadata_props, by key.
        others: number and value of every other field, in the order of the file.
        rest: those fields as the file has them, with their tags.
    """

    metadata: Mapping[str, str]
    others: tuple[tuple[int, memoryview], ...]
    rest: tuple[memoryview, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Map a file into memory and find its fields.

        Raises:
            ArtifactError: it cannot be read, or is no ONNX file.
        """
        try:
            with path.open("rb") as file:
                empty = not file.read(1)
                mapped = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return cls.of(memoryview(mapped))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{str(path)!r} is no ONNX file: {error}") from error

    @classmethod
    def of(cls, content: memoryview) -> Self:
        """Find the fields of a serialised ModelProto.

        Raises:
            ValueError: it is none.
        """
        metadata: dict[str, str] = {}
        others, rest = [], []
        for number, value, whole in message_fields(content):
            if number != _METADATA:
                others.append((number, value))
                rest.append(whole)
                continue
            entry = {inner: bytes(text).decode() for inner, text, _ in message_fields(value)}
            key = entry.get(_KEY, "")
            if key in metadata:
                raise ValueError(f"its metadata holds {key!r} twice")
            metadata[key] = entry.get(_VALUE, "")
        return cls(metadata, tuple(others), tuple(rest))

    def parts(self) -> Iterator[Part]:
        """What its content digest covers: everything but that digest."""
        for number, value in sorted(self.others, key=lambda field: field[0]):
            yield f"field {number}", value
        for key, text in sorted(self.metadata.items()):
            if key != DIGEST_KEY:
                yield f"metadata {key}", text.encode()

    def with_card(self, card: str) -> Self:
        """The same file with another card, and the digest that goes with it."""
        metadata = {**self.metadata, CARD_KEY: card}
        digest = content_sha256(dataclasses.replace(self, metadata=metadata).parts())
        return dataclasses.replace(self, metadata={**metadata, DIGEST_KEY: digest})

    def write(self, path: Path) -> None:
        """Write the fields, and the metadata behind them."""
        with path.open("wb") as file:
            file.writelines(self.rest)
            for key, text in self.metadata.items():
                entry = _field(_KEY, key.encode()) + _field(_VALUE, text.encode())
                file.write(_field(_METADATA, entry))


def message_fields(content: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Number, value and whole of each field of a message of protobuf; nothing is copied.

    A number without a length (of a flag, a size) is given as its bytes.

    Raises:
        ValueError: it is no message.
    """
    place = 0
    while place < len(content):
        start = place
        tag, place = _varint(content, place)
        number, kind = tag >> 3, tag & 7
        begin = place
        if kind == _VARINT:
            _, end = _varint(content, place)
        elif kind == _LENGTH:
            length, begin = _varint(content, place)
            end = begin + length
        elif kind in _SIZES:
            end = begin + _SIZES[kind]
        else:
            raise ValueError(f"byte {start} begins no field")
        if number == 0 or end > len(content):
            raise ValueError(f"the field at byte {start} does not end in the file")
        yield number, content[begin:end], content[start:end]
        place = end


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = 0
    for count, byte in enumerate(content[place : place + _MOST_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError(f"the number at byte {place} does not end")


def _field(number: int, value: bytes) -> bytes:
    """A field that has a length."""
    return _as_varint(number << 3 | _LENGTH) + _as_varint(len(value)) + value


def _as_varint(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
