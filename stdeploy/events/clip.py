"""A sink: the video around each event, written by PyAV from the frames of the last seconds.

Frames are kept as JPEG, because a second of raw ones takes tens of megabytes; one serves every
event that it belongs to.
"""

import contextlib
import dataclasses
import json
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from stdeploy.artifacts.files import whole_file
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.events.event import Event, iso
from stdeploy.events.sink import Recorder, Report, SinkCounts, SinkSettings
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    import av

_MIB = 2**20
_SLACK_SECONDS = 10.0  # from the last frame of an answer to what a rule says of it
_TRIES, _PAUSE_SECONDS = 3, 1.0
_MOST_WAITING_BYTES = 256 * _MIB
# One thread, so that the network keeps the others; and no frame waits in the encoder, so that the
# size of the file is known as it grows.
_X264 = {"preset": "veryfast", "tune": "zerolatency", "threads": "1"}
# Of files of ours: source, rule, start, the beginning of the event's id.
_NAME = re.compile(r".+_.+_\d{8}T\d{6}\.\d{3}Z_[0-9a-f]{8}\.mp4")


class ClipSettings(SinkSettings):
    """A video of each event, as SOURCE_RULE_START_EVENT.mp4.

    Attributes:
        folder: where the videos go; it is made.
        before_seconds: from there to the start of the event.
        after_seconds: from its end to there.
        longest_seconds: of one video; an event that is longer is cut off.
        fps: frames of a second that are kept, at most.
        longest_px: of the longer side; larger frames are made smaller.
        buffer_bytes: of the frames that one source keeps in memory.
        max_clip_bytes: of one video; it is cut off there.
        max_folder_bytes: of all of them; the oldest are deleted to make room.
    """

    folder: Path = Path("clips")
    before_seconds: FiniteFloat = Field(default=5.0, ge=0, le=600)
    after_seconds: FiniteFloat = Field(default=5.0, ge=0, le=600)
    longest_seconds: FiniteFloat = Field(default=60.0, gt=0, le=3600)
    fps: FiniteFloat = Field(default=12.5, gt=0, le=120)
    longest_px: int = Field(default=640, ge=16, le=7680)
    buffer_bytes: int = Field(default=64 * _MIB, ge=_MIB)
    max_clip_bytes: int = Field(default=32 * _MIB, ge=65536)
    max_folder_bytes: int = Field(default=10 * 1024 * _MIB, ge=_MIB)

    def open(self, name: str, *, least_seconds: float, report: Report) -> "ClipRecorder":
        """The recorder.

        Args:
            name: of the sink.
            least_seconds: how late a rule says that an event has begun, at most.
            report: is told in words what goes wrong.

        Raises:
            SpecError: the folder cannot be made.
            MissingExtraError: PyAV is not installed.
        """
        require("av", extra="pyav", purpose=f"writing clips (sink {name!r})")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpecError(
                f"sink {name!r}: folder = {str(self.folder)!r} cannot be made: {error.strerror}"
            ) from error
        return ClipRecorder(self, name, least_seconds, report)


@dataclasses.dataclass(frozen=True)
class _Frame:
    seconds: float
    jpeg: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass
class _Clip:
    """The frames of an event, as they come.

    Attributes:
        event: its start; once it has ended, its end.
        frames: so far.
        until: seconds by the clock of the stream; later frames do not belong to it.
        overdue: `time.monotonic()` when it is finished although no such frame came.
    """

    event: Event
    frames: list[_Frame]
    until: float
    overdue: float

    @property
    def size(self) -> int:
        return sum(len(frame.jpeg) for frame in self.frames)


class _Source:
    """The last frames of one source, and the clips that are going on in it."""

    def __init__(self) -> None:
        self.ring: deque[_Frame] = deque()
        self.size = 0
        self.due = -np.inf
        self.clips: dict[str, _Clip] = {}


class ClipRecorder(Recorder):
    """Keeps the last frames of every source, and writes those of events in a thread of its own.

    Args:
        settings: see there.
        name: of the sink.
        least_seconds: how late a rule says that an event has begun, at most.
        report: is told in words what goes wrong.
    """

    def __init__(
        self, settings: ClipSettings, name: str, least_seconds: float, report: Report
    ) -> None:
        self._settings, self._name, self._report = settings, name, report
        self._keep_seconds = settings.before_seconds + least_seconds + _SLACK_SECONDS
        self._sources: dict[str, _Source] = {}
        self._lock = threading.Condition()
        self._waiting: deque[_Clip] = deque()
        self._written = self._retried = self._dropped = 0
        self._busy = self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"clips {name}", daemon=True)
        self._thread.start()

    def tap(self, source: str, jpeg: bytes, seconds: float) -> None:
        """Keep a frame. Returns at once.

        Args:
            source: its name.
            jpeg: the frame.
            seconds: when it is shown, by the clock of the stream.
        """
        with self._lock:
            kept = self._sources.setdefault(source, _Source())
            if kept.ring and seconds < kept.ring[-1].seconds:  # the clock went back
                self._cut(kept)
            interval = 1 / self._settings.fps
            kept.due = seconds if np.isinf(kept.due) else kept.due
            if seconds >= kept.due - interval / 100:
                kept.due = max(kept.due + interval, seconds + interval / 2)
                self._keep(kept, _Frame(seconds, jpeg))

    def take(self, event: Event) -> None:
        """See `Recorder.take`."""
        with self._lock:
            kept = self._sources.setdefault(event.source, _Source())
            if event.kind == "start":
                begin = event.start.seconds - self._settings.before_seconds
                frames = [frame for frame in kept.ring if frame.seconds >= begin]
                until = begin + self._settings.longest_seconds
                kept.clips[event.event] = _Clip(event, frames, until, np.inf)
            elif (clip := kept.clips.get(event.event)) is not None:
                clip.event = event
                after = self._settings.after_seconds
                if event.end is not None:
                    # Frames come before the answers about them, so some are there that are later.
                    clip.until = min(clip.until, event.end.seconds + after)
                    wanted = [each for each in clip.frames if each.seconds <= clip.until]
                    clip.frames = wanted or clip.frames[:1]
                to_come = event.reason == "score_fell" and after > 0
                clip.overdue = time.monotonic() + (after + _SLACK_SECONDS if to_come else 0.0)
            self._lock.notify_all()

    def counts(self) -> SinkCounts:
        """See `Recorder.counts`."""
        with self._lock:
            clips = [*self._waiting, *(c for s in self._sources.values() for c in s.clips.values())]
            return SinkCounts(
                queued=len(clips) + self._busy,
                queued_bytes=sum(clip.size for clip in clips),
                delivered=self._written,
                retried=self._retried,
                dropped=self._dropped,
            )

    def close(self) -> None:
        """See `Recorder.close`."""
        with self._lock:
            for kept in self._sources.values():
                self._cut(kept)
            self._closing = True
            self._lock.notify_all()
        self._thread.join(timeout=60.0)

    def _keep(self, kept: _Source, frame: _Frame) -> None:
        """Add a frame to the ring, which forgets the oldest, and to the clips that want it."""
        kept.ring.append(frame)
        kept.size += len(frame.jpeg)
        while (
            kept.ring[0].seconds < frame.seconds - self._keep_seconds
            or kept.size > self._settings.buffer_bytes
        ) and len(kept.ring) > 1:
            kept.size -= len(kept.ring.popleft().jpeg)
        for event, clip in list(kept.clips.items()):
            if frame.seconds <= clip.until:
                clip.frames.append(frame)
            else:
                self._finish(kept, event)

    def _cut(self, kept: _Source) -> None:
        """Finish all clips of a source, and forget its frames."""
        for event in list(kept.clips):
            self._finish(kept, event)
        kept.ring.clear()
        kept.size, kept.due = 0, -np.inf

    def _finish(self, kept: _Source, event: str) -> None:
        """Hand a clip to the thread that writes."""
        clip = kept.clips.pop(event)
        if sum(waiting.size for waiting in self._waiting) + clip.size > _MOST_WAITING_BYTES:
            self._dropped += 1
            self._report(
                f"sink {self._name!r}: videos are not written as fast as they come; the one of "
                f"{clip.event.rule!r} in {clip.event.source!r} at {iso(clip.event.start.time)} "
                "is left out"
            )
            return
        self._waiting.append(clip)
        self._lock.notify_all()

    def _run(self) -> None:
        """What the thread does."""
        while True:
            with self._lock:
                now = time.monotonic()
                for kept in self._sources.values():
                    for event in [e for e, clip in kept.clips.items() if clip.overdue <= now]:
                        self._finish(kept, event)
                if not self._waiting:
                    if self._closing:
                        return
                    self._lock.wait(1.0)
                    continue
                clip = self._waiting.popleft()
                self._busy = True
            self._write(clip)
            with self._lock:
                self._busy = False

    def _write(self, clip: _Clip) -> None:
        """Write a clip, and again after a pause where that fails."""
        name = clip_name(clip.event)
        for number in range(1, _TRIES + 1):
            try:
                if not clip.frames:
                    raise ArtifactError(f"there is no frame for {name!r}")
                self._make_room()
                write_clip(
                    self._settings.folder / name,
                    [(frame.seconds, frame.jpeg) for frame in clip.frames],
                    clip.event,
                    longest_px=self._settings.longest_px,
                    max_bytes=self._settings.max_clip_bytes,
                )
            except (ArtifactError, OSError) as error:  # errors of PyAV are OSErrors too
                if number == _TRIES or not clip.frames:
                    self._dropped += 1
                    self._report(f"sink {self._name!r}: no video of an event: {error}")
                    return
                self._retried += 1
                time.sleep(_PAUSE_SECONDS * number)
            else:
                self._written += 1
                return

    def _make_room(self) -> None:
        """Delete the oldest videos of ours until one more fits."""
        files = []
        for path in self._settings.folder.iterdir():
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    files.append((stat.st_mtime_ns, stat.st_size, path))
        files.sort(reverse=True)
        room = self._settings.max_folder_bytes - self._settings.max_clip_bytes
        for _, size, path in files:
            room -= size
            if room < 0:
                path.unlink(missing_ok=True)


def clip_name(event: Event) -> str:
    """The file of an event.

    >>> clip_name(event)
    'front-door_fight_20261128T050000.000Z_1b9d6bcd.mp4'
    """
    start = re.sub("[:-]", "", iso(event.start.time))
    source, rule = (
        re.sub(r"[^\w.]+", "-", name).strip("-.")[:60] or "-" for name in (event.source, event.rule)
    )
    return f"{source}_{rule}_{start}_{event.event[:8]}.mp4"


def write_clip(
    path: Path,
    frames: Sequence[tuple[float, bytes]],
    event: Event,
    *,
    longest_px: int,
    max_bytes: int,
) -> int:
    """Write frames as H.264, each shown as long as it was; whole or not at all.

    Args:
        path: ends in .mp4.
        frames: seconds by the clock of the stream, ascending, with a JPEG; those of another size
            than the first are left out.
        event: noted in the file's comment.
        longest_px: of the longer side; larger frames are made smaller.
        max_bytes: of the file; it ends before.

    Returns:
        Frames written.

    Raises:
        ArtifactError: the folder cannot be written to, or there is no room.
        OSError: frames that cannot be encoded.
    """
    import av

    written = 0
    with (
        whole_file(path) as temporary,
        av.open(str(temporary), "w", options={"movflags": "faststart"}) as container,
    ):
        container.metadata["comment"] = json.dumps(event.to_record())
        stream = container.add_stream("libx264", rate=Fraction(25), options=_X264)
        stream.pix_fmt = "yuv420p"
        # The frames between two moments of a millisecond would have one time.
        stream.codec_context.time_base = base = Fraction(1, 1000)
        last, size = -1, 0
        for seconds, jpeg in frames:
            image = _image(jpeg, longest_px)
            if written == 0:
                stream.height, stream.width = image.shape[:2]
            elif image.shape[:2] != (stream.height, stream.width):
                continue
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = last = max(last + 1, round((seconds - frames[0][0]) * 1000))
            frame.time_base = base
            size += _mux(container, stream.encode(frame))
            written += 1
            if size > 0.9 * max_bytes - len(jpeg):
                break
        _mux(container, stream.encode(None))
    return written


def _image(jpeg: bytes, longest_px: int) -> NDArray[np.uint8]:
    """BGR, with even sides, which the codec wants."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ArtifactError("a frame is no picture")
    height, width = image.shape[:2]
    factor = min(1.0, longest_px / max(height, width))
    size = (max(2, round(width * factor) // 2 * 2), max(2, round(height * factor) // 2 * 2))
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(image, dtype=np.uint8)


def _mux(
    container: "av.container.OutputContainer", packets: "Iterable[av.Packet[av.VideoStream]]"
) -> int:
    """Write packets; how many bytes they are."""
    size = 0
    for packet in packets:
        size += packet.size
        container.mux(packet)
    return size
