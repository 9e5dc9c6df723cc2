"""The server as a process: it opens, listens, answers, and goes when it is told to."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from stdeploy.card import read_card
from stdeploy.errors import BackendError
from stdeploy.files import sha256_of
from stdeploy.runtime.opening import open_runtime
from stdeploy.serve.admission import Admission
from stdeploy.serve.app import application, metrics_application
from stdeploy.serve.desk import Desk
from stdeploy.serve.life import Life
from stdeploy.serve.metrics import Metrics
from stdeploy.serve.network import Network
from stdeploy.serve.protocol import guarded_protocol
from stdeploy.serve.service import Model, Service
from stdeploy.serve.settings import ServeSettings
from stdeploy.serve.uploads import UploadFolder
from stdeploy.video.memory import give_back_large_arrays

_log = logging.getLogger(__name__)
_GPU_BATCH = 8
_BACKLOG = 1024
_LAST_SECONDS = 2.0  # to let go of connections whose answers are out
_TICK_SECONDS = 0.05


def serve(
    settings: ServeSettings, artifact: Path, listening: Callable[[str], None] = lambda _url: None
) -> None:
    """Answer requests until a signal says that it is enough.

    It listens at once, and is ready when the network has answered the golden clip. On SIGTERM or
    Ctrl-C it takes no more requests, answers those that are inside, and returns; a second signal
    ends that too.

    Args:
        settings: all of them.
        artifact: what classifies.
        listening: is told the address when connections are taken.

    Raises:
        ArtifactError: the artifact cannot be used.
        BackendError: what runs it is not there, or an address is taken.
    """
    card = read_card(artifact)  # first: what is no artifact is said before anything listens
    api_key = settings.key()
    give_back_large_arrays()
    metrics = Metrics()
    admission = Admission(settings.max_requests, patience=settings.request_seconds)
    life = Life(admission, metrics, settings.network_seconds)
    model = Model(name=artifact.stem, sha256=sha256_of(artifact), card=card)
    with contextlib.ExitStack() as held:
        uploads = held.enter_context(UploadFolder(settings.upload_folder))
        desk = Desk(settings, life, admission, metrics, uploads)
        separate = settings.metrics_port is not None
        apps = [(application(desk, api_key=api_key, own_metrics=not separate), settings.port)]
        if settings.metrics_port is not None:
            apps.append((metrics_application(desk), settings.metrics_port))
        servers = []
        for app, port in apps:
            door = held.enter_context(_listen(settings.host, port))
            servers.append((_Server(_config(app, settings)), door))
        house = _House(settings, artifact, model, life, admission, metrics)
        scheme = "https" if settings.tls_certificate else "http"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        listening(f"{scheme}://{host}:{servers[0][1].getsockname()[1]}")
        asyncio.run(house.run(servers))


class _Server(uvicorn.Server):
    """uvicorn without its signals: what they mean is decided by `_House`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _House:
    """One run of the server."""

    def __init__(
        self,
        settings: ServeSettings,
        artifact: Path,
        model: Model,
        life: Life,
        admission: Admission,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._artifact = artifact
        self._model = model
        self._life = life
        self._admission = admission
        self._metrics = metrics
        self._told: list[float] = []  # when to go

    async def run(self, servers: list[tuple[_Server, socket.socket]]) -> None:
        """Open, answer, drain.

        Raises:
            StdeployError: the network could not be opened.
        """
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._tell)
        tasks = [asyncio.ensure_future(server.serve([door])) for server, door in servers]
        opening = loop.run_in_executor(None, self._open)
        try:
            while not (self._told or opening.done()):
                await asyncio.sleep(_TICK_SECONDS)
            if opening.done():
                self._life.opened(opening.result())
                _log.info("ready", extra={"model": self._model.name, "device": self._device})
            while not self._told:
                await asyncio.sleep(_TICK_SECONDS)
            await self._drain()
        finally:
            for server, _ in servers:
                server.should_exit = True
            await asyncio.wait(tasks, timeout=_LAST_SECONDS + 1)
            if self._life.service is not None:
                await asyncio.to_thread(self._close, self._life.service)
            if not opening.done():
                _end_now()  # the network is being opened, and cannot be told to stop

    @property
    def _device(self) -> str:
        assert self._life.service is not None
        runtime = self._life.service.network.runtime
        return f"{runtime.name} on {runtime.device} in {runtime.precision}"

    def _tell(self) -> None:
        self._told.append(time.monotonic())
        self._life.drain()

    async def _drain(self) -> None:
        """Answer what is inside, for a while."""
        inside = self._admission.inside
        _log.info("draining", extra={"requests": inside})
        end = self._told[0] + self._settings.drain_seconds
        while self._admission.inside and time.monotonic() < end and len(self._told) == 1:
            await asyncio.sleep(_TICK_SECONDS)
        if left := self._admission.inside:
            _log.warning("requests were left unanswered", extra={"requests": left})
        else:
            _log.info("drained")

    def _open(self) -> Service:
        runtime = open_runtime(self._artifact, self._model.card, self._settings.runtime_options)
        on_gpu = "cpu" not in runtime.device.lower()
        max_batch = self._settings.max_batch or (_GPU_BATCH if on_gpu else 1)
        network = Network(
            runtime,
            max_batch=max_batch,
            max_delay_seconds=self._settings.max_delay_ms / 1e3,
            ran=self._metrics.ran,
        )
        service = Service(
            self._model,
            network,
            decode_workers=self._settings.workers,
            limits=self._settings.limits,
            views=self._settings.views,
            max_batch=max_batch,
            decoded=self._metrics.decode.observe,
            lost=self._metrics.decoders_lost.inc,
        )
        service.start()
        self._metrics.opened(service)
        return service

    def _close(self, service: Service) -> None:
        service.close()
        if service.network.busy_seconds() > _LAST_SECONDS:
            _end_now()  # its thread would be waited for
        service.network.close()


def _config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded_protocol(
            header_seconds=settings.header_seconds, max_connections=settings.max_connections
        ),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=settings.max_header_bytes,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=int(_LAST_SECONDS),
        proxy_headers=True,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that takes connections.

    Raises:
        BackendError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    with contextlib.closing(door):
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
            door.listen(_BACKLOG)  # now, so that who is told the address can connect
        except OSError as error:
            raise BackendError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with "
                "--host and --port"
            ) from error
        door.set_inheritable(False)
        yield door


def _end_now() -> None:
    """Leave without waiting for a thread that is in a library."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)
