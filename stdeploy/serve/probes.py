"""What orchestrators and Prometheus ask."""

from fastapi import APIRouter
from fastapi.responses import Response

from stdeploy.serve.life import Life
from stdeploy.serve.metrics import Metrics
from stdeploy.serve.schemas import Health, Json


def routes(life: Life) -> APIRouter:
    """The three probes."""
    router = APIRouter(responses={503: {"model": Health}})

    @router.get("/livez", summary="Red where only a new process can answer", response_model=Health)
    async def livez() -> Response:
        return _health("dead" if life.failure else "live", life.failure)

    @router.get("/readyz", summary="Green where requests are taken", response_model=Health)
    async def readyz() -> Response:
        reason = life.failure or (None if life.ready else life.phase)
        return _health("not ready" if reason else "ready", reason)

    @router.get("/startupz", summary="Green once the model is open", response_model=Health)
    async def startupz() -> Response:
        reason = "starting" if life.service is None else None
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
