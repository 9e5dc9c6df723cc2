"""The server as a process: it opens, listens, answers, and goes when it is told to."""

import asyncio
import contextlib
import errno
import functools
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from stdeploy.errors import BackendError, SpecError
from stdeploy.serve.app import application, metrics_application
from stdeploy.serve.connections import (
    ConnectionLimits,
    Listener,
    allow_many_files,
    connections_within,
    guarded_protocol,
    has_gpu,
)
from stdeploy.serve.http_guard import record_early_refusal
from stdeploy.serve.metrics import Metrics
from stdeploy.serve.request_gate import RequestGate
from stdeploy.serve.service import Model, Service, model_of, open_service
from stdeploy.serve.settings import ServeSettings
from stdeploy.serve.uploads import UploadFolder
from stdeploy.video.limits import give_back_large_arrays

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
            listener = held.enter_context(_listen(settings.host, port, flag))
            servers.append((_Server(_loaded_config(app, settings, gate.metrics)), listener))
        running = _RunningServer(artifact, model, gate, say, held.pop_all().close)
        scheme = "https" if settings.tls_certificate else "http"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"{scheme}://{host}:{servers[0][1].getsockname()[1]}"
        asyncio.run(running.run(servers, url))


class _Server(uvicorn.Server):
    """uvicorn without its signals: what they mean is decided by `_RunningServer`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
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

    async def run(self, servers: list[tuple[_Server, socket.socket]], url: str) -> None:
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
def _listen(host: str, port: int, flag: str) -> Iterator[socket.socket]:
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
