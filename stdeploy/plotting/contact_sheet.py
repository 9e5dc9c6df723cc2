"""The frames that a network saw, upright and cropped as it saw them, and what it said."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.files import whole_file
from stdeploy.artifacts.frames import on_host
from stdeploy.errors import VideoError
from stdeploy.plotting.overlay import fitted
from stdeploy.video.clips import Clips

_COLUMNS = 8
_CELL_PX = 160
_GAP_PX = 4
_TEXT_PX = 18
_WIDTH_PX = _GAP_PX + _COLUMNS * (_CELL_PX + _GAP_PX)
_HEAD_PX = 24
_FONT_SCALE, _HEAD_SCALE = 0.42, 0.5
_PAPER, _INK = 255, (60, 60, 60)


def draw_contact_sheet(clips: Clips, path: Path, *, name: str, best: tuple[str, float]) -> None:
    """Write a sheet: name, label and score, then a row for each clip, frames with their times.

    Args:
        clips: of one video.
        path: ends in .png.
        name: of the video.
        best: the label that the video was given, and its score, 0 to 1.
    """
    rows = [
        _head(name, best),
        *(
            _row(frames, times)
            for frames, times in zip(on_host(clips.frames), clips.times_seconds, strict=True)
        ),
    ]
    ok, content = cv2.imencode(".png", cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
    if not ok:
        raise VideoError("gives a contact sheet that is too large to be written")
    with whole_file(path) as temporary:
        temporary.write_bytes(content.tobytes())


def _head(name: str, best: tuple[str, float]) -> NDArray[np.uint8]:
    """The line above the pictures: score and label at the left, the name behind them."""
    label, score = best
    head = np.full((_HEAD_PX, _WIDTH_PX, 3), _PAPER, np.uint8)
    # The half that the label leaves is the name's: both can be long.
    half = _WIDTH_PX // 2 - 2 * _GAP_PX
    answer = fitted(f"{score:.3f}  ", label, half, _HEAD_SCALE, 1)
    for left, text in (
        (_GAP_PX, answer),
        (_WIDTH_PX // 2, fitted("", name, half, _HEAD_SCALE, 1)),
    ):
        _write(head, text, (left, _HEAD_PX - 8), _HEAD_SCALE)
    return head


def _write(row: NDArray[np.uint8], text: str, place: tuple[int, int], scale: float) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(row, text, place, font, scale, _INK, 1, cv2.LINE_AA)


def _row(frames: NDArray[np.uint8], times: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(T, H, W, 3) to one row of pictures."""
    count = min(_COLUMNS, len(frames))
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    row = np.full((_CELL_PX + _TEXT_PX + _GAP_PX, _WIDTH_PX, 3), _PAPER, np.uint8)
    for column, index in enumerate(chosen):
        left = _GAP_PX + column * (_CELL_PX + _GAP_PX)
        small = cv2.resize(frames[index], (_CELL_PX, _CELL_PX), interpolation=cv2.INTER_AREA)
        row[:_CELL_PX, left : left + _CELL_PX] = small
        _write(row, f"{times[index]:.2f} s", (left, _CELL_PX + _TEXT_PX - 5), _FONT_SCALE)
    return row
