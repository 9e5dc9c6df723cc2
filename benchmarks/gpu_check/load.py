"""A server in a process of its own, and clients that each send one video after the other."""

import collections
import contextlib
import dataclasses
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import httpx
import numpy as np

MODULES = (
    *("fastapi", "fastapi_offline", "multipart", "prometheus_client", "pydantic_settings"),
    *("pythonjsonlogger", "uvicorn"),
)
CLIENTS = 8
_READY_SECONDS = 60.0
_FIRST = 2


@dataclasses.dataclass(frozen=True)
class Answers:
    """What clients got.

    Attributes:
        seconds: that they asked.
        latencies: of good answers, in seconds.
        statuses: how often each came.
        labels: that were best; one video has one.
    """

    seconds: float
    latencies: Sequence[float]
    statuses: collections.Counter[int]
    labels: frozenset[str]

    @property
    def well(self) -> bool:
        """Whether there were answers, always the same, and no fault of the server."""
        return len(self.labels) == 1 and not any(status >= 500 for status in self.statuses)

    def __str__(self) -> str:
        text = f"statuses {dict(self.statuses)}, labels {sorted(self.labels)}"
        if not self.latencies:
            return text
        median, slowest = statistics.median(self.latencies), max(self.latencies)
        rate = len(self.latencies) / self.seconds
        return f"{rate:.1f} videos/s, {median:.3g} s each, at most {slowest:.3g} s; {text}"


def serve_and_ask(
    artifact: Path,
    options: Sequence[str],
    *,
    seconds: float,
    video: Path | None = None,
    watch: AbstractContextManager[object] | None = None,
) -> Answers:
    """Start a server, let the clients ask for some time, and stop it.

    Args:
        artifact: what it serves.
        options: of `stdeploy serve`.
        seconds: of asking, after the first answer.
        video: what they send; None is ten seconds of 340x256.
        watch: is open while they ask.
    """
    with tempfile.TemporaryDirectory() as folder:
        if video is None:
            video = Path(folder) / "video.mp4"
            _write_video(video)
        content = video.read_bytes()
    with _server(artifact, options) as url, contextlib.ExitStack() as watched:
        for _ in range(_FIRST):
            _ask(url, content, until=0.0)  # the first ones wait for kernels
        if watch is not None:
            watched.enter_context(watch)
        start = time.monotonic()
        found: list[list[tuple[int, float, str]]] = []
        threads = [
            threading.Thread(target=lambda: found.append(_ask(url, content, start + seconds)))
            for _ in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.monotonic() - start
        watched.close()
    rows = [row for one in found for row in one]
    good = [row for row in rows if row[0] == httpx.codes.OK]
    return Answers(
        taken,
        [latency for _, latency, _ in good],
        collections.Counter(status for status, _, _ in rows),
        frozenset(label for _, _, label in good),
    )


def _ask(url: str, content: bytes, until: float) -> list[tuple[int, float, str]]:
    """Status, seconds and best label of one request after the other; at least one."""
    rows = []
    with httpx.Client(timeout=60.0) as client:
        while True:
            start = time.monotonic()
            answer = client.post(f"{url}/v1/classify", files={"file": ("v.mp4", content)})
            good = answer.status_code == httpx.codes.OK
            label = answer.json()["predictions"][0]["label"] if good else ""
            rows.append((answer.status_code, time.monotonic() - start, label))
            if time.monotonic() >= until:
                return rows


@contextlib.contextmanager
def _server(artifact: Path, options: Sequence[str]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "stdeploy", "serve", "-m", str(artifact)]
    process = subprocess.Popen([*command, "--port", str(port), *options])
    try:
        deadline = time.monotonic() + _READY_SECONDS * (6 if "cpu" in options else 1)
        while not _ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not come up; see its lines above")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/readyz", timeout=5.0).status_code == httpx.codes.OK
    return False


def _write_video(path: Path) -> None:
    """Ten seconds of moving noise, 340 x 256 at 25 frames a second."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 43, 3), np.uint8)
    picture = cv2.resize(picture, (340, 256), interpolation=cv2.INTER_LINEAR)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (340, 256))
    for number in range(250):
        writer.write(np.roll(picture, 3 * number, axis=1))
    writer.release()
