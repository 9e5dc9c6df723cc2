"""Clips in JSON, read bit by bit: nothing grows beyond the text, and other threads go on. Pure.

A JSON library makes a Python object of each number and each list, and lets no other thread run
until it is done: a text of 47 MiB takes seconds and a gigabyte. So the one long list is cut out
of the text and read in pieces; the library reads what is left, and each piece.
"""

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from stdeploy.artifacts.spec import ClipSpec

_MOST_CLIPS = 4
_BYTES_EACH = 8  # of a number with what stands around it: "255, " and brackets
_MOST_BESIDE = 256 * 1024  # bytes of JSON beside the tensor
_PIECE = 128 * 1024
_DIGITS_AND_SPACE = b"0123456789 \t\r\n"
_OF_TENSORS = _DIGITS_AND_SPACE + b",[]"
_NO_BRACKETS = bytes.maketrans(b"[]", b"  ")
# A quote within a string has a backslash before it.
_DATA = re.compile(rb'(?<!\\)"data"\s*:\s*(?=\[)')


class JsonTensorError(ValueError):
    """A text that is no such JSON; the message says why."""


def most_json_bytes(clip: ClipSpec) -> int:
    """The longest JSON that is taken: a few clips."""
    return _MOST_CLIPS * _BYTES_EACH * math.prod(clip.frames_shape) + _MOST_BESIDE


class JsonWithTensor:
    """JSON with a long list of integers in it, as the value of "data".

    Args:
        body: the text, and perhaps more behind it.
        length: of the text, in bytes.

    Attributes:
        beside: the JSON, with an empty list in place of that one.

    Raises:
        JsonTensorError: it is no JSON, or has too much beside the list.
    """

    def __init__(self, body: bytearray, length: int) -> None:
        self._body = body
        self._start = self._end = 0
        found = _DATA.search(bytes(body[: min(length, _MOST_BESIDE)]))
        list_text = b""
        if found:
            self._start = found.end()
            self._end = self._end_of_list(length)
            list_text = b"[]"
        if length - (self._end - self._start) > _MOST_BESIDE:
            raise JsonTensorError(
                f"the JSON has more than {_MOST_BESIDE // 1024} KiB beside the integers of data"
            )
        beside = bytes(body[: self._start]) + list_text + bytes(body[self._end : length])
        try:
            self.beside: Any = from_json(beside)
        except ValueError as error:
            raise JsonTensorError("the body is no JSON") from error

    def tensor(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The integers of the list, which is flat or nested as `shape` is.

        Raises:
            JsonTensorError: it holds other things, or others than the shape needs.
        """
        size = math.prod(shape)
        pieces = range(self._start, self._end, _PIECE)
        count = sum(self._body.count(b",", at, min(at + _PIECE, self._end)) for at in pieces) + 1
        if count != size:
            raise JsonTensorError(f"data holds {count} numbers; the shape needs {size}")
        numbers = np.empty(size, np.uint8)
        signs = b""  # brackets and commas that are expected, all of them
        signs_seen = numbers_seen = 0
        at = self._start
        while at < self._end:
            end = min(at + _PIECE, self._end)
            if end < self._end:
                end = self._body.rfind(b",", at, end) + 1
            piece = bytes(self._body[at:end])
            found = piece.translate(None, _DIGITS_AND_SPACE)
            if not signs:
                signs = _signs(shape) if found[1:2] == b"[" else _signs((size,))
            if not found or signs[signs_seen : signs_seen + len(found)] != found:
                raise JsonTensorError(f"data is nested otherwise than {list(shape)}, and not flat")
            signs_seen += len(found)
            values = _integers(piece.removesuffix(b",").translate(_NO_BRACKETS))
            numbers[numbers_seen : numbers_seen + len(values)] = values
            numbers_seen += len(values)
            at = end
        if (signs_seen, numbers_seen) != (len(signs), size):
            raise JsonTensorError("data breaks off")
        return numbers.reshape(shape)

    def _end_of_list(self, length: int) -> int:
        """Behind the last bracket before anything that stands in no list of integers."""
        at = self._start
        while at < length:
            piece = bytes(self._body[at : min(at + _PIECE, length)])
            if piece.translate(None, _OF_TENSORS):
                at += len(piece) - len(piece.lstrip(_OF_TENSORS))
                break
            at += len(piece)
        end = self._body.rfind(b"]", self._start, at) + 1
        following = bytes(self._body[at : at + 1])
        if not end or following not in (b"}", b'"'):
            raise JsonTensorError("data holds other things than integers from 0 to 255")
        return end


def _integers(text: bytes) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(bytes(from_json(b"[" + text + b"]")), np.uint8)
    except ValueError as error:
        raise JsonTensorError("data holds other things than integers from 0 to 255") from error


def _signs(shape: tuple[int, ...]) -> bytes:
    """Brackets and commas of a nested list.

    >>> _signs((2, 3))
    b'[[,,],[,,]]'
    """
    signs = b""
    for length in reversed(shape):
        signs = b"[" + (signs + b",") * (length - 1) + signs + b"]"
    return signs
