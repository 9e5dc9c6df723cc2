"""Closing a connection in two steps, so that a client that is still sending hears why.

Where bytes come to a connection that was closed at once, the system answers with a reset, and that
of the client may throw away what was sent before and not yet read: the client never learns why it
was refused. So a server closes its own side first, reads and throws away what still comes, and
closes the rest when the client has closed its side (RFC 9112, 9.6), or soon. TLS in asyncio has no
side that could be closed alone; there the length of the answer tells the client where it ends.
"""

import asyncio
from collections.abc import Callable
from typing import Any

_SILENT_SECONDS = 2.0  # without a byte of the client
_LINGER_SECONDS = 30.0  # in all
_LINGER_BYTES = 64 * 2**20


class LingeringTransport:
    """A transport that closes in two steps where the client is still sending.

    All that is not said here is done by the transport that it stands before.

    Args:
        transport: of the connection.
        client_sends: whether the client has announced more than it has sent, asked by `close`.
        loop: which has the clock.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        client_sends: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._client_sends = client_sends
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None  # where this lingers
        self._bytes_left = _LINGER_BYTES
        self._end = 0.0  # by the clock of the loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more may be written."""
        return self._timer is not None or self._transport.is_closing()

    def close(self) -> None:
        """Close in two steps where the client is still sending; a second call closes at once."""
        if not self.is_closing() and self._client_sends():
            self.linger()
        else:
            self.finish()

    def linger(self) -> None:
        """Close our side only, and the rest soon."""
        if self.is_closing():
            self.finish()
            return
        self._end = self._loop.time() + _LINGER_SECONDS
        self._wait()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()

    def throws_away(self, count: int) -> bool:
        """Whether bytes that came are to be thrown away; too many of them end the connection.

        Args:
            count: of the bytes.
        """
        if self._timer is None:
            return False
        self._bytes_left -= count
        if self._bytes_left <= 0:
            self._transport.abort()
        else:
            self._wait()
        return True

    def _wait(self) -> None:
        """Let the client send on for a while."""
        if self._timer is not None:
            self._timer.cancel()
        seconds = min(_SILENT_SECONDS, self._end - self._loop.time())
        self._timer = self._loop.call_later(max(0.0, seconds), self._transport.close)

    def finish(self) -> None:
        """Close all of it now."""
        if self._timer is not None:
            self._timer.cancel()
        self._transport.close()
