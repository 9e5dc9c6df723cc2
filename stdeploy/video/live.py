"""Live video: a camera, a network stream or a pipe. The newest frames win, older ones are left.

A thread reads without pause, so that nothing queues up before it, and keeps the last T frames at
the clip's interval. Whoever classifies takes the newest window each time; however slow that is,
it is never more than one window behind.
"""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import VideoError
from stdeploy.video.decoder import HostStream
from stdeploy.video.live_source import NoStreamError, Opener
from stdeploy.video.transform import Image, clip_frame

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_UNCHANGED = 1e-9
_SUSPICIOUS = 8  # frames that are equal to the last bit
_LOST = 8  # frames in a row without a timestamp of their own


@dataclasses.dataclass(frozen=True)
class LiveWindow:
    """The newest clip of a stream.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB.
        end_seconds: when its last frame was shown, by the clock of the stream.
        arrived: `time.monotonic()` when that frame was read.
    """

    frames: NDArray[np.uint8] = dataclasses.field(repr=False)
    end_seconds: float
    arrived: float


class LiveClips:
    """The newest clip of a live source; a context manager that reads while it is open.

    Args:
        open_stream: opens the source, and again when it breaks off.
        clip: which frames, and how large.
        reconnect: open it again, after pauses of 1 to 30 s, instead of ending with it.
        tries: how often a source is opened that has never given a frame; None for no end.
        report: is told in words when the source breaks off and comes back.
    """

    def __init__(
        self,
        open_stream: Opener,
        clip: ClipSpec,
        *,
        reconnect: bool,
        tries: int | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._open_stream = open_stream
        self._clip = clip
        self._reconnect = reconnect
        self._tries = tries
        self._report = report
        self._newest: deque[tuple[float, float, Image]] = deque(maxlen=clip.num_frames)
        self._changed = threading.Condition()
        self._ended = False
        self._error: VideoError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="live", daemon=True)

    def next(self, *, after: float) -> LiveWindow | None:
        """Wait for a window that ends at least so late, and take the newest there is.

        A source that ends before it has filled one window gives what there is, its last frame
        held.

        Args:
            after: seconds by the clock of the stream; -inf for any.

        Returns:
            None when the source has ended and nothing newer is left.

        Raises:
            VideoError: the source cannot be opened, or not read.
        """
        with self._changed:
            # A timeout, so that Ctrl-C is noticed.
            while not (self._ready(after) or self._ended):
                self._changed.wait(0.2)
            if not self._ready(after):
                if self._error is not None:
                    raise self._error
                if not self._newest or self._newest[-1][0] < after or after > -np.inf:
                    return None
            held = list(self._newest)
        end, arrived, last = held[-1]
        frames = [frame for *_, frame in held]
        frames += [last] * (self._clip.num_frames - len(frames))
        return LiveWindow(np.stack(frames), end, arrived)

    def close(self) -> None:
        """Stop reading. A thread that waits for the source is left to its timeout."""
        self._stop.set()
        self._thread.join(timeout=1.0)

    def __enter__(self) -> "LiveClips":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self, after: float) -> bool:
        full = len(self._newest) == self._clip.num_frames
        return full and self._newest[-1][0] >= after

    def _read(self) -> None:
        """What the thread does."""
        follower = SourceFollower(
            self._open_stream,
            self._clip.interval_seconds,
            self,
            reconnect=self._reconnect,
            tries=self._tries,
            stop=self._stop,
        )
        try:
            follower.follow()
        except VideoError as error:
            self._error = error
        except Exception as error:  # of a library: whoever waits for a window has to hear of it
            self._error = VideoError(f"the source cannot be read: {error}")
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def begins(self) -> None:
        """See `ReceivesFrames`."""
        with self._changed:
            self._newest.clear()  # a clip does not go over a break

    def frame(self, seconds: float, arrived: float, image: Image) -> None:
        """See `ReceivesFrames`."""
        frame = clip_frame(image, self._clip)
        with self._changed:
            self._newest.append((seconds, arrived, frame))
            self._changed.notify_all()

    def breaks(self, reason: str, pause_seconds: float) -> None:
        """See `ReceivesFrames`."""
        self._report(trying_again(reason, pause_seconds))

    def picture(self, seconds: float, arrived: float, image: Image) -> None:
        """See `ReceivesFrames`; none are wanted here."""

    def notices(self, text: str) -> None:
        """See `ReceivesFrames`."""
        self._report(text)


def trying_again(reason: str, pause_seconds: float) -> str:
    """What is said of a source that broke off."""
    return f"{reason}; trying again in {pause_seconds:g} s"


class ReceivesFrames(Protocol):
    """Who is told what a `SourceFollower` meets, in its thread."""

    def begins(self) -> None:
        """The source was opened, for the first time or again."""

    def frame(self, seconds: float, arrived: float, image: Image) -> None:
        """A frame is due.

        Args:
            seconds: when it is shown, by a clock that goes on over breaks.
            arrived: `time.monotonic()` when it was read.
            image: (H, W, 3), BGR.
        """

    def picture(self, seconds: float, arrived: float, image: Image) -> None:
        """A picture to look at is due; see `frame`."""

    def breaks(self, reason: str, pause_seconds: float) -> None:
        """The source broke off, or could not be opened; it is opened again after a pause."""

    def notices(self, text: str) -> None:
        """Something is wrong with the pictures."""


class SourceFollower:
    """Reads a source without pause, and opens it again when it breaks off.

    Args:
        open_stream: opens the source.
        interval_seconds: from one frame to the next that is wanted.
        receiver: is told of these frames, and of breaks.
        picture_seconds: from one picture to look at to the next, which are frames too, but need not
            be those; 0 for every frame of the source, None for no pictures.
        reconnect: open it again, after pauses of 1 to 30 s, instead of ending with it.
        tries: how often a source is opened that has never given a frame; None for no end.
        stop: ends it, once set.
    """

    def __init__(
        self,
        open_stream: Opener,
        interval_seconds: float,
        receiver: ReceivesFrames,
        *,
        picture_seconds: float | None = None,
        reconnect: bool,
        tries: int | None,
        stop: threading.Event,
    ) -> None:
        self._open_stream = open_stream
        self._frames = _Every(interval_seconds)
        self._pictures = None if picture_seconds is None else _Every(picture_seconds)
        self._receiver = receiver
        self._reconnect = reconnect
        self._tries = tries
        self._stop = stop
        self._last: Image | None = None
        self._equal = 0

    def follow(self) -> None:
        """Read until the source ends, or `stop` is set.

        Raises:
            VideoError: it cannot be opened (`NoStreamError`) or read.
        """
        pause, clock = _FIRST_PAUSE, _Clock()
        seen, tried, start = False, 0, time.monotonic()
        while not self._stop.is_set():
            try:
                with self._open_stream() as stream:
                    clock.begin()
                    self._receiver.begins()
                    while not self._stop.is_set() and self._take(stream, clock):
                        pause, seen = _FIRST_PAUSE, True
                reason = "the source has ended"
            except VideoError as error:
                reason = f"the source {error}"
                if not self._reconnect:
                    raise type(error)(reason) from error
            if self._stop.is_set() or not self._reconnect:
                break
            tried += 1
            if not seen and tried == self._tries:
                took = time.monotonic() - start
                raise NoStreamError(f"{reason}, in {tried} tries over {took:.0f} s")
            self._receiver.breaks(reason, pause)
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _take(self, stream: HostStream, clock: "_Clock") -> bool:
        """Read one frame, and hand it on where it is due; whether there was one."""
        shown = stream.grab()
        if shown is None:
            return False
        arrived = time.monotonic()
        seconds = clock.seconds(shown, arrived)
        for_network = self._frames.due(seconds)
        to_look_at = self._pictures is not None and self._pictures.due(seconds)
        if not (for_network or to_look_at):
            return True  # grabbed, but never converted
        image = stream.image()
        if for_network:
            self._look(image)
            self._receiver.frame(seconds, arrived, image)
        if to_look_at:
            self._receiver.picture(seconds, arrived, image)
        return True

    def _look(self, image: Image) -> None:
        """Say so where pictures do not change: OpenCV cannot convert interlaced ones."""
        same = self._last is not None and np.array_equal(image, self._last)
        self._equal = self._equal + 1 if same else 0
        self._last = image
        if self._equal == _SUSPICIOUS:
            self._receiver.notices(
                f"{_SUSPICIOUS} frames were the same to the last bit: the source stands still, or "
                "is interlaced, which cannot be converted here, and answers are worth nothing"
            )


class _Clock:
    """Seconds that go on over breaks: the stream's own, or those of arrival where it has none."""

    def __init__(self) -> None:
        self._now = 0.0
        self._usual = 0.0

    def begin(self) -> None:
        """A stream begins, or begins anew."""
        self._last: tuple[float, float] | None = None
        self._without = 0

    def seconds(self, shown: float, arrived: float) -> float:
        """When a frame is shown, by a clock that never goes back."""
        if self._last is not None:
            by_stream, by_arrival = shown - self._last[0], arrived - self._last[1]
            self._without = self._without + 1 if by_stream <= _UNCHANGED else 0
            if self._without == 0:
                self._now += by_stream
                self._usual = by_stream
            else:  # one that repeats is a slip; where none goes on, the stream has no clock
                self._now += by_arrival if self._without > _LOST else self._usual
        self._last = shown, arrived
        return self._now


class _Every:
    """Which frames are due at an interval, in seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due = 0.0

    def due(self, seconds: float) -> bool:
        """Whether a frame is the next one."""
        interval = self._interval
        if seconds < self._due - interval / 100:
            return False
        self._due = max(self._due + interval, seconds + interval / 2)
        return True
