"""The server under load: against the library, at ten times what it can do, beside LitServe.

    pip install locust litserve
    python benchmarks/serving.py ARTIFACT VIDEO ... [--seconds N] [--rounds N] [--overload N]

In each round, with the same videos: the library classifies them all; eight clients keep the server
busy; the same for LitServe; then one video at a time by the library, and by one client. At the end
clients ask ten times as often as the server can answer.
"""

import argparse
import collections
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
CLIENTS = 8
TIMES_CAPACITY = 10
LIBRARY = """
import json, sys, time
from pathlib import Path
from stdeploy.inference.classifier import Classifier
artifact, *videos = map(Path, sys.argv[1:])
with Classifier.open(artifact) as classifier:
    for all_at_once in (True, False):
        times = []
        start = time.monotonic()
        if all_at_once:
            for row in classifier.classify_many(videos):
                assert row.error is None, row.error
            print(len(videos) / (time.monotonic() - start))
        else:
            for video in videos[:20]:
                start = time.monotonic()
                classifier.classify(video)
                times.append(time.monotonic() - start)
            print(json.dumps(times))
"""


@dataclasses.dataclass(frozen=True)
class Answers:
    """What came back: statuses, when, and after how many seconds."""

    statuses: list[int]
    when: list[float]
    seconds: list[float]

    def rate(self) -> float:
        """Good answers a second, from the first to the last."""
        good = sorted(
            w for w, status in zip(self.when, self.statuses, strict=True) if status == 200
        )
        return (len(good) - 1) / (good[-1] - good[0])

    def good(self) -> list[float]:
        """Seconds of those with status 200."""
        both = zip(self.seconds, self.statuses, strict=True)
        return [seconds for seconds, status in both if status == 200]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overload", type=float, default=60.0, help="Seconds of it; 0 for none.")
    parser.add_argument("--without-litserve", action="store_true")
    arguments = parser.parse_args()
    artifact, videos = arguments.artifact, arguments.videos
    rates: dict[str, list[float]] = collections.defaultdict(list)
    slower = []
    for _ in range(arguments.rounds):
        library, single = _library(artifact, videos)
        rates["library"].append(library)
        with server_process(artifact) as (url, _):
            rates["server"].append(_load(url, "/v1/classify", videos, arguments.seconds).rate())
            one = _load(url, "/v1/classify", videos[:20], arguments.seconds, clients=1)
        slower.append(statistics.median(one.good()) / statistics.median(single))
        if not arguments.without_litserve:
            with _litserve(artifact) as url:
                rates["LitServe"].append(_load(url, "/predict", videos, arguments.seconds).rate())
        now = ", ".join(f"{name} {found[-1]:.2f}/s" for name, found in rates.items())
        print(
            f"{now}; one client's median latency {slower[-1]:.2f} times the library's", flush=True
        )
    for name in ("server", "LitServe"):
        if rates[name]:
            ratios = [a / b for a, b in zip(rates[name], rates["library"], strict=True)]
            print(f"{name}: {statistics.median(ratios):.2f} of the library")
    print(f"one client: {statistics.median(slower):.2f} times the library's latency")
    if arguments.overload:
        _overload(artifact, videos, statistics.median(rates["server"]), arguments.overload)


def _overload(artifact: Path, videos: Sequence[Path], capacity: float, seconds: float) -> None:
    wanted = TIMES_CAPACITY * capacity
    # Each client waits for its answer, so there have to be many for the rate to be kept up.
    clients = min(400, max(50, round(wanted * 8)))
    with server_process(artifact) as (url, process):
        before = resident_mib(process.pid)
        answers = _load(
            url,
            "/v1/classify",
            videos,
            seconds,
            clients=clients,
            each_seconds=clients / wanted,
        )
        after = resident_mib(process.pid)
        assert process.poll() is None
    counts = collections.Counter(answers.statuses)
    asked = len(answers.statuses) / seconds
    print(f"overload: {asked:.1f} requests/s by {clients} clients, capacity {capacity:.2f}/s")
    print(f"  answers: {dict(sorted(counts.items()))}, good ones {answers.rate():.2f}/s")
    print(f"  slowest good answer {max(answers.good()):.1f} s; {before:.0f} -> {after:.0f} MiB")


def _library(artifact: Path, videos: Sequence[Path]) -> tuple[float, list[float]]:
    """Videos a second, all of them; and seconds of each, one at a time."""
    run = subprocess.run(
        [sys.executable, "-c", LIBRARY, str(artifact), *map(str, videos)],
        check=True,
        capture_output=True,
        text=True,
    )
    rate, single = run.stdout.splitlines()
    return float(rate), json.loads(single)


def _load(
    url: str,
    route: str,
    videos: Sequence[Path],
    seconds: float,
    *,
    clients: int = CLIENTS,
    each_seconds: float = 0.0,
) -> Answers:
    with tempfile.NamedTemporaryFile() as result:
        subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", str(HERE / "serving_load.py")),
                *("--headless", "--only-summary", "--host", url, "--users", str(clients)),
                *("--spawn-rate", "100", "--run-time", f"{seconds:.0f}s", "--stop-timeout", "100"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ
            | {
                "VIDEOS": ":".join(map(str, videos)),
                "ROUTE": route,
                "EACH_SECONDS": str(each_seconds),
                "RESULT": result.name,
            },
        )
        rows = [json.loads(line) for line in Path(result.name).read_text().splitlines()]
    return Answers(*(list(column) for column in zip(*rows, strict=True)))


@contextlib.contextmanager
def server_process(artifact: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A server of its own, ready; its address and its process."""
    port = _free_port()
    command = (sys.executable, "-m", "stdeploy", "serve", "-m", str(artifact), "--port", str(port))
    with _running(command, f"http://127.0.0.1:{port}", "/readyz") as process:
        yield f"http://127.0.0.1:{port}", process


@contextlib.contextmanager
def _litserve(artifact: Path) -> Iterator[str]:
    port = _free_port()
    command = (sys.executable, str(HERE / "serving_litserve.py"), str(artifact), str(port))
    with _running(command, f"http://127.0.0.1:{port}", "/health"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _running(command: Sequence[str], url: str, ready: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in itertools.repeat(None, 600):
            with contextlib.suppress(urllib.error.URLError, OSError):
                if urllib.request.urlopen(url + ready).status == 200:
                    break
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves its workers


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def resident_mib(process: int) -> float:
    """Of a process, its children aside; 0 where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
