"""The frames that a network saw, upright and cropped as it saw them, on one sheet."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stdeploy.errors import VideoError
from stdeploy.files import whole_file
from stdeploy.video.clips import Clips

_COLUMNS = 8
_CELL_PX = 160
_GAP_PX = 4
_TEXT_PX = 18
_PAPER, _INK = 255, (60, 60, 60)


def draw_contact_sheet(clips: Clips, path: Path) -> None:
    """Write a sheet: a row for each clip, frames evenly taken from it, with their times.

    Args:
        clips: of one video.
        path: ends in .png.
    """
    rows = [
        _row(frames, times) for frames, times in zip(clips.frames, clips.times_seconds, strict=True)
    ]
    ok, content = cv2.imencode(".png", cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
    if not ok:
        raise VideoError("gives a contact sheet that is too large to be written")
    with whole_file(path) as temporary:
        temporary.write_bytes(content.tobytes())


def _row(frames: NDArray[np.uint8], times: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(T, H, W, 3) to one row of pictures."""
    count = min(_COLUMNS, len(frames))
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    width = _GAP_PX + _COLUMNS * (_CELL_PX + _GAP_PX)
    row = np.full((_CELL_PX + _TEXT_PX + _GAP_PX, width, 3), _PAPER, np.uint8)
    for column, index in enumerate(chosen):
        left = _GAP_PX + column * (_CELL_PX + _GAP_PX)
        small = cv2.resize(frames[index], (_CELL_PX, _CELL_PX), interpolation=cv2.INTER_AREA)
        row[:_CELL_PX, left : left + _CELL_PX] = small
        cv2.putText(
            row,
            f"{times[index]:.2f} s",
            (left, _CELL_PX + _TEXT_PX - 5),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.42,
            _INK,
            1,
            cv2.LINE_AA,
        )
    return row
