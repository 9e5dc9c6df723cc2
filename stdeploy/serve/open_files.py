"""How many files a server may have open at once, connections among them.

The system has a limit for each process (`ulimit -n`). Where it is reached, no upload can be kept
and no decoding process started, and asyncio tries to take connections again and again. So no more
connections are taken than leave room for the rest.
"""

import contextlib
import errno
import logging
import os
import resource
import socket
from pathlib import Path
from typing import Any

from stdeploy.errors import BackendError

_log = logging.getLogger(__name__)
_OF_THE_SERVER = 24  # libraries, listening sockets, files of the page while they are sent
_OF_A_DECODER = 3  # its two pipes, and a third while it starts
_OF_A_GPU = 64
_OF_A_CONNECTION = 2  # itself, and the file of its upload
_OF_METRICS = 1  # as many connections again, on their port
_FEWEST_CONNECTIONS = 8


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
