"""Sources of live video for tests: servers in threads that send what they are told."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.odd_videos import coloured_frames, encode

RATE = 25


def write_film(path: Path, seconds: float) -> None:
    """MPEG-TS that can be joined anywhere."""
    encode(path, coloured_frames(round(seconds * RATE)), "mpeg2video", g="5", rate=RATE)


class Sender:
    """Sends content over TCP to whoever connects, at an even pace.

    Args:
        content: of a film.
        seconds: that it lasts.

    Attributes:
        url: where.
        paused: sends nothing while it is set.
        connections: that were taken.
    """

    def __init__(self, content: bytes, seconds: float) -> None:
        self.paused = threading.Event()
        self.connections = 0
        self._content, self._seconds = content, seconds
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def close(self) -> None:
        """Break off everything."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                connection, _ = self._server.accept()
                self.connections += 1
                thread = threading.Thread(target=self._send, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _send(self, connection: socket.socket) -> None:
        pieces = max(1, round(self._seconds * RATE))
        size = -(-len(self._content) // pieces)
        start = time.monotonic()
        with connection, contextlib.suppress(OSError):
            for number in range(pieces):
                while self.paused.is_set() and not self._over.is_set():
                    time.sleep(0.01)
                if self._over.wait(max(0.0, start + number / RATE - time.monotonic())):
                    return
                connection.sendall(self._content[number * size : (number + 1) * size])


@contextlib.contextmanager
def sending(content: bytes, seconds: float) -> Iterator[Sender]:
    """A sender that is closed in the end."""
    sender = Sender(content, seconds)
    try:
        yield sender
    finally:
        sender.close()


def garbage(seconds: float) -> bytes:
    """What no decoder makes sense of, begun as a transport stream."""
    packets = [b"G" + os.urandom(187) for _ in range(round(seconds * 200))]
    return b"".join(packets)


def readers_of(pid: int) -> list[int]:
    """The reading processes that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(parent) == pid and b"live_worker" in command:
                found.append(int(entry.name))
    return found
