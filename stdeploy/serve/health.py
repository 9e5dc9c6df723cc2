"""Whether the server lives, is ready, and when it goes; the probes that orchestrators ask."""

import asyncio
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response

from stdeploy.serve.admission import Admission
from stdeploy.serve.monitoring import Metrics
from stdeploy.serve.schemas import Health, Json
from stdeploy.serve.service import Service

Phase = Literal["starting", "ready", "draining"]


class ServerHealth:
    """The phases of a server: it opens the network, answers, and is told to go.

    Args:
        admission: counts the requests inside.
        metrics: show what is found here.
        network_seconds: a batch that takes longer means that the network hangs.

    Attributes:
        phase: starting, until the golden clip has passed; ready; draining, once told to go.
        service: there from the second phase on.
        over: set when no answer is waited for any longer; what still runs is broken off.
    """

    def __init__(self, admission: Admission, metrics: Metrics, network_seconds: float) -> None:
        self.phase: Phase = "starting"
        self.service: Service | None = None
        self.over = asyncio.Event()
        self._network_seconds = network_seconds
        metrics.in_progress.set_function(lambda: admission.inside)
        metrics.ready.set_function(lambda: float(self.ready))
        metrics.live.set_function(lambda: float(self.failure is None))

    def opened(self, service: Service) -> None:
        """The network has answered the golden clip."""
        self.service = service
        if self.phase == "starting":
            self.phase = "ready"

    def drain(self) -> None:
        """Take no new requests any more."""
        self.phase = "draining"

    @property
    def failure(self) -> str | None:
        """Why only a new process can answer; None where this one can."""
        if self.service is None:
            return None
        runner = self.service.runner
        if runner.failure is not None:
            return f"the network failed ({runner.failure})"
        if runner.busy_seconds() > self._network_seconds:
            return f"the network has not answered for {self._network_seconds:g} s"
        return None

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.phase == "ready" and self.failure is None


def routes(health: ServerHealth) -> APIRouter:
    """The three probes."""
    router = APIRouter(responses={503: {"model": Health}})

    @router.get("/livez", summary="Red where only a new process can answer", response_model=Health)
    async def livez() -> Response:
        return _health("dead" if health.failure else "live", health.failure)

    @router.get("/readyz", summary="Green where requests are taken", response_model=Health)
    async def readyz() -> Response:
        reason = health.failure or (None if health.ready else health.phase)
        return _health("not ready" if reason else "ready", reason)

    @router.get("/startupz", summary="Green once the model is open", response_model=Health)
    async def startupz() -> Response:
        reason = "starting" if health.service is None else None
        return _health("starting" if reason else "started", reason)

    return router


def metrics_routes(metrics: Metrics) -> APIRouter:
    """Where Prometheus looks."""
    router = APIRouter()

    @router.get("/metrics", summary="For Prometheus", response_class=Response)
    async def metrics_text() -> Response:
        text, kind = metrics.text()
        return Response(text, media_type=kind)

    return router


def _health(status: str, reason: str | None) -> Response:
    # No cache may answer for us.
    return Json(
        Health(status=status, reason=reason).model_dump(),
        503 if reason else 200,
        {"Cache-Control": "no-store"},
    )
