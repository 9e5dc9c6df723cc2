"""An .onnx file as protobuf lays it out: its metadata, and all else as bytes that nobody parses.

A message is a sequence of fields: a tag (number and wire type), then a value, or a length and as
many bytes (protobuf.dev, Encoding). So the card of a file is found and its content hashed without
building the graph in memory, and a file gets another card without a change to its other bytes.
"""

import dataclasses
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from stdeploy.artifacts.digest import CARD_KEY, DIGEST_KEY, Part, content_sha256
from stdeploy.errors import ArtifactError

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
        for number, value, whole in _fields(content):
            if number != _METADATA:
                others.append((number, value))
                rest.append(whole)
                continue
            entry = {inner: bytes(text).decode() for inner, text, _ in _fields(value)}
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


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Number, value and whole of each field of a message.

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
