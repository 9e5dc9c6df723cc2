"""How a network takes the frames of live sources: windows, or frame by frame with state.

A `FrameBuffer` for each source keeps its due frames until the network wants them; `LiveNetwork.run`
takes what several buffers gave in one batch. Buffers are used under one lock, networks outside it.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.backends.base import RunsClips
from stdeploy.backends.streams import ClipsOfStreams
from stdeploy.video.live_reader import DueFrame

_SHORTEST_HOP_SECONDS = 1e-6
_BACKLOG_SECONDS = 1.0  # of frames that a network with state has not seen yet

Stream = TypeVar("Stream")


@dataclasses.dataclass(frozen=True)
class Input:
    """What the network is to see of one source.

    Attributes:
        frames: uint8 (F, H, W, 3), RGB.
        stream_seconds: when the last of them is shown, by the clock of the stream.
        arrived: `time.monotonic()` when that one was read.
        answers: whether an answer is wanted, or only the network's state has to go on.
    """

    frames: NDArray[np.uint8] = dataclasses.field(repr=False)
    stream_seconds: float
    arrived: float
    answers: bool


Taken = TypeVar("Taken", bound=Input)
Given = TypeVar("Given", bound=Input, covariant=True)


class FrameBuffer(Protocol[Given]):
    """The due frames of one source.

    Attributes:
        dropped: frames that the network never saw.
    """

    dropped: int

    def begins(self) -> None:
        """The source was opened, for the first time or again: nothing goes over a break."""

    def add(self, frame: DueFrame) -> None:
        """One more."""

    def ends(self) -> None:
        """No more come."""

    @property
    def ready_since(self) -> float | None:
        """`time.monotonic()` since when there is something for the network; None: there is not."""

    def take(self) -> Given:
        """What the network is to see now; only where `ready_since` is not None."""


class LiveNetwork(Protocol[Taken]):
    """A network, and how it takes frames."""

    def buffer(self, hop_seconds: float) -> FrameBuffer[Taken]:
        """For one more source.

        Args:
            hop_seconds: from one answer to the next, on average at least; from 0.
        """

    def run(self, inputs: Sequence[Taken]) -> NDArray[np.float32]:
        """Classify what buffers of this network gave, at most one input of each.

        Returns:
            Logits (N, K).
        """


def live_network(runtime: RunsClips, card: ModelCard) -> LiveNetwork[Any]:
    """The way in which an artifact takes live frames."""
    if isinstance(runtime, ClipsOfStreams):
        return StreamNetwork(runtime.streams, card.clip)
    return WindowNetwork(runtime, card.clip)


class _Hop:
    """When answers about one source are due, by the clock of its stream.

    Frames come when they come, so an answer may be due between two of them. The moments are then
    kept to a grid, or an answer a second would become one in 1.2 s.

    Args:
        seconds: from one answer to the next, on average.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = max(seconds, _SHORTEST_HOP_SECONDS)
        self._next: float | None = None

    @property
    def begun(self) -> bool:
        """Whether there was an answer."""
        return self._next is not None

    def due(self, seconds: float) -> bool:
        """Whether an answer is due at a frame."""
        return self._next is None or seconds >= self._next

    def answered(self, seconds: float) -> None:
        """About a frame; after a late answer the grid begins anew, half a hop later at least."""
        if self._next is None:
            self._next = seconds + self._seconds
        else:
            self._next = max(self._next + self._seconds, seconds + self._seconds / 2)


class WindowBuffer:
    """The newest clip; see `FrameBuffer`.

    Args:
        num_frames: of a clip.
        hop_seconds: from one answer to the next, on average at least.
    """

    def __init__(self, num_frames: int, hop_seconds: float) -> None:
        self.dropped = 0
        self._hop = _Hop(hop_seconds)
        self._newest: collections.deque[DueFrame] = collections.deque(maxlen=num_frames)
        self._unseen = 0  # of these, the newest so many
        self._since: float | None = None

    def begins(self) -> None:
        """See `FrameBuffer`."""
        self.dropped += self._unseen
        self._unseen = 0
        self._newest.clear()
        self._since = None

    def add(self, frame: DueFrame) -> None:
        """See `FrameBuffer`."""
        if len(self._newest) == self._newest.maxlen and self._unseen == len(self._newest):
            self.dropped += 1
            self._unseen -= 1
        self._newest.append(frame)
        self._unseen += 1
        full = len(self._newest) == self._newest.maxlen
        if full and self._since is None and self._hop.due(frame.seconds):
            self._since = frame.arrived

    def ends(self) -> None:
        """See `FrameBuffer`; less than a clip is answered once, if nothing else was."""
        if self._newest and not self._hop.begun:
            self._since = self._newest[-1].arrived

    @property
    def ready_since(self) -> float | None:
        """See `FrameBuffer`."""
        return self._since

    def take(self) -> Input:
        """See `FrameBuffer`; of less than a clip, the last frame is held."""
        held = list(self._newest)
        last = held[-1]
        assert self._newest.maxlen is not None
        held += [last] * (self._newest.maxlen - len(held))
        self._unseen, self._since = 0, None
        self._hop.answered(last.seconds)
        frames = np.stack([frame.image for frame in held])
        return Input(frames, last.seconds, last.arrived, answers=True)


class WindowNetwork:
    """Any network of clips: each answer is about the newest one. See `LiveNetwork`.

    Args:
        runtime: runs it.
        clip: that it takes.
    """

    def __init__(self, runtime: RunsClips, clip: ClipSpec) -> None:
        self._runtime = runtime
        self._clip = clip

    def buffer(self, hop_seconds: float) -> WindowBuffer:
        """See `LiveNetwork`."""
        return WindowBuffer(self._clip.num_frames, hop_seconds)

    def run(self, inputs: Sequence[Input]) -> NDArray[np.float32]:
        """See `LiveNetwork`."""
        return self._runtime.run(np.stack([each.frames for each in inputs]))


class RunsStreams(Protocol[Stream]):
    """What runs a network with state.

    Attributes:
        frames_per_call: K, frames that each call takes of each stream.
        frames_behind: how many frames lie between the newest one and those that an answer is about;
            so many come before the first answer.
    """

    @property
    def frames_per_call(self) -> int:
        """See above."""

    @property
    def frames_behind(self) -> int:
        """See above."""

    def begin(self) -> Stream:
        """The state of a stream that begins."""

    def run(self, frames: NDArray[np.uint8], streams: Sequence[Stream]) -> NDArray[np.float32]:
        """Map uint8 frames (N, K, H, W, 3), RGB, to logits (N, classes), and advance N streams."""


class StreamState(Generic[Stream]):
    """What a network with state keeps of one source.

    Attributes:
        stream: None until the first frames are there.
    """

    def __init__(self) -> None:
        self.stream: Stream | None = None


@dataclasses.dataclass(frozen=True)
class StreamInput(Input, Generic[Stream]):
    """The next K frames of a source, and its state, which they advance.

    Attributes:
        state: of the source since it was opened last.
    """

    state: StreamState[Stream]


class StreamBuffer(Generic[Stream]):
    """Frames in their order, none left out unless there are too many; see `FrameBuffer`.

    Args:
        frames_per_call: that the network takes at once.
        interval_seconds: from one frame to the next.
        hop_seconds: from one answer to the next, on average at least.
        frames_behind: between the newest frame and those that an answer is about.
    """

    def __init__(
        self,
        frames_per_call: int,
        interval_seconds: float,
        hop_seconds: float,
        frames_behind: int = 0,
    ) -> None:
        self.dropped = 0
        self._state = StreamState[Stream]()
        self._hop = _Hop(hop_seconds)
        self._count = frames_per_call
        self._behind = frames_behind
        self._behind_seconds = frames_behind * interval_seconds
        self._taken = 0  # of the stream
        self._most = frames_per_call + max(
            frames_per_call, math.ceil(_BACKLOG_SECONDS / interval_seconds)
        )
        self._waiting: collections.deque[DueFrame] = collections.deque()

    def begins(self) -> None:
        """See `FrameBuffer`."""
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._state = StreamState()
        self._taken = 0

    def add(self, frame: DueFrame) -> None:
        """See `FrameBuffer`; what waits for more than a second or so is dropped, oldest first.

        NOTE: the state then has a gap: the network sees the frames before and after it as
        neighbours, until the gap has left its receptive field.
        """
        self._waiting.append(frame)
        while len(self._waiting) > self._most:
            self._waiting.popleft()
            self.dropped += 1

    def ends(self) -> None:
        """See `FrameBuffer`; less than the network takes at once is left."""

    @property
    def ready_since(self) -> float | None:
        """See `FrameBuffer`."""
        if len(self._waiting) < self._count:
            return None
        return self._waiting[self._count - 1].arrived

    def take(self) -> StreamInput[Stream]:
        """See `FrameBuffer`; an answer is about frames that came before the newest, and says so."""
        taken = [self._waiting.popleft() for _ in range(self._count)]
        last = taken[-1]
        self._taken += self._count
        answers = self._taken > self._behind and self._hop.due(last.seconds)
        if answers:
            self._hop.answered(last.seconds)
        return StreamInput(
            np.stack([frame.image for frame in taken]),
            last.seconds - self._behind_seconds,
            last.arrived - self._behind_seconds,
            answers,
            self._state,
        )


class StreamNetwork(Generic[Stream]):
    """A network with state: every due frame is seen once, in order. See `LiveNetwork`.

    Args:
        runtime: runs it.
        clip: whose frames it takes, at their interval.
    """

    def __init__(self, runtime: RunsStreams[Stream], clip: ClipSpec) -> None:
        self._runtime = runtime
        self._clip = clip

    def buffer(self, hop_seconds: float) -> StreamBuffer[Stream]:
        """See `LiveNetwork`."""
        runtime = self._runtime
        return StreamBuffer(
            runtime.frames_per_call,
            self._clip.interval_seconds,
            hop_seconds,
            runtime.frames_behind,
        )

    def run(self, inputs: Sequence[StreamInput[Stream]]) -> NDArray[np.float32]:
        """See `LiveNetwork`."""
        streams = []
        for each in inputs:
            if each.state.stream is None:
                each.state.stream = self._runtime.begin()
            streams.append(each.state.stream)
        return self._runtime.run(np.stack([each.frames for each in inputs]), streams)
