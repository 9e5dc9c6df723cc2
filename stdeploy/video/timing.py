"""When the frames of a video are shown. Pure arithmetic on seconds; no file is touched here."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

_FALLBACK_FPS = 25.0
_LEAP_SECONDS = 300.0


@dataclasses.dataclass(frozen=True)
class Timing:
    """When the frames of a video are shown.

    Attributes:
        timestamps: float64 (F,), seconds from the first frame, ascending.
        fps: the frame rate announced; only a video of one frame needs it.
    """

    timestamps: NDArray[np.float64] = dataclasses.field(repr=False)
    fps: float

    @staticmethod
    def of(raw: NDArray[np.float64], announced_fps: float) -> "Timing":
        """Mend what a container says; see `mend_timestamps`."""
        fps = announced_fps if 0 < announced_fps < 1000 else _FALLBACK_FPS
        return Timing(mend_timestamps(raw, fps=fps), fps)

    @property
    def duration(self) -> float:
        """How long the video stands on the screen, in seconds.

        The last frame is taken to stand as long as the typical one (the median interval), and a
        single frame 1 / fps.

        >>> Timing(np.array([0.0, 0.1, 0.2]), fps=25.0).duration  # doctest: +ELLIPSIS
        0.300...
        """
        if len(self.timestamps) == 1:
            return 1.0 / self.fps
        return float(self.timestamps[-1] + np.median(np.diff(self.timestamps)))


def mend_timestamps(raw: NDArray[np.float64], *, fps: float) -> NDArray[np.float64]:
    """Make timestamps start at 0 and ascend without leaps.

    Some containers leave timestamps out (AVI with reordered frames loses the last one): those
    that do not ascend are put one typical interval after the frame before. Streams that were
    joined leap by hours: a leap of more than five minutes, forwards or back, becomes one typical
    interval, and what follows moves along.

    >>> mend_timestamps(np.array([2.0, 2.5, 0.0, 3.5]), fps=2.0).tolist()
    [0.0, 0.5, 1.0, 1.5]

    Args:
        raw: in seconds, in the order in which frames are decoded.
        fps: gives the interval where no two timestamps ascend.
    """
    steps = np.diff(raw)
    usual = steps[(steps > 0) & (steps <= _LEAP_SECONDS)]
    interval = float(np.median(usual)) if len(usual) else 1.0 / fps
    mended = np.zeros_like(raw)
    offset = -raw[0]
    for index in range(1, len(raw)):
        step = raw[index] - raw[index - 1]
        if abs(step) > _LEAP_SECONDS:
            offset += interval - step
        time = raw[index] + offset
        mended[index] = time if time > mended[index - 1] else mended[index - 1] + interval
    return mended
