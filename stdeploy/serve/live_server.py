"""The page of `stdeploy watch --http`: pictures and labels of all sources, metrics and probes."""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Self

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from stdeploy.backends.base import RunsClips
from stdeploy.events.event import Event
from stdeploy.inference.live_sources import LiveSources, SourceStatus
from stdeploy.serve.admission import AllowedHosts
from stdeploy.serve.connections import ConnectionLimits, allow_many_files, guarded_protocol
from stdeploy.serve.http_guard import record_early_refusal
from stdeploy.serve.live_metrics import LiveMetrics
from stdeploy.serve.server import PAGE_HEADERS, Assets, SignalFreeServer, listen, surround
from stdeploy.video.live_reader import LivePicture

_PAGE = str(files("stdeploy.serve") / "live_page")
_LIMITS = ConnectionLimits(
    header_seconds=10.0, unread_seconds=30.0, max_connections=128, max_head_bytes=16_384
)
_KEEP_ALIVE_SECONDS = 5
_LAST_SECONDS = 1
_HANGS_SECONDS = 300.0  # a batch that takes longer
_SHOWN_LABELS = 3
_NOT_KEPT = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}


class LiveServer:
    """Answers HTTP in a thread while it is open; a context manager.

    Args:
        host: an address of this host, or its name.
        port: 0 takes a free one.

    Attributes:
        url: of the page, once it is open.
        metrics: of the sources and the requests.
        events: gives the starts of those that are going on.
    """

    def __init__(self, host: str, port: int) -> None:
        self.url = ""
        self.metrics = LiveMetrics(self.statuses)
        self.events: Callable[[], Sequence[Event]] = list
        self._host, self._port = host, port
        self._live: LiveSources | None = None
        self._model = ""
        self._pictures: dict[str, LivePicture] = {}
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            BackendError: the address cannot be had.
        """
        allow_many_files()
        listener = self._held.enter_context(listen(self._host, self._port, "--http"))
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{shown}:{listener.getsockname()[1]}"
        app = application(self)
        surround(app, self.metrics, AllowedHosts((self._host,)), api_key=None)
        server = SignalFreeServer(
            uvicorn.Config(
                app,
                http=guarded_protocol(
                    _LIMITS, functools.partial(record_early_refusal, metrics=self.metrics)
                ),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_LAST_SECONDS,
                proxy_headers=False,
            )
        )
        thread = threading.Thread(
            target=lambda: asyncio.run(server.serve([listener])), name="http", daemon=True
        )
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join(_LAST_SECONDS + 2)

        self._held.callback(end)
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def opened(self, live: LiveSources, runtime: RunsClips, name: str) -> None:
        """The network is there, and the sources are about to be read.

        Args:
            live: the sources.
            runtime: runs the network.
            name: of the artifact.
        """
        self._model = f"{name}, {runtime.name} on {runtime.device} in {runtime.precision}"
        self.metrics.opened(name, runtime)
        self._live = live

    def picture(self, picture: LivePicture) -> None:
        """Of a source, the newest; see `Hooks`."""
        self._pictures[picture.source] = picture

    def batch(self, sources: int, seconds: float) -> None:
        """See `Hooks`."""
        self.metrics.ran(sources, seconds)

    def statuses(self) -> list[SourceStatus]:
        """How the sources do; none before the network is there."""
        return [] if self._live is None else self._live.statuses()

    def not_ready(self) -> str | None:
        """Why no answers come; None where they do."""
        return "starting" if self._live is None else self.failure()

    def failure(self) -> str | None:
        """Why only a new process can answer; None where this one can."""
        busy = 0.0 if self._live is None else self._live.busy_seconds()
        if busy > _HANGS_SECONDS:
            return f"the network has not answered for {_HANGS_SECONDS:g} s"
        return None

    def jpeg(self, place: int) -> bytes | None:
        """The newest picture of a source, by its place in the list."""
        statuses = self.statuses()
        if not 0 <= place < len(statuses):
            return None
        picture = self._pictures.get(statuses[place].source)
        return None if picture is None else picture.jpeg

    def record(self) -> dict[str, Any]:
        """All that the page shows, as plain data."""
        events = self.events()
        return {
            "model": self._model,
            "time": round(time.time(), 3),
            "sources": [
                self._record_of(status, [e for e in events if e.source == status.source])
                for status in self.statuses()
            ],
        }

    def _record_of(self, status: SourceStatus, events: Sequence[Event]) -> dict[str, Any]:
        picture = self._pictures.get(status.source)
        answer = status.answer
        return {
            "source": status.source,
            "state": status.state,
            "note": status.note,
            "lag_seconds": _rounded(status.lag_seconds),
            "frame_age_seconds": _rounded(status.age_seconds),
            "frames": status.frames,
            "dropped": status.dropped,
            "answers": status.answers,
            "reconnects": status.reconnects,
            "picture_time": None if picture is None else round(picture.time, 3),
            "answered_time": None if answer is None else round(answer.time, 3),
            "predictions": []
            if answer is None
            else [
                {"label": label, "score": round(score, 4)}
                for label, score in answer.top(_SHOWN_LABELS)
            ],
            "events": [
                {"rule": event.rule, "start_time": round(event.start.time, 3)} for event in events
            ],
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def application(server: LiveServer) -> FastAPI:
    """Put the application together.

    Args:
        server: knows what there is to show.
    """
    app = FastAPI(title="stdeploy watch", openapi_url=None, redirect_slashes=False)

    @app.get("/")
    async def page() -> Response:
        return FileResponse(f"{_PAGE}/index.html", headers=PAGE_HEADERS)

    app.mount("/page", Assets(directory=_PAGE), name="page")

    @app.get("/v1/sources")
    async def sources() -> Response:
        return JSONResponse(server.record(), headers=_NOT_KEPT)

    @app.get("/v1/sources/{place}/picture.jpg")
    async def picture(place: str) -> Response:
        jpeg = server.jpeg(int(place)) if place.isascii() and place.isdecimal() else None
        if jpeg is None:
            raise HTTPException(404)
        return Response(jpeg, media_type="image/jpeg", headers=_NOT_KEPT)

    @app.get("/metrics")
    async def metrics() -> Response:
        text, kind = server.metrics.text()
        return Response(text, media_type=kind)

    @app.get("/livez")
    async def livez() -> Response:
        failure = server.failure()
        return _health("dead" if failure else "live", failure)

    @app.get("/readyz")
    async def readyz() -> Response:
        reason = server.not_ready()
        return _health("not ready" if reason else "ready", reason)

    @app.get("/startupz")
    async def startupz() -> Response:
        starting = server.not_ready() == "starting"
        return _health("starting" if starting else "started", "starting" if starting else None)

    return app


def _health(status: str, reason: str | None) -> Response:
    body = {"status": status, "reason": reason}
    return JSONResponse(body, 503 if reason else 200, {"Cache-Control": "no-store"})
