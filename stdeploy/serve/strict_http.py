"""h11's HTTP/1.1, without what two programs in a row could read in two ways.

A proxy and this server have to agree where a request ends, or a client can hide a second one in
the body of the first (request smuggling). So what RFC 9112 lets a server refuse is refused.
"""

import re

import h11

_OUR_MAJOR_VERSION = b"1."
# A line that goes on in the next one, or ends without a carriage return: h11 takes both.
_DOUBTFUL_LINES = re.compile(rb"\n[ \t]|(?<!\r)\n")
_SCHEMES = (b"http://", b"https://")


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
