"""Decoding files that are not trusted, in processes that can be killed.

FFmpeg has had faults that a file can use, and a file can be made to cost hours or gigabytes. So
each worker has limits of its own (`decode_worker`), and this side has a clock: a worker that
crosses a limit is killed, its video gets an error, and a new one takes its place.
"""

import contextlib
import math
import os
import queue
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stdeploy.errors import SpecError, VideoError
from stdeploy.video import decode_worker
from stdeploy.video.clips import ClipRequest, Clips
from stdeploy.video.containers import CAPTURE_OPTIONS, capture_options
from stdeploy.video.flaws import Flaws
from stdeploy.video.limits import Limits
from stdeploy.video.messages import BrokenMessageError, receive, send

_STARTING_SECONDS = 60.0
_STARTING_SECONDS_ON_GPU = 180.0
_NONSENSE = "made the process that decodes it talk nonsense"
_GIVEN_UP = "was not decoded, because the work was ended"
_LONGEST_ERROR = 500
_MOST_BYTES = 2**31  # of frames in one message
_ASK_AGAIN_SECONDS = 0.05
_VARIABLES = frozenset(("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "VIRTUAL_ENV"))


class DecoderLostError(VideoError):
    """The process that decoded a video has crashed, perhaps by a fault in the file."""


class DecoderKilledError(DecoderLostError):
    """Someone else ended the process, or the system did for want of memory."""


class NoDecoderError(DecoderLostError):
    """The process died before it saw the file."""


class DecodePool:
    """Processes that decode; a context manager. Threads may share one.

    Args:
        workers: processes; as many videos are decoded at once.
        limits: for each video.
        on_gpu: let processes use a GPU, where requests ask for it. They decode, resize and crop
            there, and give frames of clips as ever.
    """

    def __init__(self, workers: int, limits: Limits, *, on_gpu: bool = False) -> None:
        self._limits, self._on_gpu = limits, on_gpu
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        for _ in range(workers):
            self._idle.put(None)  # started when it is needed

    def read_clips(
        self,
        video: Path,
        request: ClipRequest,
        *,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> Iterator[Clips]:
        """Like `stdeploy.video.clips.read_clips`, within the limits.

        Waits until a worker is free. The time that passes until the caller wants the next clips
        does not count.

        Args:
            video: a file.
            request: which clips.
            unwanted: is asked again and again; the work ends where it says yes.

        Raises:
            VideoError: the video gives no clip, or not within the limits, or is not wanted any
                more; `DecoderLostError` where the process died.
            SpecError: a GPU is asked for, and the processes have none.
        """
        if not self._on_gpu:
            if request.decoder == "nvdec":
                raise SpecError(
                    "these processes decode on the CPU; make the DecodePool with on_gpu=True"
                )
            request = request.model_copy(update={"large_on_gpu": False})
        worker = self._free_worker(unwanted)
        try:
            if worker is not None and worker.ended:
                self._drop(worker)  # killed while it was idle: no fault of this video
                worker = None
            worker = worker or self._new_worker()
            if self._closed:
                raise VideoError(_GIVEN_UP)
            yield from worker.read_clips(video, request, unwanted)
        finally:
            if worker is not None and (self._closed or not worker.idle):
                self._drop(worker)
                worker = None
            self._idle.put(worker)

    def start(self) -> None:
        """Start all workers now, so that no video has to wait for it.

        Raises:
            NoDecoderError: one does not start.
        """
        free = [self._idle.get() for _ in range(self._idle.qsize())]
        try:
            for place, worker in enumerate(free):
                if worker is None:
                    free[place] = self._new_worker()
        finally:
            for worker in free:
                self._idle.put(worker)

    def close(self) -> None:
        """Kill all workers; whoever waits for one of them gets an error."""
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.stop()

    def _free_worker(self, unwanted: Callable[[], bool]) -> "_Worker | None":
        while True:
            try:
                return self._idle.get(timeout=_ASK_AGAIN_SECONDS)
            except queue.Empty:
                if unwanted():
                    raise VideoError(_GIVEN_UP) from None

    def _new_worker(self) -> "_Worker":
        worker = _Worker(self._limits, on_gpu=self._on_gpu)
        with self._lock:
            self._all.add(worker)
        return worker

    def _drop(self, worker: "_Worker") -> None:
        worker.kill()
        with self._lock:
            self._all.discard(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        with self._lock:
            for worker in self._all:
                worker.kill()
            self._all.clear()


class _Worker:
    """One process and its pipes.

    Attributes:
        idle: it has answered in full and can take the next video.
    """

    def __init__(self, limits: Limits, *, on_gpu: bool) -> None:
        self.idle = False
        self._limits = limits
        self._process = subprocess.Popen(
            # -P: a file named like a module may lie beside the videos.
            [sys.executable, "-P", "-m", "stdeploy.video.decode_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={name: value for name, value in os.environ.items() if may_know(name, on_gpu=on_gpu)}
            | {
                CAPTURE_OPTIONS: capture_options(streams=limits.streams),
                # Address space is limited, and threads would reserve it.
                "OPENBLAS_NUM_THREADS": "1",
                "MALLOC_ARENA_MAX": "2",
            },
            start_new_session=True,  # Ctrl-C is for the program, which then ends its workers
        )
        self._left = _STARTING_SECONDS_ON_GPU if on_gpu else _STARTING_SECONDS
        self._token = ""
        self._unwanted: Callable[[], bool] = lambda: False
        try:
            self._send(limits.to_message() | {decode_worker.ON_GPU: on_gpu})
            if not self._receive()[0].get("ready"):
                raise VideoError(_NONSENSE)
        except BaseException as error:
            self.kill()
            if isinstance(error, VideoError):
                raise NoDecoderError(
                    "cannot be decoded: the process for it does not start"
                ) from error
            raise

    def read_clips(
        self, video: Path, request: ClipRequest, unwanted: Callable[[], bool]
    ) -> Iterator[Clips]:
        """See `DecodePool`."""
        self.idle = False
        self._unwanted = unwanted
        self._left = self._limits.wall_seconds
        # A process that a file has got hold of cannot answer for the next one.
        self._token = secrets.token_hex(16)
        self._send(
            {
                "token": self._token,
                "video": str(video.absolute()),
                "request": request.model_dump(mode="json"),
            }
        )
        given = 0
        while True:
            message, frames = self._receive()
            if frames is None:
                if "error" in message:
                    self.idle = True
                    raise VideoError(printable(str(message["error"])))
                if given == 0 and request.in_one_piece:
                    raise VideoError(_NONSENSE)
                self.idle = True
                return
            given += 1
            if given > 1 and request.in_one_piece:
                raise VideoError(_NONSENSE)
            yield _clips(message, frames, request)

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the process and what it has started; it holds nothing that would be lost."""
        self.stop()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def stop(self) -> None:
        """Send the process its end; who reads from it sees that."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # what ended it is found when nothing comes
            send(self._process.stdin, message)  # type: ignore[arg-type]

    def _receive(self) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        try:
            message, frames = receive(self._read_into, most_bytes=_MOST_BYTES)
        except BrokenMessageError as error:
            raise VideoError(_NONSENSE) from error
        if message.get("token", "") != self._token:
            raise VideoError(_NONSENSE)
        return message, frames

    def _read_into(self, buffer: memoryview) -> None:
        """Fill a buffer while there is time left.

        Raises:
            VideoError: there is none, or the process has ended.
        """
        assert self._process.stdout
        output = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while buffer:
                start = time.monotonic()
                if self._left <= 0:
                    raise VideoError(
                        f"took more than {self._limits.wall_seconds:g} s to decode, "
                        "and was given up"
                    )
                if self._unwanted():
                    raise VideoError(_GIVEN_UP)
                ready = selector.select(min(self._left, _ASK_AGAIN_SECONDS))
                count = os.readv(output, [buffer]) if ready else None
                self._left -= time.monotonic() - start
                if count is None:
                    continue
                if count == 0:
                    raise self._ending()
                buffer = buffer[count:]

    def _ending(self) -> VideoError:
        """Why the process is no more."""
        status = self._process.wait()
        if status == -signal.SIGXCPU:
            return VideoError(
                f"took more than {self._limits.cpu_seconds} s of processor time to decode, and was "
                "given up"
            )
        if status == -signal.SIGKILL:
            return DecoderKilledError(
                "made the process that decodes it end (killed, perhaps for want of memory)"
            )
        ended = f"signal {-status}" if status < 0 else f"status {status}"
        return DecoderLostError(f"made the process that decodes it crash ({ended})")


def _clips(message: dict[str, Any], frames: NDArray[np.uint8], request: ClipRequest) -> Clips:
    """What was sent, if it is what was asked for."""
    clip = request.clip
    try:
        times = np.asarray(message["times"], dtype=np.float64)
        duration = float(message["duration"])
        flaws = Flaws.parse(message["flaws"])
        shots = None
        if request.shortest_shot_seconds is not None:
            shots = np.asarray(message["shots"], dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError, SpecError) as error:
        raise VideoError(_NONSENSE) from error
    length = clip.num_frames if request.chunk_frames is None else request.chunk_frames
    if (
        frames.ndim != 5
        or not 1 <= len(frames) <= max(request.views * request.crops, request.group)
        or not 1 <= frames.shape[1] <= length
        or frames.shape[2:] != (clip.crop_px, clip.crop_px, 3)
        or times.shape != frames.shape[:2]
        or not np.isfinite(times).all()
        or not math.isfinite(duration)
        or (shots is not None and not (shots.shape == times.shape[:1] and np.isfinite(shots).all()))
    ):
        raise VideoError(_NONSENSE)
    flaws = flaws.model_copy(update={"notes": tuple(map(printable, flaws.notes))})
    return Clips(frames, times, duration, flaws, shots)


def may_know(variable: str, *, on_gpu: bool) -> bool:
    """Whether a process that a file may get hold of sees a variable: no keys, no tokens."""
    kinds = ("LC_", "OPENCV_", "PYTHON", *(("CUDA_", "NVIDIA_") if on_gpu else ()))
    return variable in _VARIABLES or variable.startswith(kinds)


def printable(text: str) -> str:
    """Without what could steer a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:_LONGEST_ERROR])
