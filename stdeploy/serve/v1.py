"""/v1: classify a video, and what classifies it."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from stdeploy.inference.timeline import Cell, TimelineOptions
from stdeploy.serve import monitoring
from stdeploy.serve.errors import REFUSED, Error, RequestError, given_twice, in_words
from stdeploy.serve.request_gate import RequestGate, refusal_of
from stdeploy.serve.scheduling import Job
from stdeploy.serve.schemas import (
    Classified,
    ClassifyOptions,
    End,
    Json,
    Models,
    TimingsMs,
    Window,
    classified,
    model_info,
    over_time,
    timings,
)
from stdeploy.serve.service import Service
from stdeploy.serve.uploads import MULTIPART
from stdeploy.video.flaws import Flaws

_log = logging.getLogger(__name__)
_STILL_THERE_SECONDS = 10.0  # between comments that keep a quiet stream open
_VIDEO = {"type": "string", "format": "binary"}
_FILE = _VIDEO | {"description": "The video; any one part with a filename is taken for it."}
_BODY = {
    "required": True,
    "content": {
        MULTIPART: {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": _FILE} | ClassifyOptions.model_json_schema()["properties"],
                "additionalProperties": False,
            }
        },
        "video/*": {"schema": _VIDEO},
        "application/octet-stream": {"schema": _VIDEO},
    },
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


def routes(gate: RequestGate) -> APIRouter:
    """The routes of /v1."""
    router = APIRouter(prefix="/v1", responses=REFUSED, default_response_class=Json)

    @router.get("/models", summary="What classifies")
    async def models() -> Models:
        service = gate.service()
        return Models(models=[model_info(service.model, service.runner.runtime)])

    @router.post(
        "/classify",
        summary="What happens in this video?",
        response_model=Classified,
        responses=_EVENTS,
        openapi_extra={"requestBody": _BODY},
    )
    async def classify(request: Request, options: Annotated[ClassifyOptions, Query()]) -> Response:
        start = time.monotonic()
        _check_once(request.query_params.multi_items())
        service = gate.service()
        async with contextlib.AsyncExitStack() as held:
            video, body = await held.enter_async_context(gate.upload(request))
            uploaded = time.monotonic()
            options = _whole(options, body.fields)
            slow = options.timeline or options.stream
            # How long a video is shows only when it is decoded.
            clips = math.inf if options.timeline else service.views(options.views)
            place = held.enter_context(gate.admitted(request, service.durations, clips))
            settings = gate.settings
            job = Job(
                place,
                uploaded + (settings.stream_seconds if slow else settings.request_seconds),
            )
            work = _Work(gate, service, request, job, options, video, start, uploaded)
            if options.stream:
                return _Events(work.events(), held.pop_all())
            answer = await gate.answer(request, job, work.answer())
            return Json(answer.model_dump(mode="json"))

    return router


class _Work:
    """One request for /v1/classify whose video is here."""

    def __init__(
        self,
        gate: RequestGate,
        service: Service,
        request: Request,
        job: Job,
        options: ClassifyOptions,
        video: Path,
        start: float,
        uploaded: float,
    ) -> None:
        self._gate = gate
        self._service = service
        self._request = request
        self._job = job
        self._options = options
        self._video = video
        self._start = start
        self._uploaded = uploaded

    async def answer(self) -> Classified:
        """All of it at once."""
        answer = await self._classified()
        if self._options.timeline:
            timeline = await self._service.timeline(self._video, self._job, self._over_time())
            answer.timeline = over_time(timeline)
            answer.timings_ms = self._timings()
        self._observe(answer.timings_ms)
        return answer

    async def events(self) -> AsyncIterator[str]:
        """The same bit by bit, as server-sent events."""
        ready: asyncio.Queue[str | None] = asyncio.Queue()
        producer = asyncio.ensure_future(self._produce(ready))
        breaker = asyncio.ensure_future(self._break_off(producer, ready))
        try:
            while True:
                try:
                    event = await asyncio.wait_for(ready.get(), _STILL_THERE_SECONDS)
                except TimeoutError:
                    event = ": still at it\n\n"
                if event is None:
                    return
                yield event
        finally:
            self._job.give_up()
            producer.cancel()
            breaker.cancel()

    async def _break_off(
        self, producer: "asyncio.Future[None]", ready: asyncio.Queue[str | None]
    ) -> None:
        """Put an error in place of what is still to come, when the server ends."""
        await self._gate.health.over.wait()
        if producer.done():
            return
        sentence = "the server stops before the video is done; ask another"
        ready.put_nowait(self._error(RequestError("draining", sentence)))
        ready.put_nowait(None)

    async def _produce(self, ready: asyncio.Queue[str | None]) -> None:
        loop = asyncio.get_running_loop()

        def emit_window(cell: Cell) -> None:  # called by the thread that works on the video
            window = Window(**cell.to_record())
            loop.call_soon_threadsafe(ready.put_nowait, _event("window", window))

        try:
            async with self._gate.in_time(self._job):
                answer = await self._classified()
                ready.put_nowait(_event("prediction", answer))
                whole: dict[str, Any] = answer.model_dump(include=set(Flaws.model_fields))
                if self._options.timeline:
                    timeline = await self._service.timeline(
                        self._video, self._job, self._over_time(), emit_window
                    )
                    whole = over_time(timeline).model_dump(exclude={"windows"})
                end = End(**whole, timings_ms=self._timings())
                self._observe(end.timings_ms)
                ready.put_nowait(_event("end", end))
        except Exception as error:
            refused = refusal_of(error)
            if not isinstance(refused, RequestError):
                _log.exception("a stream broke")
                refused = RequestError("failed", "the server made a mistake")
            ready.put_nowait(self._error(refused))
        finally:
            ready.put_nowait(None)

    def _error(self, refused: RequestError) -> str:
        """The last event of a stream that failed; the status is out, and was 200."""
        self._gate.metrics.rejections.labels(refused.code).inc()
        self._request.state.refused = refused.code
        error = Error(error=refused.sentence, code=refused.code, request_id=_request_id())
        return _event("error", error)

    async def _classified(self) -> Classified:
        prediction = await self._service.classify(self._video, self._job, views=self._options.views)
        return classified(
            prediction,
            self._service.model,
            request_id=_request_id(),
            top_k=self._options.top_k,
            timings_ms=self._timings(),
        )

    def _over_time(self) -> TimelineOptions:
        asked = self._options
        return TimelineOptions(hop_seconds=asked.hop_seconds, top_k=asked.top_k, cuts=asked.cuts)

    def _observe(self, timings_ms: TimingsMs) -> None:
        self._gate.metrics.queue.observe(timings_ms.queue / 1e3)
        self._gate.metrics.total.observe(timings_ms.total / 1e3)

    def _timings(self) -> TimingsMs:
        return timings(
            self._job,
            upload_seconds=self._uploaded - self._start,
            total_seconds=time.monotonic() - self._start,
        )


class _Events(StreamingResponse):
    """Server-sent events of work whose video is kept until they end, or the client leaves.

    Args:
        events: of the work.
        held: what is to be released.
    """

    def __init__(self, events: AsyncIterator[str], held: contextlib.AsyncExitStack) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


def _whole(options: ClassifyOptions, fields: dict[str, str]) -> ClassifyOptions:
    """Options of the query and those of the form.

    Raises:
        RequestError: an option that is not there, not allowed, given twice, or without effect.
    """
    in_query = options.model_dump(exclude_unset=True)
    if twice := sorted(fields.keys() & in_query.keys()):
        raise given_twice(twice[0])
    try:
        whole = ClassifyOptions(**(fields | in_query))
    except ValidationError as error:
        raise RequestError("invalid", in_words(error.errors()[0])) from error
    given = whole.model_dump(include={"hop_seconds", "cuts"}, exclude_unset=True)
    if given and not whole.timeline:
        name, value = next(iter(given.items()))
        raise RequestError(
            "invalid",
            f"{name} = {value:g} has no effect without a timeline; send timeline=1 with it",
        )
    return whole


def _check_once(items: list[tuple[str, str]]) -> None:
    """Whether each option of a query stands there once.

    Raises:
        RequestError: one does not.
    """
    seen = set()
    for name, _ in items:
        if name in seen:
            raise given_twice(name)
        seen.add(name)


def _event(name: str, data: BaseModel) -> str:
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n"


def _request_id() -> str:
    return monitoring.request_id.get() or ""
