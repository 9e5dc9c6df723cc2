"""The application: its routes, and what surrounds them."""

from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.types import Scope

from stdeploy import __version__
from stdeploy.serve import inference_protocol, probes, v1
from stdeploy.serve.desk import Desk
from stdeploy.serve.middleware import Linger, Reception
from stdeploy.serve.refusal import MOST_SHOWN, RefusalError, in_words

_PAGE = str(files("stdeploy.serve") / "page")
_INDEX = "index.html"
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def application(desk: Desk, *, api_key: str | None, own_metrics: bool) -> FastAPI:
    """Put the application together.

    Args:
        desk: what requests pass.
        api_key: that /v1 and /v2 ask for; None asks for none.
        own_metrics: False where /metrics has a port of its own.
    """
    app = FastAPIOffline(
        title="stdeploy",
        version=__version__,
        description="What happens in a video: labels, scores and spans of time.",
        license_info={"name": "Apache-2.0"},
        redoc_url=None,
    )
    app.include_router(v1.routes(desk), tags=["videos"])
    app.include_router(inference_protocol.routes(desk), tags=["Open Inference Protocol"])
    app.include_router(probes.routes(desk.life), tags=["probes"])
    if own_metrics:
        app.include_router(probes.metrics_routes(desk.metrics), tags=["probes"])
    app.mount("/page", _Assets(directory=_PAGE), name="page")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(f"{_PAGE}/{_INDEX}", headers=_PAGE_HEADERS)

    _surround(app, desk, api_key)
    return app


def metrics_application(desk: Desk) -> FastAPI:
    """Metrics and probes alone, for a port of their own."""
    app = FastAPI(openapi_url=None)
    app.include_router(probes.routes(desk.life))
    app.include_router(probes.metrics_routes(desk.metrics))
    _surround(app, desk, api_key=None)
    return app


class _Assets(StaticFiles):
    """The parts of the page; a browser asks whether they are still the same."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path == _INDEX:
            raise HTTPException(404)  # its addresses are right at / only
        answer = await super().get_response(path, scope)
        answer.headers.update(_PAGE_HEADERS)
        return answer


def _surround(app: FastAPI, desk: Desk, api_key: str | None) -> None:
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    # The last one added is the outermost.
    app.add_middleware(Reception, metrics=desk.metrics, api_key=api_key)
    app.add_middleware(Linger)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    raise RefusalError("invalid", in_words(error.errors()[0]))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = error.headers or {}
    path = request.url.path[:MOST_SHOWN]
    if error.status_code == 405:
        raise RefusalError(
            "method_not_allowed",
            f"{path!r} takes no {request.method}; {headers.get('Allow', 'GET')} is allowed",
            headers=headers,
        )
    if error.status_code == 404:
        raise RefusalError("not_found", f"there is nothing at {path!r}")
    raise RefusalError("bad_request", str(error.detail))
