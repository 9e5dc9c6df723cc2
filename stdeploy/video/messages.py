"""Messages between this program and the processes that decode for it.

A message is JSON, then frames as bytes. A process that has decoded what a stranger made is not
trusted: nothing that it sends is unpickled.
"""

import json
import math
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_TEXT_LENGTH = struct.Struct("<I")
_MOST_TEXT_BYTES = 64 * 2**20
_MOST_SIDES = 8
_SHAPE_KEY = "shape"


class BrokenMessageError(Exception):
    """What came is no message, or ended in the middle."""


def send(file: BinaryIO, message: dict[str, Any], frames: NDArray[np.uint8] | None = None) -> None:
    """Write a message.

    Args:
        file: unbuffered.
        message: of plain data.
        frames: uint8, of any shape.
    """
    if frames is not None:
        message = message | {_SHAPE_KEY: frames.shape}
    text = json.dumps(message).encode()
    _write(file, memoryview(_TEXT_LENGTH.pack(len(text)) + text))
    if frames is not None:
        _write(file, np.ascontiguousarray(frames).data.cast("B"))


def receive(
    read_into: Callable[[memoryview], None], *, most_bytes: int
) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    """Read a message.

    Args:
        read_into: fills a buffer, or raises.
        most_bytes: of frames.

    Raises:
        BrokenMessageError: it is none.
    """
    head = bytearray(_TEXT_LENGTH.size)
    read_into(memoryview(head))
    (length,) = _TEXT_LENGTH.unpack(head)
    if length > _MOST_TEXT_BYTES:
        raise BrokenMessageError
    text = bytearray(length)
    read_into(memoryview(text))
    try:
        message = json.loads(text)
        if not isinstance(message, dict):
            raise BrokenMessageError
        shape = message.pop(_SHAPE_KEY, None)
        if shape is None:
            return message, None
        sides = tuple(int(side) for side in shape)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BrokenMessageError from error
    if len(sides) > _MOST_SIDES or min(sides, default=0) < 1 or math.prod(sides) > most_bytes:
        raise BrokenMessageError
    frames = np.empty(sides, dtype=np.uint8)
    read_into(frames.data.cast("B"))
    return message, frames


def _write(file: BinaryIO, content: memoryview) -> None:
    while content:
        content = content[file.write(content) :]
