"""Logits of the windows of a timeline, in the order of time."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stdeploy.artifacts.frames import on_host
from stdeploy.backends.base import RunsClips
from stdeploy.backends.streams import StreamRuntime
from stdeploy.inference.dense_windows import DenseWindows, Trunk
from stdeploy.inference.ordered_map import prefetch
from stdeploy.inference.prediction import Logits
from stdeploy.inference.stream_windows import StreamWindows
from stdeploy.inference.timeline import TimelineOptions
from stdeploy.video.clips import ClipRequest, Clips, ReadClips
from stdeploy.video.flaws import Flaws
from stdeploy.video.sampling import view_times

_WINDOWS_AHEAD = 2  # groups of windows, or chunks of frames, that wait for the network
_CHUNK_FRAMES = 16
_STRETCH_FRAMES = 64


@dataclasses.dataclass(frozen=True)
class ScoredWindow:
    """A window of a timeline.

    Attributes:
        logits: (K,).
        shot_seconds: when its shot begins.
        duration_seconds: of the video.
        flaws: what is wrong with that.
    """

    logits: Logits
    shot_seconds: float
    duration_seconds: float
    flaws: Flaws


@dataclasses.dataclass(frozen=True)
class WindowScorer:
    """Reads windows all along a video and runs the network on them.

    Attributes:
        runtime: runs the network.
        read: how clips are read.
        request: clip and decoder.
        batch: windows that the network gets at once.
    """

    runtime: RunsClips
    read: ReadClips
    request: ClipRequest
    batch: int

    def windows(self, video: Path, options: TimelineOptions) -> Iterator[ScoredWindow]:
        """Every window by itself."""
        wanted = {"hop_seconds": options.hop_seconds, "group": self.batch}
        for clips in self._read_along(video, wanted, options):
            for number, logits in enumerate(self.runtime.run(clips.frames)):
                yield _scored(logits, clips, number)

    def dense(
        self, video: Path, trunk: Trunk | StreamRuntime, hop_frames: int, options: TimelineOptions
    ) -> Iterator[ScoredWindow]:
        """Windows every `hop_frames` frames of the clip, which share the network's work."""
        clip = self.request.clip
        chunks = self._read_along(video, {"chunk_frames": _CHUNK_FRAMES}, options)
        for _, of_shot in itertools.groupby(chunks, _shot_of):
            windows: DenseWindows | StreamWindows
            if isinstance(trunk, StreamRuntime):
                windows = StreamWindows(trunk, window=clip.num_frames, hop=hop_frames)
            else:
                windows = DenseWindows(
                    trunk, window=clip.num_frames, hop=hop_frames, stretch=_STRETCH_FRAMES
                )
            for clips in of_shot:
                if clips.duration_seconds <= clip.span_seconds:
                    view_times(clips.duration_seconds, clip, 1)  # which may refuse a short video
                for together in windows.add(on_host(clips.frames[0])):
                    yield from (_scored(logits, clips) for logits in together)
            for together in windows.finish():
                yield from (_scored(logits, clips) for logits in together)

    def _read_along(
        self, video: Path, wanted: dict[str, Any], options: TimelineOptions
    ) -> Iterator[Clips]:
        """Clips all along a video, some of them ahead of who takes them."""
        if options.cuts:
            wanted = wanted | {"shortest_shot_seconds": options.hop_seconds}
        request = self.request.model_copy(update=wanted)
        with contextlib.closing(prefetch(self.read(video, request), ahead=_WINDOWS_AHEAD)) as read:
            yield from read


def _shot_of(clips: Clips, number: int = 0) -> float:
    """When the shot of one of the clips begins; the only one begins with the video."""
    return 0.0 if clips.shots_seconds is None else float(clips.shots_seconds[number])


def _scored(logits: Logits, clips: Clips, number: int = 0) -> ScoredWindow:
    """What the network says to one of the clips."""
    return ScoredWindow(logits, _shot_of(clips, number), clips.duration_seconds, clips.flaws)
