"""A folder in which the commands of one page run, in order."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.docs.pages import Command, Snippet
from tests.docs.rules import STAND_INS, cheaper

_PROGRAMS = Path(sys.executable).parent
_PORT = re.compile(r"(?<=localhost:|127\.0\.0\.1:)8000\b|(?<=localhost:)8000\b")
_SECONDS = 600  # after that something hangs


class Sandbox:
    """Runs what stands on a page; a context manager, at whose end its servers are gone.

    Args:
        folder: to run in.
        cache: in place of the user's, with what `stdeploy pull` would bring.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self._environment = os.environ | {
            "PATH": f"{_PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "STDEPLOY_CACHE": str(cache),
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",  # threads that wait for each other starve beside other tests
            "PYTHONWARNINGS": "default",
        }
        self._server: subprocess.Popen[str] | None = None
        self._port = 8000

    def run(self, item: Command | Snippet) -> tuple[int, str]:
        """Run a command or a snippet; a server stays, for those that follow.

        Returns:
            Exit status, and all that was printed.
        """
        if isinstance(item, Snippet):
            return self._finish([sys.executable, "-c", self._here(item.text)])
        if re.match(r"stdeploy serve\b", item.text):
            return 0, self._serve(item.text)
        return self._finish(["bash", "-euo", "pipefail", "-c", cheaper(self._here(item.text))])

    def stand_in(self, command: Command) -> None:
        """Where a foreign command would make something answer, start a server."""
        for pattern, ours in STAND_INS.items():
            if re.fullmatch(pattern, command.text):
                self._serve(ours)

    def _here(self, text: str) -> str:
        return _PORT.sub(str(self._port), text)

    def _finish(self, words: list[str]) -> tuple[int, str]:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
        return done.returncode, done.stdout

    def _serve(self, text: str) -> str:
        """Start a server, and wait until it answers."""
        self._stop()
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            self._port = door.getsockname()[1]
        log = self.folder / ".server.log"
        text = f"exec {re.sub(r'#.*$', '', cheaper(text))} --port {self._port}"
        with log.open("w") as file:
            self._server = subprocess.Popen(
                ["bash", "-c", text], cwd=self.folder, env=self._environment, stderr=file, text=True
            )
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end and self._server.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{self._port}/readyz").status_code == 200:
                    return log.read_text()
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.1)
        raise AssertionError(f"{text} is not ready:\n{log.read_text()}")

    def _stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            try:
                assert self._server.wait(20) == 0
            finally:
                self._server.kill()
                self._server.wait()
                self._server = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
