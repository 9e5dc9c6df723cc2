"""What every request that wants an answer passes: admission, upload, deadline, and who has left."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from stdeploy.errors import VideoError
from stdeploy.serve.admission import (
    Admission,
    DurationEstimator,
    NotAdmittedError,
    Place,
    client_name,
)
from stdeploy.serve.batch_runner import NetworkFailedError, UnwantedError
from stdeploy.serve.errors import MOST_SHOWN, RequestError
from stdeploy.serve.health import ServerHealth
from stdeploy.serve.monitoring import Metrics
from stdeploy.serve.scheduling import Job
from stdeploy.serve.service import Service
from stdeploy.serve.settings import ServeSettings
from stdeploy.serve.uploads import Budget, UploadFolder, VideoBody, too_large
from stdeploy.video.decode_pool import DecoderKilledError, NoDecoderError

Answer = TypeVar("Answer")
_GRACE_SECONDS = 5.0  # before it matters how fast a body comes
_BODIES_IN_MEMORY = 8  # of the largest size


class GoneError(Exception):
    """The client has left; there is no one to answer."""


class RequestGate:
    """One for all requests of a server.

    Args:
        settings: limits.
        uploads: where videos are kept.

    Attributes:
        metrics: are told how long things took.
        health: knows whether there is a network.
    """

    def __init__(self, settings: ServeSettings, uploads: UploadFolder) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._admission = Admission(
            settings.max_requests, slots=settings.workers, patience=settings.request_seconds
        )
        self.health = ServerHealth(self._admission, self.metrics, settings.network_seconds)
        self._uploads = uploads
        self._receiving = 0
        self._on_disk = Budget(settings.max_held_bytes)
        self._in_memory = Budget(_BODIES_IN_MEMORY * settings.max_body_bytes)

    @property
    def inside(self) -> int:
        """Requests that have no answer yet, those included whose bodies are coming."""
        return self._admission.inside + self._receiving

    def service(self) -> Service:
        """What answers.

        Raises:
            RequestError: not yet, or not any more.
        """
        if self.health.phase == "draining":
            raise RequestError(
                "draining", "the server is about to stop; ask another", retry_after_seconds=5
            )
        if self.health.service is None:
            raise RequestError(
                "starting", "the model is being opened; ask again soon", retry_after_seconds=2
            )
        if self.health.failure is not None:
            raise _failed()
        return self.health.service

    @contextlib.contextmanager
    def admitted(
        self, request: Request, durations: DurationEstimator, clips: float
    ) -> Iterator[Place]:
        """Count a request while it is worked on; its body is here already.

        A body that comes slowly takes no room from requests that could be answered.

        Args:
            request: its client is whom it counts for.
            durations: of requests to what answers.
            clips: that it needs; infinite where nobody can tell yet.

        Raises:
            RequestError: there is no room for it.
        """
        client = client_of(request)
        try:
            place = self._admission.enter(client, durations.seconds(client, clips))
        except NotAdmittedError as error:
            raise _not_admitted(error) from error
        try:
            yield place
        finally:
            self._admission.leave(place)

    @contextlib.asynccontextmanager
    async def in_time(self, job: Job) -> AsyncIterator[None]:
        """Let work go on until its deadline, or until its place is taken back.

        Raises:
            TimeoutError: its deadline has passed.
            RequestError: its place was taken back.
        """
        place = job.place
        try:
            async with asyncio.timeout_at(job.deadline) as limit:

                def end() -> None:
                    if not limit.expired():
                        limit.reschedule(-math.inf)

                place.on_taken_back = end
                if place.taken_back is not None:
                    end()
                yield
        except TimeoutError as error:
            if place.taken_back is not None:
                raise _not_admitted(place.taken_back) from error
            raise
        finally:
            place.on_taken_back = lambda: None

    @contextlib.asynccontextmanager
    async def upload(self, request: Request) -> AsyncIterator[tuple[Path, VideoBody]]:
        """Receive the video of a request into a file that is gone when the block ends.

        Raises:
            RequestError: too large, too slow, or no video.
            GoneError: the client has left.
        """
        content_type = request.headers.get("content-type")
        limit = self.settings.max_body_bytes
        start = time.monotonic()
        with (
            self._uploads.new_file() as (path, file),
            self._on_disk.account(client_of(request)) as hold,
        ):
            body = VideoBody(content_type, file, max_bytes=limit, hold=hold)
            async for chunk in self._body(request, limit):
                body.feed(chunk)
            body.end()
            self.metrics.upload.observe(time.monotonic() - start)
            self.metrics.upload_bytes.observe(body.received_bytes)
            yield path, body

    @contextlib.asynccontextmanager
    async def body(
        self, request: Request, limit: int, too_large: Callable[[int], RequestError]
    ) -> AsyncIterator[bytearray]:
        """Receive the body of a request into memory; raises what `upload` raises.

        Args:
            request: its body has not been read.
            limit: bytes that are allowed.
            too_large: what is said where there are more.
        """
        with self._in_memory.account(client_of(request)) as hold:
            body = bytearray()
            async for chunk in self._body(request, limit, too_large):
                hold(len(chunk))
                body += chunk
            yield body

    async def answer(self, request: Request, job: Job, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Wait for work until its deadline, while the client is there.

        Raises:
            RequestError: too late, undecodable, or the network failed.
            GoneError: the client has left.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(disconnected(request))
        try:
            async with self.in_time(job):
                await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise GoneError
            return task.result()
        except RequestError:
            raise
        except Exception as error:
            raise refusal_of(error) from error
        finally:
            job.give_up()
            gone.cancel()
            task.cancel()

    async def _body(
        self, request: Request, limit: int, too_large: Callable[[int], RequestError] = too_large
    ) -> AsyncIterator[bytes]:
        """The body, piece by piece, within size and time."""
        _check_encoding(request.headers.get("content-encoding", ""))
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise too_large(limit)
        received = 0
        self._receiving += 1
        start = asyncio.get_running_loop().time()
        whole, slowest = self.settings.upload_seconds, self.settings.min_upload_bytes_per_second

        def allowed_seconds() -> float:
            return min(whole, _GRACE_SECONDS + received / slowest) if slowest else whole

        try:
            async with asyncio.timeout_at(start + allowed_seconds()) as clock:
                async for chunk in request.stream():
                    received += len(chunk)
                    if received > limit:
                        raise too_large(limit)
                    clock.reschedule(start + allowed_seconds())
                    yield chunk
        except TimeoutError as error:
            raise RequestError(
                "too_slow",
                f"the body took longer than {whole:g} s to come"
                if allowed_seconds() == whole
                else f"the body came slower than {slowest} bytes a second",
            ) from error
        except ClientDisconnect as error:
            raise GoneError from error
        finally:
            self._receiving -= 1


def _check_encoding(encoding: str) -> None:
    """Bodies are taken as they are: what is compressed could grow without a limit.

    Raises:
        RequestError: it is compressed.
    """
    if encoding.strip().lower() not in ("", "identity"):
        raise RequestError(
            "unsupported_type",
            f"the content encoding is {encoding[:MOST_SHOWN]!r}; send the body without one",
            headers={"Accept-Encoding": "identity"},
        )


def client_of(request: Request) -> str:
    """Whose share a request counts for."""
    return client_name(request.client.host) if request.client else ""


async def disconnected(request: Request) -> None:
    """Return when the client has left; the body has to be read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refusal_of(error: Exception) -> Exception:
    """What the client is told of an error; others stay as they are."""
    if isinstance(error, (DecoderKilledError, NoDecoderError)):
        return RequestError(
            "no_decoder", "the processes that decode videos do not live", retry_after_seconds=5
        )
    if isinstance(error, VideoError):
        return RequestError("undecodable", f"the video {error}")
    if isinstance(error, NetworkFailedError):
        return _failed()
    if isinstance(error, (TimeoutError, UnwantedError)):
        return RequestError(
            "deadline",
            "the answer was not ready in time; ask again later, or for fewer views",
        )
    return error


def _failed() -> RequestError:
    return RequestError("failed", "the network failed; the server has to be started again")


def _not_admitted(error: NotAdmittedError) -> RequestError:
    sentence = (
        "this client has more requests under way than others, who ask too"
        if error.reason == "over_share"
        else "the server is full"
    )
    seconds = error.retry_after_seconds
    return RequestError(
        error.reason, f"{sentence}; ask again in {seconds} s", retry_after_seconds=seconds
    )
