"""The network and the one thread that runs it."""

import concurrent.futures
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.frames import Frames, on_host
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import ClosesOnExit, DeviceType, Runtime
from stdeploy.serve.scheduling import ClipBatcher, Job

_log = logging.getLogger(__name__)
_ASK_AGAIN_SECONDS = 0.05
_LAST_SECONDS = 10.0


class UnwantedError(Exception):
    """Work that was given up, or is past its deadline, and has not been done."""


class NetworkFailedError(Exception):
    """The network cannot answer any more; only a new process can."""


@dataclasses.dataclass(eq=False)
class _Clip:
    frames: NDArray[np.uint8]
    job: Job
    since: float
    logits: "concurrent.futures.Future[NDArray[np.float32]]"


class BatchRunner:
    """Runs clips of many requests in common batches, on a thread of its own.

    A runtime that raises has failed for good: a CUDA error, for example, spoils the process. All
    requests then get `NetworkFailedError`, and `failure` says that it is so.

    Args:
        runtime: an opened one; closed with this.
        max_batch: see `ClipBatcher`.
        max_delay_seconds: likewise.
        ran: is told, by that thread, how many clips a batch had and how many seconds it took.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        max_batch: int,
        max_delay_seconds: float,
        ran: Callable[[int, float], None] = lambda _clips, _seconds: None,
    ) -> None:
        self.runtime = runtime
        self.failure: str | None = None
        self._ran = ran
        self._batcher: ClipBatcher[_Clip] = ClipBatcher(max_batch, max_delay_seconds)
        self._changed = threading.Condition()
        self._closed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Clips that wait."""
        return len(self._batcher)

    def busy_seconds(self) -> float:
        """How long the batch that is in the network has been there; 0 where none is."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def submit(
        self, frames: NDArray[np.uint8], job: Job
    ) -> "list[concurrent.futures.Future[NDArray[np.float32]]]":
        """Let clips wait for their turn.

        Args:
            frames: uint8 (N, T, H, W, 3).
            job: of the request.

        Returns:
            Futures of the logits (K,) of each; `UnwantedError` and `NetworkFailedError` come
            through them.
        """
        now = time.monotonic()
        clips = [_Clip(each, job, now, concurrent.futures.Future()) for each in frames]
        for clip in clips:
            # Whoever waits may be cancelled; the future itself is this thread's to answer.
            clip.logits.set_running_or_notify_cancel()
        with self._changed:
            if job.unwanted():
                for clip in clips:
                    clip.logits.set_exception(UnwantedError())
            elif self._closed or self.failure is not None:
                for clip in clips:
                    clip.logits.set_exception(NetworkFailedError())
            else:
                for clip in clips:
                    self._batcher.add(clip, client=job.client, deadline=job.deadline, now=now)
                self._changed.notify()
        return [clip.logits for clip in clips]

    def run(self, frames: NDArray[np.uint8], job: Job) -> NDArray[np.float32]:
        """Logits (N, K) of clips; blocks.

        Raises:
            UnwantedError: the job was given up, or its deadline has passed.
            NetworkFailedError: see above.
        """
        waiting = self.submit(frames, job)
        while concurrent.futures.wait(waiting, _ASK_AGAIN_SECONDS).not_done:
            if job.unwanted():
                self.discard(job)
                raise UnwantedError
        return np.stack([future.result() for future in waiting])

    def discard(self, job: Job) -> None:
        """Take the clips of a job that is not wanted any more out of the queue."""
        with self._changed:
            for clip in self._batcher.remove(lambda clip: clip.job is job):
                clip.logits.set_exception(UnwantedError())

    def close(self) -> None:
        """End the thread after the batch that it is at, and close the runtime."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_LAST_SECONDS)
        if not self._thread.is_alive():  # else it is inside the runtime
            self.runtime.close()

    def _work(self) -> None:
        batch: list[_Clip] | None = []
        try:
            while (batch := self._next()) is not None:
                self._run(batch)
        except BaseException as error:  # whatever it is, this process cannot go on with it
            _log.exception("the network failed")
            self._fail(batch or (), type(error).__name__)
        finally:
            self._busy_since = None

    def _run(self, batch: Sequence[_Clip]) -> None:
        self._busy_since = start = time.monotonic()
        for job, since in {clip.job: clip.since for clip in batch}.items():
            # Not the time in which other clips of the same request were in the network.
            job.start()
            job.waited["network"] += max(0.0, start - max(since, job.left_network))
        logits = self.runtime.run(_together(batch))
        self._busy_since = None
        end = time.monotonic()
        self._ran(len(batch), end - start)
        for clip, row in zip(batch, logits, strict=True):
            clip.job.left_network = end
            clip.logits.set_result(row)

    def _next(self) -> list[_Clip] | None:
        """Wait for a batch; None when it is over."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for clip in self._batcher.expire(now):
                    clip.logits.set_exception(UnwantedError())
                due = self._batcher.due(now)
                if due == 0:
                    return self._batcher.take()
                self._changed.wait(due)
            self._refuse_all()
        return None

    def _fail(self, batch: Sequence[_Clip], reason: str) -> None:
        with self._changed:
            self.failure = reason
            for clip in batch:
                if not clip.logits.done():
                    clip.logits.set_exception(NetworkFailedError())
            self._refuse_all()

    def _refuse_all(self) -> None:
        while batch := self._batcher.take():
            for clip in batch:
                clip.logits.set_exception(NetworkFailedError())


class SharedRuntime(ClosesOnExit):
    """The network as one request sees it: a `Runtime`.

    Args:
        runner: of the network that all requests share; not closed with this.
        job: of the request.
    """

    def __init__(self, runner: BatchRunner, job: Job) -> None:
        self.name: str = runner.runtime.name
        self.device: str = runner.runtime.device
        self.device_type: DeviceType = runner.runtime.device_type
        self.precision: Precision = runner.runtime.precision
        self._runner = runner
        self._job = job

    def run(self, frames: Frames) -> NDArray[np.float32]:
        """See `BatchRunner.run`."""
        job = self._job
        start, waited = time.monotonic(), job.waited["network"]
        logits = self._runner.run(on_host(frames), job)
        waited = job.waited["network"] - waited
        job.worked["infer"] += time.monotonic() - start - waited
        return logits


def _together(batch: Sequence[_Clip]) -> NDArray[np.uint8]:
    # One clip needs no copy.
    return batch[0].frames[None] if len(batch) == 1 else np.stack([c.frames for c in batch])
