"""What is wrong with a video that is answered for all the same."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from stdeploy.artifacts.values import Spec
from stdeploy.video.containers import Programs
from stdeploy.video.timing import Timing

_MOST_SPANS = 20  # that are listed
_MOST_NOTES = 5
_LISTED = 3  # places named in a note
_JOINED_FRAMES = 16  # around a place where parts were joined: frames are reordered by so many


class Flaws(Spec):
    """What is wrong with a video; nothing, by default.

    Attributes:
        damaged_after_seconds: where its frames end, if it announces more of them.
        lost_frames: how many cannot be decoded, as far as was looked.
        lost_spans_seconds: where, each from the first lost frame to the next good one; the first
            20 of them.
        times_estimated: whether frames lack timestamps, and lie between those that have one.
        notes: what else is odd, in words.
    """

    damaged_after_seconds: FiniteFloat | None = None
    lost_frames: int = Field(default=0, ge=0)
    lost_spans_seconds: tuple[tuple[FiniteFloat, FiniteFloat], ...] = Field(
        default=(), max_length=_MOST_SPANS
    )
    times_estimated: bool = False
    notes: tuple[str, ...] = Field(default=(), max_length=_MOST_NOTES)

    def to_record(self) -> dict[str, Any]:
        """Plain data for a row: only what is wrong, times to the millisecond."""
        record = self.model_dump(mode="json", exclude_defaults=True)
        if self.damaged_after_seconds is not None:
            record["damaged_after_seconds"] = round(self.damaged_after_seconds, 3)
        if self.lost_spans_seconds:
            record["lost_spans_seconds"] = [
                [round(start, 3), round(end, 3)] for start, end in self.lost_spans_seconds
            ]
        return record


NO_FLAWS = Flaws()


def spans_of(missing: NDArray[np.intp], packets: Timing) -> tuple[tuple[float, float], ...]:
    """Where frames are missing, each stretch of them from its first to the next that is there.

    >>> packets = Timing(np.array([0.0, 0.1, 0.2, 0.3, 0.4]), fps=10.0)
    >>> spans_of(np.array([1, 2, 4]), packets)
    ((0.1, 0.3), (0.4, 0.5))
    >>> spans_of(np.array([0]), packets)
    ((-0.1, 0.0),)

    Args:
        missing: (M,), numbers of packets that gave no frame, ascending.
        packets: when each packet is shown.

    Returns:
        In seconds from the first frame that is there; at most 20 stretches.
    """
    total = len(packets.timestamps)
    shown = np.setdiff1d(np.arange(total), missing)
    start = packets.timestamps[shown[0]] if len(shown) else 0.0
    ends = np.append(packets.timestamps, packets.duration) - start
    stretches = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1)
    return tuple(
        (float(ends[stretch[0]]), float(ends[stretch[-1] + 1]))
        for stretch in stretches[:_MOST_SPANS]
        if len(stretch)
    )


def gaps_of(
    broken: NDArray[np.intp], packets: Timing, lead_seconds: float, timing: Timing
) -> tuple[float, ...]:
    """Where packets are broken, but for the places where parts were joined.

    Args:
        broken: (B,), numbers of packets, ascending.
        packets: when each packet is shown.
        lead_seconds: what they announce before the first frame that is there.
        timing: when the frames are shown.

    Returns:
        In seconds from the first frame that is there.
    """
    seconds = packets.timestamps[broken] - lead_seconds
    joint = _JOINED_FRAMES * packets.interval_seconds
    return tuple(
        float(each)
        for each in seconds
        if all(abs(restart - each) > joint for restart in timing.restarts_seconds)
    )


def notes_on(
    timing: Timing,
    programs: Programs | None,
    *,
    oriented: bool,
    gaps: Sequence[float] = (),
    on_gpu: bool = False,
    not_on_gpu: str = "",
) -> Iterator[str]:
    """What is odd about a video, in words.

    Args:
        timing: when its frames are shown.
        programs: of a transport stream.
        oriented: whether it is known which way up its frames are.
        gaps: where packets are broken, in seconds from the first frame.
        on_gpu: whether they were decoded there.
        not_on_gpu: why they were not decoded on the GPU that was asked for.
    """
    if on_gpu:
        yield "it was decoded on the GPU (NVDEC); the CPU's frames may differ in single levels"
    if not_on_gpu:
        yield f"it was decoded on the CPU, not on the GPU: {not_on_gpu}"
    if not oriented:
        yield (
            "its display matrix is neither a turn by 90 degrees nor a mirror; its frames are taken "
            "as they are coded"
        )
    if timing.restarts_seconds:
        where = _listed(timing.restarts_seconds)
        yield f"its clock begins anew at {where}; the parts are laid end to end"
    if gaps:
        yield (
            f"its stream has gaps at {_listed(gaps)}, where packets are missing or cut short; "
            "frames there are missing or shown as far as they are known"
        )
    if programs is not None and programs.changes:
        videos = [f"{stream.codec} (PID {stream.pid})" for stream in programs.videos]
        more = f" and {len(videos) - _LISTED} more" if len(videos) > _LISTED else ""
        named = ", then ".join(videos[:_LISTED])
        yield f"its program changes on the way: {named}{more}; only one of them is shown"


def _listed(seconds: Sequence[float]) -> str:
    where = ", ".join(f"{each:.1f} s" for each in seconds[:_LISTED])
    more = len(seconds) - _LISTED
    return f"{where} and {more} more times" if more > 0 else where
