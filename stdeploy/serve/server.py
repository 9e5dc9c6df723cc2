"""The application with its routes, and the process: it opens, listens, and goes when told to."""

import asyncio
import base64
import contextlib
import errno
import functools
import hashlib
import logging
import os
import re
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.types import Scope

from stdeploy import __version__
from stdeploy.errors import BackendError, SpecError
from stdeploy.serve import health, inference_protocol, v1
from stdeploy.serve.admission import AllowedHosts
from stdeploy.serve.connections import (
    ConnectionLimits,
    Listener,
    allow_many_files,
    connections_within,
    guarded_protocol,
    has_gpu,
)
from stdeploy.serve.errors import MOST_SHOWN, RequestError, in_words
from stdeploy.serve.http_guard import RequestGuard, record_early_refusal
from stdeploy.serve.monitoring import CountsRequests, Metrics
from stdeploy.serve.request_gate import RequestGate
from stdeploy.serve.service import Model, Service, model_of, open_service
from stdeploy.serve.settings import ServeSettings
from stdeploy.serve.uploads import UploadFolder
from stdeploy.video.limits import give_back_large_arrays

_PAGE = str(files("stdeploy.serve") / "page")
_INDEX = "index.html"
_NO_OTHERS = "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
PAGE_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; {_NO_OTHERS}"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_SWAGGER = "static-offline-docs"  # where fastapi_offline has its files


def application(gate: RequestGate, *, api_key: str | None, own_metrics: bool) -> FastAPI:
    """Put the application together.

    Args:
        gate: what requests pass.
        api_key: that /v1 and /v2 ask for; None asks for none.
        own_metrics: False where /metrics has a port of its own.
    """
    app = FastAPIOffline(
        title="stdeploy",
        version=__version__,
        description="What happens in a video: labels, scores and spans of time.",
        license_info={"name": "Apache-2.0"},
        redoc_url=None,
        docs_url=None,
        redirect_slashes=False,  # the address that it would send is made of the header Host
    )
    app.include_router(v1.routes(gate), tags=["videos"])
    app.include_router(inference_protocol.routes(gate), tags=["Open Inference Protocol"])
    app.include_router(health.routes(gate.health), tags=["probes"])
    if own_metrics:
        app.include_router(health.metrics_routes(gate.metrics), tags=["probes"])
    app.mount("/page", Assets(directory=_PAGE), name="page")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(f"{_PAGE}/{_INDEX}", headers=PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _docs(app.title)

    surround(app, gate.metrics, gate.settings.hosts, api_key=api_key)
    return app


def metrics_application(gate: RequestGate) -> FastAPI:
    """Metrics and probes alone, for a port of their own."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.include_router(health.routes(gate.health))
    app.include_router(health.metrics_routes(gate.metrics))
    surround(app, gate.metrics, gate.settings.hosts, api_key=None)
    return app


class Assets(StaticFiles):
    """The parts of the page; a browser asks whether they are still the same."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """See starlette."""
        if path == _INDEX:
            raise HTTPException(404)  # its addresses are right at / only
        answer = await super().get_response(path, scope)
        answer.headers.update(PAGE_HEADERS)
        return answer


def _docs(title: str) -> Response:
    """The page that describes the routes, with a policy that lets its own script run only."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url=f"{_SWAGGER}/swagger-ui-bundle.js",
        swagger_css_url=f"{_SWAGGER}/swagger-ui.css",
        swagger_favicon_url=f"{_SWAGGER}/favicon.png",
    )
    scripts = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    policy = (
        f"default-src 'self'; script-src 'self' {allowed}; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data:; {_NO_OTHERS}"
    )
    page.headers.update(PAGE_HEADERS | {"Content-Security-Policy": policy})
    return page


def surround(
    app: FastAPI, metrics: CountsRequests, hosts: AllowedHosts, *, api_key: str | None
) -> None:
    """Put what every request passes around an application.

    Args:
        app: changed in place.
        metrics: count answers and refusals.
        hosts: names by which it may be asked.
        api_key: that /v1 and /v2 ask for; None asks for none.
    """
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(RequestGuard, metrics=metrics, hosts=hosts, api_key=api_key)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    raise RequestError("invalid", in_words(error.errors()[0]))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:MOST_SHOWN]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        reads = allowed == "GET"  # and then HEAD, see `RequestGuard`
        raise RequestError(
            "method_not_allowed",
            f"{path!r} takes no {request.method[:MOST_SHOWN]}; {allowed} is allowed",
            headers={"Allow": "GET, HEAD" if reads else allowed},
        )
    if error.status_code == 404:
        raise RequestError("not_found", f"there is nothing at {path!r}")
    raise RequestError("bad_request", str(error.detail))


_log = logging.getLogger(__name__)
_BACKLOG = 1024
_LAST_SECONDS = 2.0  # to let go of connections whose answers are out
_TICK_SECONDS = 0.05


def serve(
    settings: ServeSettings, artifact: Path, say: Callable[[str], None] = lambda _line: None
) -> None:
    """Answer requests until a signal says that it is enough.

    It listens at once, so that probes are answered, and is ready when the network has answered
    the golden clip. On SIGTERM or Ctrl-C it takes no more requests, answers those that are
    inside, and returns; a second signal ends that too.

    Args:
        settings: all of them.
        artifact: what classifies.
        say: is told in a line what is opened, once connections are taken, and in another where
            it answers, once it does.

    Raises:
        ArtifactError: the artifact cannot be used.
        BackendError: what runs it is not there, an address is taken, or too few files may be open.
    """
    model = model_of(artifact)  # first: what is no artifact is said before anything listens
    api_key = settings.key()
    give_back_large_arrays()
    settings = _within_open_files(settings)
    with contextlib.ExitStack() as held:
        uploads = held.enter_context(UploadFolder(settings.upload_folder))
        gate = RequestGate(settings, uploads)
        separate = settings.metrics_port is not None
        app = application(gate, api_key=api_key, own_metrics=not separate)
        apps = [(app, settings.port, "--port")]
        if settings.metrics_port is not None:
            apps.append((metrics_application(gate), settings.metrics_port, "--metrics-port"))
        servers = []
        for app, port, flag in apps:
            listener = held.enter_context(listen(settings.host, port, flag))
            servers.append(
                (SignalFreeServer(_loaded_config(app, settings, gate.metrics)), listener)
            )
        running = _RunningServer(artifact, model, gate, say, held.pop_all().close)
        scheme = "https" if settings.tls_certificate else "http"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"{scheme}://{host}:{servers[0][1].getsockname()[1]}"
        asyncio.run(running.run(servers, url))


class SignalFreeServer(uvicorn.Server):
    """uvicorn without its signals: what they mean is decided by who runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn."""
        yield


class _RunningServer:
    """One run of the server."""

    def __init__(
        self,
        artifact: Path,
        model: Model,
        gate: RequestGate,
        say: Callable[[str], None],
        release: Callable[[], None],
    ) -> None:
        self._artifact = artifact
        self._model = model
        self._health = gate.health
        self._gate = gate
        self._say = say
        self._release = release  # uploads and listening sockets
        self._told: list[float] = []  # when to go

    async def run(self, servers: list[tuple[SignalFreeServer, socket.socket]], url: str) -> None:
        """Open, answer, drain.

        Args:
            servers: and where they listen.
            url: of the first, for people.

        Raises:
            StdeployError: the network could not be opened.
        """
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._tell)
        self._say(f"opening {self._artifact} ...")
        tasks = [asyncio.ensure_future(server.serve([listener])) for server, listener in servers]
        opening = loop.run_in_executor(None, self._open)
        try:
            while not (self._told or opening.done()):
                await asyncio.sleep(_TICK_SECONDS)
            if opening.done():
                self._health.opened(opening.result())
                _log.info("ready", extra={"model": self._model.name, "device": self._device})
                self._say(f"{self._artifact} at {url}  (Ctrl-C ends it)")
            while not self._told:
                await asyncio.sleep(_TICK_SECONDS)
                for task in tasks:
                    if task.done():
                        task.result()
                        raise BackendError("the server has stopped listening")
            await self._drain()
        finally:
            self._health.over.set()
            for server, _ in servers:
                server.should_exit = True
            await asyncio.wait(tasks, timeout=_LAST_SECONDS + 1)
            if self._health.service is not None:
                await asyncio.to_thread(self._close, self._health.service)
            self._release()
            if not opening.done():
                _end_now()  # the network is being opened, and cannot be told to stop

    @property
    def _device(self) -> str:
        assert self._health.service is not None
        runtime = self._health.service.runner.runtime
        return f"{runtime.name} on {runtime.device} in {runtime.precision}"

    def _tell(self) -> None:
        self._told.append(time.monotonic())
        self._health.drain()

    async def _drain(self) -> None:
        """Answer what is inside, for a while."""
        _log.info("draining", extra={"requests": self._gate.inside})
        end = self._told[0] + self._gate.settings.drain_seconds
        while self._gate.inside and time.monotonic() < end and len(self._told) == 1:
            await asyncio.sleep(_TICK_SECONDS)
        if left := self._gate.inside:
            _log.warning("requests were left unanswered", extra={"requests": left})
        else:
            _log.info("drained")

    def _open(self) -> Service:
        return open_service(self._gate.settings, self._artifact, self._model, self._gate.metrics)

    def _close(self, service: Service) -> None:
        service.close()
        service.runner.close()
        if service.runner.busy_seconds():
            self._release()
            _end_now()  # its thread is inside the runtime, and would be waited for


def _within_open_files(settings: ServeSettings) -> ServeSettings:
    """Settings with no more connections than the system has room for."""
    connections = connections_within(
        allow_many_files(),
        max_connections=settings.max_connections,
        decode_workers=settings.workers,
        metrics=settings.metrics_port is not None,
        gpu=settings.device != "cpu" and has_gpu(),
    )
    return settings.model_copy(update={"max_connections": connections})


def _config(app: FastAPI, settings: ServeSettings, metrics: Metrics) -> uvicorn.Config:
    protocol = guarded_protocol(
        ConnectionLimits(
            header_seconds=settings.header_seconds,
            unread_seconds=settings.upload_seconds,
            max_connections=settings.max_connections,
            max_head_bytes=settings.max_header_bytes,
        ),
        functools.partial(record_early_refusal, metrics=metrics),
    )
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=int(_LAST_SECONDS),
        proxy_headers=True,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


def _loaded_config(app: FastAPI, settings: ServeSettings, metrics: Metrics) -> uvicorn.Config:
    config = _config(app, settings, metrics)
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise SpecError(
            f"tls_certificate {str(settings.tls_certificate)!r} and tls_key "
            f"{str(settings.tls_key)!r} cannot be used: {error}"
        ) from error
    return config


@contextlib.contextmanager
def listen(host: str, port: int, flag: str) -> Iterator[socket.socket]:
    """A socket that takes connections.

    Args:
        host: an address of this host, or its name.
        port: 0 takes a free one.
        flag: that chose the port.

    Raises:
        BackendError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(Listener(family)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)  # now, so that who is told the address can connect
        except OSError as error:
            wrong = flag if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
            raise BackendError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another {wrong}"
            ) from error
        listener.set_inheritable(False)
        yield listener


def _end_now() -> None:
    """Leave without waiting for a thread that is in a library."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)
