"""Connections: how many may be open at once, and how long their clients may take.

`GuardedProtocol` is uvicorn's HTTP/1.1 with limits that it lacks. The system has a limit of open
files for each process (`ulimit -n`): where it is reached, no upload can be kept and no decoding
process started, and asyncio tries to take connections again and again. So `connections_within`
takes no more connections than leave room for the rest.
"""

import asyncio
import collections
import contextlib
import dataclasses
import errno
import logging
import os
import resource
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from stdeploy.errors import BackendError
from stdeploy.serve.admission import client_name
from stdeploy.serve.errors import STATUS, error_json
from stdeploy.serve.http_guard import EarlyRefusal, StrictConnection
from stdeploy.serve.lingering_close import LingeringTransport

_log = logging.getLogger(__name__)
_MOST_AHEAD = 65_536  # bytes of later requests that a client may send before it is answered
_JSON = (b"content-type", b"application/json")
_OF_THE_SERVER = 24  # libraries, listening sockets, files of the page while they are sent
_OF_A_DECODER = 3  # its two pipes, and a third while it starts
_OF_A_GPU = 64
_OF_A_CONNECTION = 2  # itself, and the file of its upload
_OF_METRICS = 1  # as many connections again, on their port
_FEWEST_CONNECTIONS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What connections may take.

    Attributes:
        header_seconds: in which the head of a request has to be there, from the first moment of
            a connection or the first byte of a later request.
        unread_seconds: that an answer may wait for a client that does not read it.
        max_connections: open at once.
        max_head_bytes: of the head of a request.
    """

    header_seconds: float
    unread_seconds: float
    max_connections: int
    max_head_bytes: int


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a clock for the head of a request, and a limit of connections.

    Where there are more connections than allowed, the new one is closed, or, where another address
    has more of them than its own, takes the place of one of these.

    Args:
        config: of uvicorn, which gives the other arguments as well.
        limits: what clients may take.
        refused: is told of all that the application never sees.
    """

    _since = 0.0
    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    conn: StrictConnection

    def __init__(
        self,
        config: Config,
        *args: Any,
        limits: ConnectionLimits,
        refused: Callable[[EarlyRefusal], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(config, *args, **kwargs)
        self.conn = StrictConnection(limits.max_head_bytes)
        self._limits = limits
        self._refused = refused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the clock run, or refuse a connection that is one too many."""
        self._since = self.loop.time()
        self._lingering = LingeringTransport(transport, self.conn.client_sends, self.loop)
        super().connection_made(cast("asyncio.Transport", self._lingering))
        if len(self.connections) > self._limits.max_connections and not self._has_taken_a_place():
            self._refuse(503, "there are too many connections", "full", linger=False)
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, or throw those away that a refused client still sends."""
        if self._lingering.throws_away(len(data)):
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
        """Stop the clocks."""
        self._stop()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the client so long to read what it was sent."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self._limits.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self.conn.trailing_data[0]:  # the head of a request that came with the last one
            self._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse a head that is no HTTP, or none that is taken here."""
        code = "head_too_large" if self.conn.head_too_large else "bad_request"
        self._refuse(STATUS[code], self.conn.why, code)

    def _has_taken_a_place(self) -> bool:
        """Close a connection of the address that has the most, where that has more than ours.

        One that waits for an answer is left alone.
        """
        connections = cast("set[GuardedProtocol]", self.connections)
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
        """Of the client, as `client_name` has it."""
        return client_name(self.client[0]) if self.client else None

    @property
    def waits_for_an_answer(self) -> bool:
        """Whether a request is here as a whole, and not answered."""
        cycle = self.cycle
        return bool(cycle and not cycle.more_body and not cycle.response_complete)

    def tell_refused(self, status: int, code: str) -> str:
        """Have it logged and counted; the id that it gets."""
        request_id = uuid.uuid4().hex
        client = self.client[0] if self.client else None
        seconds = self.loop.time() - self._since
        self._refused(EarlyRefusal(status, code, client, request_id, seconds))
        return request_id

    def _watch(self) -> None:
        """Let the clock run while a head is awaited."""
        awaited = self.cycle is None or self.cycle.response_complete
        if not awaited or self.transport.is_closing():
            self._stop()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.header_seconds, self._too_slow)

    def _stop(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        seconds = self._limits.header_seconds
        sentence = f"the head of the request took longer than {seconds:g} s to come"
        self._refuse(408, sentence, "too_slow")

    def _refuse(self, status: int, sentence: str, code: str, *, linger: bool = True) -> None:
        """Answer without having a request, and close; bytes of one may be under way."""
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
        self._stop()
        if linger:
            self._lingering.linger()
        else:
            self._lingering.finish()


def guarded_protocol(
    limits: ConnectionLimits, refused: Callable[[EarlyRefusal], None]
) -> type[GuardedProtocol]:
    """`GuardedProtocol` with these arguments, as a class, which uvicorn wants."""

    class Configured(GuardedProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, limits=limits, refused=refused, **kwargs)

    return Configured


def allow_many_files() -> int:
    """As many open files as the system lets us have, and how many these are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**30 if allowed == resource.RLIM_INFINITY else allowed


def connections_within(
    allowed_files: int, *, max_connections: int, decode_workers: int, metrics: bool, gpu: bool
) -> int:
    """How many connections may be open at once: as many as wanted, or as there is room for.

    Args:
        allowed_files: open at once.
        max_connections: that are wanted.
        decode_workers: processes that decode.
        metrics: whether they have a port of their own.
        gpu: whether one may be used.

    Raises:
        BackendError: there is no room for a server.
    """
    others = _OF_THE_SERVER + decode_workers * _OF_A_DECODER + gpu * _OF_A_GPU
    each = _OF_A_CONNECTION + metrics * _OF_METRICS
    room = (allowed_files - others) // each
    if room >= max_connections:
        return max_connections
    few = min(_FEWEST_CONNECTIONS, max_connections)
    if room < few:
        raise BackendError(
            f"this process may have {allowed_files} files open, and a server needs "
            f"{others + few * each} at least; raise the limit (ulimit -n; "
            "LimitNOFILE= of systemd, --ulimit nofile= of Docker)"
        )
    _log.warning(
        "fewer connections than max_connections are taken, because of the limit of open files; "
        "raise it with ulimit -n",
        extra={
            "connections": room,
            "max_connections": max_connections,
            "open_files": allowed_files,
            "open_files_needed": others + max_connections * each,
        },
    )
    return room


def has_gpu() -> bool:
    """Whether NVIDIA's driver is here."""
    return Path("/dev/nvidiactl").exists()


class Listener(socket.socket):
    """A listening socket that closes a connection for which no file can be opened.

    asyncio would leave it waiting, try again for ever, and write a traceback each time. So one file
    is kept open to be closed in its place: then the connection can be taken, and closed.
    """

    def __init__(self, family: socket.AddressFamily) -> None:
        # Named, because asyncio switches Nagle's delay (40 ms an answer) off for TCP only.
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket.

        Raises:
            BlockingIOError: there is none that could be taken now.
        """
        while True:
            try:
                return super().accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
            self._close_one()

    def close(self) -> None:
        """See socket."""
        self._give_up_spare()
        super().close()

    def _close_one(self) -> None:
        self._give_up_spare()
        try:
            connection, _ = super().accept()
            connection.close()
        except OSError as error:  # another thread was faster
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        finally:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)
        _log.warning("a connection was closed, because no more files may be opened")

    def _give_up_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
