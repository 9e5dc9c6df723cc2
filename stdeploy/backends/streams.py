"""Artifacts that take streams frame by frame: many streams at once, each with what it has kept."""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.frames import Frames, on_host
from stdeploy.artifacts.spec import Precision, StreamSpec
from stdeploy.backends.base import ClosesOnExit, DeviceType, StreamOptions
from stdeploy.backends.signature import check_frames
from stdeploy.errors import ArtifactError, SpecError

NO_END = (1 << 31) - 1  # as the length of a stream: int32, and more frames than ever come
_FAR = 1 << 30


def written_stream(card: ModelCard, asked: StreamOptions) -> StreamSpec:
    """What the card of a file says of its streams.

    Args:
        card: of the file.
        asked: what the caller wants it to say.

    Raises:
        SpecError: it takes whole clips, or streams of another kind.
    """
    spec = card.stream
    if spec is None:
        raise SpecError(
            f"this file takes whole clips, in {card.form} form; make one for streams: stdeploy "
            "export --stream"
        )
    for what, wanted, found in (
        ("frames_per_call", asked.frames_per_call, spec.frames_per_call),
        ("window", asked.window, spec.window_frames),
    ):
        if wanted not in (None, found):
            raise SpecError(f"{what} = {wanted}: this file was written for {found}")
    return spec


class StreamAnswer(NamedTuple):
    """What a network says after the next frames of N streams.

    Attributes:
        logits: (N, classes), of the newest window.
        places: (N, K', classes), of each place in time that is new; the first
            `StreamSpec.delay_places` of a stream are none.
    """

    logits: NDArray[np.float32]
    places: NDArray[np.float32]


class StreamSession(ClosesOnExit, abc.ABC):
    """A network for streams in one library. Here states are NumPy arrays, as most libraries take.

    Args:
        spec: of the artifact.

    Attributes:
        name: of the backend.
        device: where it really runs, in words.
        device_type: what that is, for programs.
        precision: arithmetic of its convolutions.
    """

    name: str
    device: str
    device_type: DeviceType = "cpu"
    precision: Precision
    stored: Precision = "fp32"

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec

    @abc.abstractmethod
    def run(
        self,
        frames: NDArray[np.uint8],
        position: NDArray[np.int32],
        length: NDArray[np.int32],
        states: list[Any],
    ) -> tuple[StreamAnswer, list[Any]]:
        """Take the next frames of N streams; `stdeploy.models.streaming.StreamingNetwork.forward`.

        Args:
            frames: (N K, H, W, 3).
            position: (N,).
            length: (N,).
            states: of the N streams together, which may not be used afterwards.
        """

    def start(self) -> list[Any]:
        """The states of one stream before its first frame."""
        return [
            np.full((1, *state.shape), state.fill, dtype=state.type) for state in self.spec.states
        ]

    def join(self, streams: Sequence[list[Any]]) -> list[Any]:
        """The states of streams as one batch."""
        return [np.concatenate(of_layer) for of_layer in zip(*streams, strict=True)]

    def split(self, states: list[Any]) -> list[list[Any]]:
        """The states of a batch, stream by stream."""
        count = len(states[0])
        return [[each[row : row + 1].copy() for each in states] for row in range(count)]


class Stream:
    """One stream of a `StreamRuntime`.

    Attributes:
        position: how many frames of it have been taken.
        length: how many it has; None until its end is known.
    """

    def __init__(self, length: int | None = None) -> None:
        self.position = 0
        self.length = length
        self._states: list[Any] | None = None


class StreamRuntime(ClosesOnExit):
    """Runs many streams through one network, those that have new frames together.

    States stay where the network runs as long as the same streams come together; when others come,
    they are put together anew.

    Args:
        session: the network.
        card: of the artifact.

    Attributes:
        frames_per_call: K, frames of each stream that come at once.
        frames_behind: frames between the newest one and those that an answer is about.
    """

    def __init__(self, session: StreamSession, card: ModelCard) -> None:
        self.session = session
        self.card = card
        self.spec = session.spec
        self.frames_per_call = session.spec.frames_per_call
        self.frames_behind = session.spec.delay_places * session.spec.stride_frames
        self._together: tuple[Stream, ...] = ()
        self._states: list[Any] = []

    def begin(self, length: int | None = None) -> Stream:
        """A new stream, at its start.

        Args:
            length: how many frames it has, where that is known.
        """
        return Stream(length)

    def run(self, frames: NDArray[np.uint8], streams: Sequence[Stream]) -> NDArray[np.float32]:
        """Take the next frames of streams; see `step`.

        Returns:
            Logits (N, classes) of the newest window of each.
        """
        return self.step(frames, streams).logits

    def step(self, frames: NDArray[np.uint8], streams: Sequence[Stream]) -> StreamAnswer:
        """Take the next frames of streams, which go on by K frames.

        Args:
            frames: uint8 (N, K, H, W, 3), RGB, at the clip's interval.
            streams: N different ones.

        Raises:
            ArtifactError: shape or type of the frames are not those of the artifact.
            SpecError: a stream is there twice.
        """
        self._check(frames, streams)
        members = tuple(streams)
        if members != self._together:
            self._gather(members)
        position = np.array(
            [_near(each.position, self.frames_per_call) for each in members], dtype=np.int32
        )
        ends = [NO_END if each.length is None else each.length for each in members]
        answer, self._states = self.session.run(
            np.ascontiguousarray(frames.reshape(-1, *frames.shape[2:])),
            position,
            np.array(ends, dtype=np.int32),
            self._states,
        )
        for stream in members:
            stream.position += self.frames_per_call
        return answer

    def close(self) -> None:
        """Release the network and all states."""
        self._together, self._states = (), []
        self.session.close()

    def _gather(self, members: tuple[Stream, ...]) -> None:
        """Put the states of other streams together than those of the last call."""
        for stream, states in zip(
            self._together, self.session.split(self._states) if self._together else (), strict=True
        ):
            stream._states = states
        rows = [stream._states or self.session.start() for stream in members]
        self._states = rows[0] if len(rows) == 1 else self.session.join(rows)
        self._together = members
        for stream in members:
            stream._states = None

    def _check(self, frames: NDArray[np.uint8], streams: Sequence[Stream]) -> None:
        side = self.card.clip.crop_px
        expected = (len(streams), self.frames_per_call, side, side, 3)
        if frames.dtype != np.uint8 or frames.shape != expected or not streams:
            raise ArtifactError(
                f"frames are {frames.dtype} {frames.shape}; uint8 {expected} is wanted: the next "
                f"{self.frames_per_call} of each of N streams, N at least 1"
            )
        if len({*map(id, streams)}) < len(streams):
            raise SpecError("a stream is there twice in one call; give each once")


class ClipsOfStreams(ClosesOnExit):
    """A network for streams that classifies clips, each of them a stream with two ends.

    Args:
        streams: runs them.
    """

    def __init__(self, streams: StreamRuntime) -> None:
        self.streams = streams
        session = streams.session
        self.name, self.device, self.device_type = session.name, session.device, session.device_type
        self.precision, self.stored = session.precision, session.stored

    def run(self, frames: Frames) -> NDArray[np.float32]:
        """Classify clips; see `stdeploy.backends.base.RunsClips.run`."""
        check_frames(frames, self.streams.card)
        clips, spec = on_host(frames), self.streams.spec
        count = clips.shape[1]
        places = places_of(clips, [self.streams.begin(count) for _ in clips], self.streams)
        return pooled(places[:, : count // spec.stride_frames], spec.sliding_places)

    def close(self) -> None:
        """Release the network."""
        self.streams.close()


def places_of(
    videos: NDArray[np.uint8], streams: Sequence[Stream], runtime: StreamRuntime
) -> NDArray[np.float32]:
    """Logits of all places in time of streams that are fed to their end.

    Args:
        videos: uint8 (N, T, H, W, 3).
        streams: N, of T frames each, at their start.
        runtime: runs them.

    Returns:
        (N, places, classes); those behind the last one of the videos may be anything.
    """
    spec, length = runtime.spec, videos.shape[1]
    calls = -(-length // spec.frames_per_call) + spec.calls_behind
    found = []
    for call in range(calls):
        start = call * spec.frames_per_call
        frames = videos[:, start : start + spec.frames_per_call]
        if frames.shape[1] < spec.frames_per_call:
            frames = filled(frames, spec.frames_per_call)
        found.append(runtime.step(frames, streams).places)
    return np.concatenate(found, axis=1)[:, spec.delay_places :]


def pooled(places: NDArray[np.floating], sliding: int = 1) -> NDArray[np.float32]:
    """Average logits over places in time, as `stdeploy.models.base.AveragePoolHead` does.

    Args:
        places: (N, n, classes).
        sliding: places that are averaged at a time.

    Returns:
        (N, classes).
    """
    weights = place_weights(places.shape[1], sliding)
    averages = np.einsum("npk,p->nk", places.astype(np.float64), weights)
    return np.asarray(averages, dtype=np.float32)


def place_weights(count: int, sliding: int) -> NDArray[np.float64]:
    """What each of `count` places counts for where averages of some are averaged, 1 together."""
    if not 1 < sliding < count:
        return np.full(count, 1 / count)
    held = np.convolve(np.ones(count - sliding + 1), np.ones(sliding))
    return np.asarray(held / held.sum())


def filled(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Frames (..., n, H, W, 3) with black ones behind them, `count` in all."""
    axes = frames.ndim
    missing = count - frames.shape[axes - 4]
    return np.pad(frames, [(0, missing if axis == axes - 4 else 0) for axis in range(axes)])


def _near(position: int, frames_per_call: int) -> int:
    """A position that fits 32 bits: far behind its start a stream is the same everywhere."""
    return min(position, _FAR - _FAR % frames_per_call)
