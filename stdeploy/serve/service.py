"""From an artifact to a service, and from a video to an answer: who decodes when, on which thread.

Each video is worked on by a thread of its own, which runs the same `Classifier` as the command
line: its clips are read by a `DecodePool`, and the network is the one that all share. So HTTP
gives the numbers that the library gives.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.files import sha256_of
from stdeploy.artifacts.golden import golden_clip
from stdeploy.backends.base import Runtime
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import VideoError
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.inference.prediction import Prediction
from stdeploy.inference.timeline import Cell, Timeline, TimelineOptions
from stdeploy.serve.admission import DurationEstimator
from stdeploy.serve.batch_runner import BatchRunner, SharedRuntime, UnwantedError
from stdeploy.serve.monitoring import Metrics
from stdeploy.serve.scheduling import ClientSlots, Job
from stdeploy.serve.settings import ServeSettings
from stdeploy.video.clips import ClipRequest, Clips
from stdeploy.video.decode_pool import (
    DecodePool,
    DecoderKilledError,
    DecoderLostError,
    NoDecoderError,
)
from stdeploy.video.decoder import DecoderName
from stdeploy.video.libraries import decodes_on_gpu
from stdeploy.video.limits import Limits

_log = logging.getLogger(__name__)
_AHEAD = 2  # videos whose clips are ready or in the network, beside those that are decoded
_MOST_ATTEMPTS = 4  # to have a video decoded, where processes are ended by no fault of it
_MOST_CRASHES = 2
_ASK_AGAIN_SECONDS = 0.05
_GPU_BATCH = 8

Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What answers.

    Attributes:
        name: of the artifact's file, without its suffix.
        sha256: of the file.
        card: of the artifact.
    """

    name: str
    sha256: str
    card: ModelCard


class Service:
    """Classifies videos and clips of many requests at once.

    Args:
        model: what the network is.
        runner: runs it.
        decode_workers: videos decoded at once.
        limits: of each video.
        views: clips that are averaged where a request does not say; None takes the model's.
        max_batch: clips of one video that are offered to the network together.
        durations: are told how long decoding took; the runner tells them as well.
        reader: the library that decodes, see `VideoReader`.
        decoded: is told how many seconds decoding a video took.
        lost: is told of each decoding process that died.
    """

    def __init__(
        self,
        model: Model,
        runner: BatchRunner,
        *,
        decode_workers: int,
        limits: Limits,
        views: int | None,
        max_batch: int,
        durations: DurationEstimator,
        reader: DecoderName = "auto",
        decoded: Callable[[float], None] = lambda _seconds: None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.runner = runner
        self.durations = durations
        self._reader: DecoderName = reader
        on_gpu = decodes_on_gpu(reader) and (
            reader == "nvdec" or runner.runtime.device_type == "cuda"
        )
        self._pool = DecodePool(decode_workers, limits, on_gpu=on_gpu)
        self._decoding = threading.Semaphore(decode_workers)
        self._views = views
        self._max_batch = max_batch
        self._decoded = decoded
        self._lost = lost
        # A timeline holds a decoding process until its end, so half are kept for the others.
        self._timeline_slots = ClientSlots(max(1, decode_workers // 2))
        self._slots = ClientSlots(decode_workers + _AHEAD)
        self._threads = concurrent.futures.ThreadPoolExecutor(
            decode_workers + _AHEAD, thread_name_prefix="video"
        )

    def start(self) -> None:
        """Start the decoding processes, so that the first video need not wait for them.

        Raises:
            VideoError: one does not start.
        """
        self._pool.start()

    def views(self, asked: int | None) -> int:
        """Clips that are averaged for a video, where a request asks for so many (None: none)."""
        return asked or self._views or self.model.card.clip.views

    @property
    def waiting(self) -> int:
        """Videos that wait for a thread."""
        return self._slots.waiting + self._timeline_slots.waiting

    async def classify(self, video: Path, job: Job, *, views: int | None) -> Prediction:
        """Classify a video.

        Args:
            video: a file.
            job: of the request.
            views: clips that are averaged; None takes the server's.

        Raises:
            VideoError: it gives no clip; the message says why.
            UnwantedError: the job was given up, or its deadline has passed.
            NetworkFailedError: the network cannot answer any more.
        """
        options = ClassifyOptions(
            views=views or self._views, batch=self._max_batch, decoder=self._reader
        )
        classifier = self._classifier(job, options)
        return await self._on_thread(job, lambda: classifier.classify(video))

    async def timeline(
        self,
        video: Path,
        job: Job,
        options: TimelineOptions,
        window: Callable[[Cell], None] = lambda _cell: None,
    ) -> Timeline:
        """Classify windows all along a video; raises what `classify` raises.

        Args:
            video: a file.
            job: of the request.
            options: hop and thresholds.
            window: is told, by another thread, of each window that is done.
        """
        options_of_all = ClassifyOptions(batch=self._max_batch, decoder=self._reader)
        classifier = self._classifier(job, options_of_all)
        return await self._on_thread(
            job,
            lambda: classifier.timeline(video, options, window=window),
            first=self._timeline_slots,
        )

    async def infer(self, frames: NDArray[np.uint8], job: Job) -> NDArray[np.float32]:
        """Logits (N, K) of clips (N, T, H, W, 3); raises what `BatchRunner.run` raises."""
        waiting = [asyncio.wrap_future(future) for future in self.runner.submit(frames, job)]
        try:
            return np.stack(await asyncio.gather(*waiting))
        finally:
            self.runner.discard(job)

    def close(self) -> None:
        """End decoding processes and threads; the runner is the caller's."""
        self._pool.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pool.__exit__()

    def _classifier(self, job: Job, options: ClassifyOptions) -> Classifier:
        def read(video: Path, request: ClipRequest) -> Iterator[Clips]:
            return self._read(video, request, job)

        return Classifier(
            SharedRuntime(self.runner, job),
            self.model.card,
            artifact_sha256=self.model.sha256,
            options=options,
            read=read,
        )

    def _read(self, video: Path, request: ClipRequest, job: Job) -> Iterator[Clips]:
        """Read clips when a process is free; again where it dies before it gave any."""
        start = time.monotonic()
        while not self._decoding.acquire(timeout=_ASK_AGAIN_SECONDS):
            if job.unwanted():
                raise UnwantedError
        try:
            job.waited["decoder"] += time.monotonic() - start
            crashes = 0
            for attempt in range(1, _MOST_ATTEMPTS + 1):
                given = False
                start = time.monotonic()
                try:
                    read = self._pool.read_clips(video, request, unwanted=job.unwanted)
                    for clips in _timed(read, job):
                        given = True
                        yield clips
                        if job.unwanted():
                            raise UnwantedError
                    if request.in_one_piece:  # else the network's time lies between
                        seconds = time.monotonic() - start
                        self._decoded(seconds)
                        self.durations.decoded(job.client, seconds)
                    return
                except DecoderLostError as error:
                    self._lost()
                    _log.warning("a decoding process died: %s", error)
                    crashes += not isinstance(error, (DecoderKilledError, NoDecoderError))
                    if job.unwanted():
                        raise UnwantedError from error
                    if given or crashes == _MOST_CRASHES or attempt == _MOST_ATTEMPTS:
                        raise
        finally:
            self._decoding.release()

    async def _on_thread(
        self, job: Job, work: Callable[[], Answer], *, first: ClientSlots | None = None
    ) -> Answer:
        """Call `work` on a thread when it is the client's turn, first in `first`.

        Whoever waits may be cancelled at once; slots are held until the thread has ended.
        """
        start = time.monotonic()
        started = False

        def run() -> Answer:
            try:
                return work()
            except VideoError:
                if job.unwanted():
                    raise UnwantedError from None  # it is no fault of the video
                raise

        async def hold_slot() -> Answer:
            nonlocal started
            async with contextlib.AsyncExitStack() as held:
                for slots in (*([first] if first else []), self._slots):
                    await held.enter_async_context(slots.hold(job))
                started = True
                job.start()
                if job.unwanted():
                    raise UnwantedError
                job.waited["slot"] += time.monotonic() - start
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, run)

        task = asyncio.ensure_future(hold_slot())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            job.give_up()
            self.runner.discard(job)
            if not started:
                task.cancel()  # out of the queue
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise


def model_of(artifact: Path) -> Model:
    """What an artifact is, before it is opened.

    Raises:
        ArtifactError: it is none.
    """
    card = read_card(artifact)
    return Model(name=artifact.stem, sha256=sha256_of(artifact), card=card)


def open_service(
    settings: ServeSettings, artifact: Path, model: Model, metrics: Metrics
) -> Service:
    """Open an artifact, let it answer its golden clip, and start what decodes.

    Args:
        settings: of the server.
        artifact: the file.
        model: see `model_of`.
        metrics: are told what happens.

    Raises:
        ArtifactError: the artifact cannot be used.
        BackendError: what runs it is not there.
        VideoError: a decoding process does not start.
    """
    runtime = open_runtime(artifact, model.card, settings.runtime_options)
    on_gpu = runtime.device_type == "cuda"
    # On a CPU larger batches gain nothing, and could change the last bit of an answer.
    max_batch = settings.max_batch or (_GPU_BATCH if on_gpu else 1)
    durations = DurationEstimator(_clip_seconds(runtime, model.card), decoders=settings.workers)

    def ran(clips: int, seconds: float) -> None:
        durations.ran(clips, seconds)
        metrics.ran(clips, seconds)

    runner = BatchRunner(
        runtime,
        max_batch=max_batch,
        max_delay_seconds=settings.max_delay_ms / 1e3,
        ran=ran,
    )
    service = Service(
        model,
        runner,
        decode_workers=settings.workers,
        limits=settings.limits,
        views=settings.views,
        max_batch=max_batch,
        durations=durations,
        reader=settings.reader,
        decoded=metrics.decode.observe,
        lost=metrics.decoders_lost.inc,
    )
    try:
        service.start()
    except BaseException:
        service.close()
        runner.close()
        raise
    metrics.opened(
        model.name,
        model.sha256,
        runtime,
        videos_waiting=lambda: service.waiting,
        clips_waiting=lambda: runner.waiting,
    )
    return service


def _clip_seconds(runtime: Runtime, card: ModelCard) -> float:
    """What a clip takes, so that the first requests are let in by a measurement as well."""
    clip = golden_clip(0, card.clip.frames_shape)[None]
    start = time.monotonic()
    runtime.run(clip)
    return time.monotonic() - start


def _timed(read: Iterator[Clips], job: Job) -> Iterator[Clips]:
    """The same clips; the job is told how long each took to come."""
    start = time.monotonic()
    for clips in read:
        job.worked["decode"] += time.monotonic() - start
        yield clips
        start = time.monotonic()
