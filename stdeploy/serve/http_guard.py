"""What is refused of HTTP, and what surrounds every request: its id, its key, its line in the log.

A proxy and this server have to agree where a request ends, or a client can hide a second one in
the body of the first (request smuggling). So `StrictConnection` refuses what RFC 9112 lets a server
refuse. `RequestGuard` refuses requests to other hosts, from pages of other sites, and without the
key.
"""

import asyncio
import dataclasses
import hmac
import logging
import re
import time
import uuid
from typing import Any

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stdeploy.serve import monitoring
from stdeploy.serve.admission import AllowedHosts
from stdeploy.serve.errors import MOST_SHOWN, RequestError
from stdeploy.serve.monitoring import CountsRequests
from stdeploy.serve.request_gate import GoneError

_OUR_MAJOR_VERSION = b"1."
# A line that goes on in the next one, or ends without a carriage return: h11 takes both.
_DOUBTFUL_LINES = re.compile(rb"\n[ \t]|(?<!\r)\n")
# Two of a field: this program would believe the first, another the last.
_ONCE = (b"content-type", b"content-encoding", b"authorization", b"origin", b"sec-fetch-site")
_SCHEMES = (b"http://", b"https://")
_log = logging.getLogger(monitoring.REQUESTS)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROTECTED = ("/v1", "/v2")
# Asked by orchestrators, which hold no key, and again and again.
_PROBES_OF_V2 = ("/v2/health/live", "/v2/health/ready")
_PROBES = ("/livez", "/readyz", "/startupz", "/metrics", *_PROBES_OF_V2)
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'"  # for all that has no policy of its own
_NO_ROUTE = "none"  # of what is refused before it is a request
_CLIENT_GONE = 499  # as nginx logs it; nobody sees it


class StrictConnection(h11.Connection):
    """The server's side of a connection.

    Args:
        max_head_bytes: of the request line and the header fields, exactly; trailers as well.

    Attributes:
        why: what was wrong with the bytes that came, once `next_event` has raised.
        head_too_large: whether it was their number.
    """

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self._max_head_bytes = max_head_bytes
        self.why = ""
        self.head_too_large = False
        self._body_wanted = True

    def client_sends(self) -> bool:
        """Whether a body is not here as a whole, and on its way."""
        return self.their_state is h11.SEND_BODY and self._body_wanted

    def send(self, event: h11.Event) -> Any:
        """See h11; an answer to a body that is not here as a whole says that it is the last."""
        if isinstance(event, h11.Response) and self.their_state is h11.SEND_BODY:
            # Who waits to be asked for the body has not sent it.
            self._body_wanted = not self.they_are_waiting_for_100_continue
            others = [(name, value) for name, value in event.headers if name != b"connection"]
            event = h11.Response(
                status_code=event.status_code,
                reason=event.reason,
                headers=[*others, (b"connection", b"close")],
            )
        return super().send(event)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """See h11.

        Raises:
            h11.RemoteProtocolError: no HTTP, or such as is refused here.
        """
        # Only for heads: it is a copy of all that waits.
        waiting = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                head = waiting[: len(waiting) - len(self.trailing_data[0])]
                self._check_size(len(head))
                _check_framing(event, head)
                _check_fields(event)
                return _in_origin_form(event)
            if isinstance(event, h11.EndOfMessage):
                # h11 measures what is incomplete only, and a trailer may come at once.
                self._check_size(sum(len(name) + len(value) for name, value in event.headers))
        except h11.RemoteProtocolError as error:
            self.head_too_large = error.error_status_hint == 431
            self.why = self._too_large if self.head_too_large else _in_words(error)
            raise
        return event

    def _check_size(self, count: int) -> None:
        if count > self._max_head_bytes:
            raise h11.RemoteProtocolError(self._too_large, error_status_hint=431)

    @property
    def _too_large(self) -> str:
        return f"the head of the request is larger than {self._max_head_bytes} bytes"


def _check_framing(request: h11.Request, head: bytes) -> None:
    """Whether there is one way only to tell where a request ends.

    Args:
        request: as h11 understands it.
        head: as it came.

    Raises:
        h11.RemoteProtocolError: there is more than one.
    """
    if _DOUBTFUL_LINES.search(head):
        raise h11.RemoteProtocolError("a line of the head is folded, or ends without CR")
    version = request.http_version
    if not version.startswith(_OUR_MAJOR_VERSION):
        raise h11.RemoteProtocolError(f"HTTP/{version.decode()} is not spoken here; 1.1 is")
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding exclude each other")
    if version < b"1.1":
        raise h11.RemoteProtocolError(f"HTTP/{version.decode()} has no Transfer-Encoding")


def _check_fields(request: h11.Request) -> None:
    """Whether what decides about a request is said once.

    Raises:
        h11.RemoteProtocolError: it is not.
    """
    names = [name for name, _ in request.headers]
    for name in _ONCE:
        if names.count(name) > 1:
            raise h11.RemoteProtocolError(f"{name.decode().title()} is given twice")


def _in_origin_form(request: h11.Request) -> h11.Request:
    """A request whose target is a whole address, as proxies get it, as one for its path.

    The host of the address goes before the header, as RFC 9112, 3.2.2 has it.
    """
    target = request.target
    scheme = next((each for each in _SCHEMES if target[: len(each)].lower() == each), None)
    if scheme is None:
        return request
    rest = target[len(scheme) :]
    end = min((at for at in map(rest.find, (b"/", b"?")) if at >= 0), default=len(rest))
    host, path = rest[:end], rest[end:]
    others = [(name, value) for name, value in request.headers if name != b"host"]
    return h11.Request(
        method=request.method,
        target=path if path.startswith(b"/") else b"/" + path,
        headers=[(b"host", host), *others],
        http_version=request.http_version,
    )


def _in_words(error: h11.RemoteProtocolError) -> str:
    """What h11 says, without the bytes that it repeats."""
    sentence = str(error).partition(": bytearray")[0].rstrip(".")
    return f"this is no HTTP request that is taken here: {sentence}"


class RequestGuard:
    """Gives each request an id, asks for the key, logs the end, and lets no error out.

    Args:
        app: the rest.
        metrics: count answers and refusals.
        hosts: names by which the server may be asked.
        api_key: that requests to /v1 and /v2 carry; None asks for none.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: CountsRequests, hosts: AllowedHosts, api_key: str | None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = hosts
        self._api_key = api_key.encode() if api_key is not None else None
        self._last: dict[str, int] = {}  # what each probe was answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        method = scope["method"]
        # What a GET is answered, a HEAD is, too; uvicorn leaves the body out.
        scope = {**scope, "method": "GET"} if method == "HEAD" else scope
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        token = monitoring.request_id.set(request_id)
        start = time.monotonic()
        status = 0
        code: str | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-ID"] = request_id
                answer["X-Content-Type-Options"] = "nosniff"
                answer.setdefault("Content-Security-Policy", _NO_PAGE)
            await send(message)

        try:
            self._check(scope, headers)
            await self._app(scope, receive, send_with_id)
        except GoneError:
            status = _CLIENT_GONE
        except RequestError as error:
            code = error.code
            await refuse(error, self._metrics, send_with_id)
        except asyncio.CancelledError:  # the server ends, and cannot wait any longer
            if status:
                _log.warning("an answer was broken off, because the server ends")
                return
            gone = RequestError("draining", "the server has stopped", retry_after_seconds=5)
            code = gone.code
            await refuse(gone, self._metrics, send_with_id)
        except Exception:
            _log.exception("a request failed")
            if status:
                raise  # half an answer is out already
            failed = RequestError("failed", "the server made a mistake")
            code = failed.code
            await refuse(failed, self._metrics, send_with_id)
        finally:
            self._end(scope, method, status, code, time.monotonic() - start)
            monitoring.request_id.reset(token)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host")
        if host is not None and host not in self._hosts:  # only HTTP/1.0 has none, and no browser
            raise RequestError(
                "unknown_host",
                f"this server does not go by the name {host[:MOST_SHOWN]!r}; if it should, start "
                "it with that name in --allowed-hosts",
            )
        if scope["method"] != "GET" and _is_of_another_site(headers):
            # A page of another site could let a visitor's browser work here unasked.
            origin = headers.get("origin", "")[:MOST_SHOWN]
            raise RequestError(
                "cross_site",
                f"a page of another site asked (Origin {origin!r}); only the page of this server "
                "may, and programs that are no browser",
            )
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if self._api_key is None or not path.startswith(_PROTECTED) or path in _PROBES_OF_V2:
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        if not hmac.compare_digest(key.encode("utf-8", "replace"), self._api_key):
            raise RequestError(
                "unauthorized", "the API key is missing or wrong; send Authorization: Bearer KEY"
            )

    def _end(
        self, scope: Scope, method: str, status: int, code: str | None, seconds: float
    ) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        self._metrics.requests.labels(route, status).inc()
        code = code or scope.get("state", {}).get("refused")  # a stream says so after its head
        known = route in _PROBES and status == self._last.get(route, 200)
        self._last[route] = status
        client = scope.get("client")
        _log.log(
            logging.DEBUG if known else logging.INFO,
            "request",
            extra={
                "method": method,
                "path": scope.get("raw_path", b"").decode("latin-1"),  # as it came, so one line
                "status": status,
                "seconds": round(seconds, 4),
                "client": client[0] if client else None,
                **({} if code is None else {"code": code}),
            },
        )


@dataclasses.dataclass(frozen=True)
class EarlyRefusal:
    """What was refused before there was a request.

    Attributes:
        status: that was answered, or would have been.
        code: likewise.
        client: the address of the other side.
        request_id: that it got.
        seconds: since the connection was made.
    """

    status: int
    code: str
    client: str | None
    request_id: str
    seconds: float


def record_early_refusal(refused: EarlyRefusal, metrics: CountsRequests) -> None:
    """Log and count what never became a request."""
    metrics.requests.labels(_NO_ROUTE, refused.status).inc()
    metrics.rejections.labels(refused.code).inc()
    _log.info(
        "request",
        extra={
            "method": None,
            "path": "",
            "status": refused.status,
            "seconds": round(refused.seconds, 4),
            "client": refused.client,
            "code": refused.code,
            "request_id": refused.request_id,
        },
    )


async def refuse(error: RequestError, metrics: CountsRequests, send: Send) -> None:
    """Answer with an error."""
    metrics.rejections.labels(error.code).inc()
    body = error.body
    headers = {**error.headers, "Content-Length": str(len(body))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _is_of_another_site(headers: Headers) -> bool:
    """Whether a browser asks for a page that is not ours.

    Browsers say so themselves (Fetch Metadata), but not old ones, and none to a server that is
    reached by plain HTTP under another name than localhost; all send `Origin` with a POST.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("cross-site", "same-site")
    origin = headers.get("origin")
    if origin is None:
        return False
    # Some proxies replace Host. A browser lets no page of another site send X-Forwarded-Host: it
    # asks the server first (CORS), which does not allow it.
    ours = (headers.get("host"), headers.get("x-forwarded-host", "").partition(",")[0].strip())
    return origin.partition("://")[2].lower() not in [host.lower() for host in ours if host]
