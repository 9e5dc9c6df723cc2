"""When the frames of a video are shown. Pure arithmetic on seconds; no file is touched here."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

Stamps = NDArray[np.float64]

_FALLBACK_FPS = 25.0
# A recorder that waits for motion leaves gaps of any length. Clocks wrap after 26.5 hours (33 bits
# of 90 kHz), and streams that were joined leap by more.
_LONGEST_PAUSE_SECONDS = 86_400.0
_LEAP_SECONDS = 10.0  # further than this, a timestamp may be a wrong one
_STRAY_FRAMES = 25  # wrong timestamps in a row; more are a clock of their own
_REORDERED_FRAMES = 16  # of H.264 and HEVC: how far decoding and showing may differ
_APART_SECONDS = 1e-5  # frames with one timestamp: a player shows the last
SAME_SECONDS = 1e-4  # timestamps of a packet and of its frame differ by rounding only


@dataclasses.dataclass(frozen=True)
class Timing:
    """When the frames of a video are shown.

    Attributes:
        timestamps: float64 (F,), seconds from the first frame, ascending.
        fps: the frame rate announced; only frames without timestamps and a video of one need it.
        last_seconds: how long the last frame is said to stand; 0 where nothing says so.
        estimated: how many frames had no timestamp, or an impossible one. The last few are not
            counted: AVI leaves their timestamps out where frames are reordered.
        restarts_seconds: where the clock of the container began anew, from the first frame.
    """

    timestamps: Stamps = dataclasses.field(repr=False)
    fps: float
    last_seconds: float = 0.0
    estimated: int = 0
    restarts_seconds: tuple[float, ...] = ()

    @staticmethod
    def of(raw: Stamps, announced_fps: float, last_seconds: float = 0.0) -> "Timing":
        """Mend what a container says, so that timestamps start at 0 and ascend.

        Frames without a timestamp are spread evenly between those that have one, and lie one
        typical interval from each other before the first and after the last of these. A clock
        that goes back began anew (streams that were joined), and so did one that leaps by more
        than a day: what follows is laid one interval after what was before. A few timestamps that
        leap away, and one at the very end that goes back, count as missing. Any other gap is a
        pause, and stays. Frames with one timestamp are put a hair apart.

        >>> nan = np.nan
        >>> Timing.of(np.array([2.0, nan, 3.0, nan]), 2.0).timestamps.tolist()
        [0.0, 0.5, 1.0, 1.5]
        >>> Timing.of(np.array([5.0, 5.5, 0.0, 2.0]), 2.0).timestamps.tolist()
        [0.0, 0.5, 1.0, 3.0]

        Args:
            raw: (F,), in seconds, in the order in which frames are shown; NaN where there is none.
            announced_fps: frames a second; 25 is taken for what is not in (0, 1000).
            last_seconds: how long the last frame is said to stand.
        """
        fps = announced_fps if 0 < announced_fps < 1000 else _FALLBACK_FPS
        stamps = np.where(_stray(raw), np.nan, raw)
        if np.isnan(raw).any():
            # One timestamp for many frames is that of the last frame that FFmpeg gives it to.
            stamps[:-1][stamps[:-1] == stamps[1:]] = np.nan
        known = np.flatnonzero(~np.isnan(stamps))
        if len(known) < 2 or np.ptp(stamps[known]) == 0:
            estimated = len(raw) if len(raw) > 1 else 0
            return Timing(np.arange(len(raw)) / fps, fps, last_seconds, estimated)
        timestamps, restarts = _laid_end_to_end(stamps, known, 1.0 / fps)
        last = len(raw) - 1 - known[-1]
        estimated = len(raw) - len(known) - (last if last <= _REORDERED_FRAMES else 0)
        return Timing(timestamps, fps, last_seconds, int(estimated), restarts)

    @property
    def interval_seconds(self) -> float:
        """From one frame to the next, typically (the median); 1 / fps for a single frame."""
        return _typical(np.diff(self.timestamps), 1.0 / self.fps)

    @property
    def duration(self) -> float:
        """How long the video stands on the screen, in seconds.

        The last frame stands as long as is said, or as long as the typical one, whichever is more.

        >>> Timing(np.array([0.0, 0.1, 0.2]), fps=25.0).duration  # doctest: +ELLIPSIS
        0.300...
        >>> Timing(np.array([0.0, 0.1, 0.2]), fps=25.0, last_seconds=60.0).duration
        60.2
        """
        return float(self.timestamps[-1]) + max(self.interval_seconds, self.last_seconds)


def order_shown(raw: Stamps) -> NDArray[np.intp]:
    """The order in which packets are shown, which come in the order in which they are decoded.

    Decoding runs ahead of showing by a few frames. A clock that goes back by more than that began
    anew, and what follows is shown after all that was before.

    >>> order_shown(np.array([0.0, 0.12, 0.04, 0.08, 0.16])).tolist()
    [0, 2, 3, 1, 4]
    >>> order_shown(np.array([7.0, 7.04, 7.08, 0.0, 0.04])).tolist()
    [0, 1, 2, 3, 4]

    Args:
        raw: (P,), in seconds; without NaN.
    """
    if not len(raw):
        return np.zeros(0, dtype=np.intp)
    ahead = _REORDERED_FRAMES * _typical(np.abs(np.diff(raw)), 1.0 / _FALLBACK_FPS)
    clocks = np.zeros(len(raw), dtype=np.intp)
    if (raw < np.maximum.accumulate(raw) - ahead).any():
        clock, highest = 0, raw[0]
        for number, stamp in enumerate(raw):
            if stamp < highest - ahead:
                clock, highest = clock + 1, stamp
            clocks[number], highest = clock, max(highest, stamp)
    return np.lexsort((raw, clocks))  # which is stable


def missing_from(raw: Stamps, shown: Stamps) -> NDArray[np.intp]:
    """Which packets gave no frame.

    >>> missing_from(np.array([0.0, 0.04, 0.08, 0.12]), np.array([0.0, 0.12])).tolist()
    [1, 2]

    Args:
        raw: (P,), of all packets, in seconds, in the order shown.
        shown: (F,), of the frames that were decoded, in the same order.

    Returns:
        Their numbers, ascending; none where some timestamps are missing.
    """
    if np.isnan(raw).any() or np.isnan(shown).any():
        return np.zeros(0, dtype=np.intp)
    missing, number = [], 0
    for position, stamp in enumerate(raw):
        if number < len(shown) and abs(stamp - shown[number]) <= SAME_SECONDS:
            number += 1
        else:
            missing.append(position)
    return np.array(missing, dtype=np.intp)


def same_stamp(one: float, other: float) -> bool:
    """Whether two timestamps are the same but for rounding, or both missing (NaN)."""
    return abs(one - other) <= SAME_SECONDS or (one != one and other != other)


def _typical(steps: Stamps, otherwise: float) -> float:
    usual = steps[(steps > 0) & (steps <= _LONGEST_PAUSE_SECONDS)]
    return float(np.median(usual)) if len(usual) else otherwise


def _laid_end_to_end(
    stamps: Stamps, known: NDArray[np.intp], otherwise: float
) -> tuple[Stamps, tuple[float, ...]]:
    """One clock for all frames, from 0; and where those of the container began anew."""
    frames = np.diff(known)
    steps = np.diff(stamps[known])
    intervals = steps / frames
    interval = _typical(intervals, otherwise)
    anew = np.flatnonzero((steps < 0) | (steps > _LONGEST_PAUSE_SECONDS))
    for place in anew:
        # As far apart as the frames before it, which may have another rate than those after.
        before = intervals[max(0, place - _REORDERED_FRAMES) : place]
        steps[place] = frames[place] * _typical(before, interval)
    clock = np.concatenate([[0.0], np.cumsum(steps)])
    numbers = np.arange(len(stamps))
    first, last = known[0], known[-1]
    before = interval * (numbers[:first] - first)
    after = clock[-1] + interval * (numbers[last + 1 :] - last)
    between = np.interp(numbers[first : last + 1], known, clock)
    timestamps = np.concatenate([before, between, after])
    timestamps += _APART_SECONDS * _rank_among_equals(timestamps) - timestamps[0]
    return timestamps, tuple(float(clock[place + 1]) for place in anew)


def _rank_among_equals(timestamps: Stamps) -> NDArray[np.intp]:
    """How many frames before each have the same timestamp."""
    numbers = np.arange(len(timestamps))
    begins = np.append(True, np.diff(timestamps) > 0)
    return numbers - np.maximum.accumulate(np.where(begins, numbers, 0))


def _stray(raw: Stamps) -> NDArray[np.bool_]:
    """Which timestamps leap away from their neighbours, to which the clock then returns."""
    stray = np.zeros(len(raw), dtype=np.bool_)
    known = np.flatnonzero(~np.isnan(raw))
    stamps = raw[known]
    if len(stamps) > 2 and stamps[-1] < stamps[-2]:
        stray[known[-1]] = True  # AVI loses the last one, of frames that are reordered
    for leap in np.flatnonzero(np.abs(np.diff(stamps)) > _LEAP_SECONDS):
        before = stamps[leap]
        if stray[known[leap]]:
            continue
        following = stamps[leap + 1 : leap + 2 + _STRAY_FRAMES]
        back = np.flatnonzero((following >= before) & (following < before + _LEAP_SECONDS))
        if len(back):
            stray[known[leap + 1 : leap + 1 + back[0]]] = True
    return stray
