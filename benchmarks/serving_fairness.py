"""What good clients get while another floods the server.

    python benchmarks/serving_fairness.py ARTIFACT VIDEO [--seconds N] [--flood N]
        [--views N]

One client asks alone. Then a flood of connections from one address (127.0.0.1), which asks again
soon after whatever it is told, and five clients from others (127.0.0.2 to .6), which have one
request each under way and wait as long as they are told. A fair share is a sixth of all answers.
"""

import argparse
import collections
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from serving import server_process

GOOD_CLIENTS = 5
HEAD_START_SECONDS = 5.0
AGAIN_SECONDS = 2.0  # of the flood
ALONE_REQUESTS = 3
ANSWERED = 'stdeploy_requests_total{route="/v1/classify",status="200"} '


class Client(threading.Thread):
    """Sends one request after the other.

    Args:
        address: of its own.
        url: of the server.
        video: what it sends.
        views: of it.
        end: when to stop, of `time.monotonic`.
        patient: whether it waits as long as it is told.

    Attributes:
        codes: what came back until the end: "200", or why there was no answer.
        slowest: seconds of the slowest answer.
    """

    def __init__(
        self, address: str, url: str, video: bytes, views: int, end: float, *, patient: bool = True
    ) -> None:
        super().__init__()
        self.address = address
        self.codes: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0
        self._url = f"{url}/v1/classify"
        self._video = video
        self._views = views
        self._end = end
        self._patient = patient

    def run(self) -> None:
        """See above."""
        transport = httpx.HTTPTransport(local_address=self.address)
        with httpx.Client(transport=transport, timeout=None) as http:
            while (start := time.monotonic()) < self._end:
                files = {"file": ("video.mp4", self._video)}
                answer = http.post(self._url, files=files, params={"views": self._views})
                if (now := time.monotonic()) > self._end:
                    return
                if answer.status_code == 200:
                    self.codes["200"] += 1
                    self.slowest = max(self.slowest, now - start)
                    continue
                self.codes[answer.json()["code"]] += 1
                after = float(answer.headers.get("retry-after", 1))
                time.sleep(after if self._patient else AGAIN_SECONDS)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--flood", type=int, default=100, help="Connections.")
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--flooded", help=argparse.SUPPRESS)  # the flood's own process
    arguments = parser.parse_args()
    video = arguments.video.read_bytes()
    if arguments.flooded:
        end = time.monotonic() + HEAD_START_SECONDS + arguments.seconds
        _run(
            [
                Client("127.0.0.1", arguments.flooded, video, arguments.views, end, patient=False)
                for _ in range(arguments.flood)
            ]
        )
        return
    with server_process(arguments.artifact) as (url, _):
        alone = []
        for _ in range(ALONE_REQUESTS):
            start = time.monotonic()
            answer = httpx.post(
                f"{url}/v1/classify",
                files={"file": video},
                params={"views": arguments.views},
                timeout=None,
            )
            answer.raise_for_status()
            alone.append(time.monotonic() - start)
        print(f"alone: {min(alone):.2f} s an answer", flush=True)
        flood = subprocess.Popen([sys.executable, *sys.argv, "--flooded", url])
        try:
            time.sleep(HEAD_START_SECONDS)
            before = _answered(url)
            end = time.monotonic() + arguments.seconds
            good = [
                Client(f"127.0.0.{number + 2}", url, video, arguments.views, end)
                for number in range(GOOD_CLIENTS)
            ]
            watch = threading.Timer(arguments.seconds, lambda: after.append(_answered(url)))
            after: list[float] = []
            watch.start()
            _run(good)
            watch.join()
            flood.wait()
        finally:
            flood.kill()
            flood.wait()
    answers = after[0] - before
    print(f"all: {answers:.0f} answers in {arguments.seconds:.0f} s")
    for client in good:
        share = client.codes["200"] * (GOOD_CLIENTS + 1) / answers
        print(f"{client.address}: {share:.2f} of a fair share")


def _run(clients: Sequence[Client]) -> None:
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    by_address: dict[str, list[Client]] = collections.defaultdict(list)
    for client in clients:
        by_address[client.address].append(client)
    for address, connections in by_address.items():
        codes = sum((client.codes for client in connections), collections.Counter())
        slowest = max(client.slowest for client in connections)
        print(f"{address}: {dict(codes)}, slowest answer {slowest:.1f} s", flush=True)


def _answered(url: str) -> float:
    """Videos that were classified so far."""
    for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines():
        if line.startswith(ANSWERED):
            return float(line.removeprefix(ANSWERED))
    return 0.0


if __name__ == "__main__":
    main()
