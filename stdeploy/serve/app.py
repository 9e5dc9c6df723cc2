"""The application: its routes, and what surrounds them."""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.types import Scope

from stdeploy import __version__
from stdeploy.serve import health, inference_protocol, v1
from stdeploy.serve.errors import MOST_SHOWN, RequestError, in_words
from stdeploy.serve.http_guard import LingeringClose, RequestGuard
from stdeploy.serve.request_gate import RequestGate

_PAGE = str(files("stdeploy.serve") / "page")
_INDEX = "index.html"
_NO_OTHERS = "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
_PAGE_HEADERS = {
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
    app.mount("/page", _Assets(directory=_PAGE), name="page")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(f"{_PAGE}/{_INDEX}", headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _docs(app.title)

    _surround(app, gate, api_key)
    return app


def metrics_application(gate: RequestGate) -> FastAPI:
    """Metrics and probes alone, for a port of their own."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.include_router(health.routes(gate.health))
    app.include_router(health.metrics_routes(gate.metrics))
    _surround(app, gate, api_key=None)
    return app


class _Assets(StaticFiles):
    """The parts of the page; a browser asks whether they are still the same."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path == _INDEX:
            raise HTTPException(404)  # its addresses are right at / only
        answer = await super().get_response(path, scope)
        answer.headers.update(_PAGE_HEADERS)
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
    page.headers.update(_PAGE_HEADERS | {"Content-Security-Policy": policy})
    return page


def _surround(app: FastAPI, gate: RequestGate, api_key: str | None) -> None:
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    # The last one added is the outermost.
    hosts = gate.settings.hosts
    app.add_middleware(RequestGuard, metrics=gate.metrics, hosts=hosts, api_key=api_key)
    app.add_middleware(LingeringClose)


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
