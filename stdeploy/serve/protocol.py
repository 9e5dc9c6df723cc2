"""uvicorn's HTTP/1.1 with what it lacks: a clock for the head of a request, and a door."""

import asyncio
import collections
import dataclasses
import uuid
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from stdeploy.serve.admission import client_name
from stdeploy.serve.errors import error_json
from stdeploy.serve.schemas import STATUS
from stdeploy.serve.strict_http import StrictConnection

_MOST_AHEAD = 65_536  # bytes of later requests that a client may send before it is answered
_MOST_THROWN_AWAY = 2**20  # bytes that a client may send after it was refused
_LINGER_SECONDS = 1.0
_JSON = (b"content-type", b"application/json")


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


def guarded_protocol(
    *,
    header_seconds: float,
    unread_seconds: float,
    max_connections: int,
    max_head_bytes: int,
    refused: Callable[[EarlyRefusal], None],
) -> type[H11Protocol]:
    """A protocol for uvicorn.

    Args:
        header_seconds: in which the head of a request has to be there, from the first moment of
            a connection or the first byte of a later request.
        unread_seconds: that an answer may wait for a client that does not read it.
        max_connections: open at once; a further one is closed, or, where another address has more
            of them than its own, takes the place of one of these.
        max_head_bytes: of the head of a request.
        refused: is told of all that the application never sees.
    """

    class Guarded(H11Protocol):
        _since = 0.0
        _head_timer: asyncio.TimerHandle | None = None
        _unread_timer: asyncio.TimerHandle | None = None
        _left_to_throw_away = 0  # bytes, of a client that was refused and sends on
        conn: StrictConnection

        def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            self.conn = StrictConnection(max_head_bytes)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._since = self.loop.time()
            super().connection_made(transport)
            if len(self.connections) > max_connections and not self._has_taken_a_place():
                self._refuse(503, "there are too many connections", "full", linger=False)
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            if self._left_to_throw_away:
                self._left_to_throw_away -= len(data)
                if self._left_to_throw_away <= 0:
                    self.transport.abort()
                return
            super().data_received(data)
            self._watch()
            cycle = self.cycle
            if cycle and not cycle.more_body and not cycle.response_complete:
                # uvicorn stops reading here, and would not see that the client leaves.
                if len(self.conn.trailing_data[0]) > _MOST_AHEAD:
                    self.transport.abort()
                else:
                    self.flow.resume_reading()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            if self._unread_timer is not None:
                self._unread_timer.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread_timer = self.loop.call_later(unread_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            if self._unread_timer is not None:
                self._unread_timer.cancel()
            super().resume_writing()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.trailing_data[0]:  # the head of a request that came with the last one
                self._watch()

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002
            code = "head_too_large" if self.conn.head_too_large else "bad_request"
            self._refuse(STATUS[code], self.conn.why, code)

        def _has_taken_a_place(self) -> bool:
            """Close a connection of the address that has the most, where that has more than ours.

            One that waits for an answer is left alone.
            """
            connections = cast("set[Guarded]", self.connections)
            held = collections.Counter(other.address for other in connections)
            most = held.most_common(1)[0][0]
            if held[most] <= held[self.address]:
                return False
            for other in connections:
                if other.address == most and not other.waits_for_an_answer:
                    other.tell_refused(503, "full")
                    other.transport.abort()
                    return True
            return False

        @property
        def address(self) -> str | None:
            return client_name(self.client[0]) if self.client else None

        @property
        def waits_for_an_answer(self) -> bool:
            cycle = self.cycle
            return bool(cycle and not cycle.more_body and not cycle.response_complete)

        def tell_refused(self, status: int, code: str) -> str:
            """Have it logged and counted; the id that it gets."""
            request_id = uuid.uuid4().hex
            client = self.client[0] if self.client else None
            refused(EarlyRefusal(status, code, client, request_id, self.loop.time() - self._since))
            return request_id

        def _watch(self) -> None:
            """Let the clock run while a head is awaited."""
            awaited = self.cycle is None or self.cycle.response_complete
            if not awaited or self.transport.is_closing():
                self._stop()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(header_seconds, self._too_slow)

        def _stop(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            self._head_timer = None
            sentence = f"the head of the request took longer than {header_seconds:g} s to come"
            self._refuse(408, sentence, "too_slow")

        def _refuse(self, status: int, sentence: str, code: str, *, linger: bool = True) -> None:
            """Answer without having a request, and close.

            The system throws an answer away that a client has not read yet, where bytes of that
            client come to a closed connection; so those that are under way are read first.
            """
            if self.transport.is_closing():
                return
            request_id = self.tell_refused(status, code)
            body = error_json(sentence, code, request_id)
            named = (b"x-request-id", request_id.encode())
            headers = [
                _JSON,
                named,
                (b"connection", b"close"),
                (b"content-length", b"%d" % len(body)),
            ]
            events: list[Any] = [
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            try:
                for event in events:
                    self.transport.write(self.conn.send(event) or b"")
            except h11.LocalProtocolError:
                linger = False  # an answer is under way already
            if linger and self.transport.can_write_eof():
                self._stop()
                self._left_to_throw_away = _MOST_THROWN_AWAY
                self.transport.write_eof()
                self.transport.resume_reading()
                self.loop.call_later(_LINGER_SECONDS, self.transport.close)
            else:
                self.transport.close()

    return Guarded
