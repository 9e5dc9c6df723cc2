"""Whether the server stays right and small under hostile and mixed load, for a long time.

    python benchmarks/serving_endurance.py ARTIFACT VIDEO ... [--attack N] [--each N]
        [--minutes N]

First an attack of N requests of all kinds at random, 16 at once, while another process asks the
probes. Then N of each hostile request of tests/serve/hostile.py, with good ones between. Then
minutes of good videos, hostile ones, clients that vanish, and decoding processes that are killed,
all at once.
Every good answer has to be the one that was given in peace, or a 503 or 504; no answer a 500.
"""

import argparse
import collections
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from serving import resident_mib

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.serve.conftest import Server, running
from tests.serve.hostile import Hostile

GOOD_CLIENTS, HOSTILE_CLIENTS, VANISHING_CLIENTS = 4, 2, 1
KILL_EACH_SECONDS = 5.0
ATTACKERS = 16
PROBES = """
import http.client, sys, threading, time
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
while not ended.wait(0.02):
    start = time.monotonic()
    connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=60)
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200
    print(time.monotonic() - start)
    connection.close()
"""
FAST = {"large head", "no HTTP", "many requests in a row", "options", "tensors", "wrong type"}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--attack", type=int, default=2000)
    parser.add_argument("--each", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    limits = ("--header-seconds", "2", "--upload-seconds", "3", "--request-seconds", "30")
    with tempfile.TemporaryDirectory() as folder:
        hostile = Hostile(Path(folder), arguments.videos[0], arguments.artifact.stem)
        with running(arguments.artifact, *limits, "--max-pixels", "4000000") as server:
            wanted = {video: _good(server, video).json() for video in arguments.videos}
            peace = {video: answer["predictions"] for video, answer in wanted.items()}
            _show(server, "in peace")
            if arguments.attack:
                _attack(server, hostile, arguments.attack)
                _show(server, "after the attack")
            if arguments.each:
                _each(server, hostile, peace, arguments.each)
            if arguments.minutes:
                _mixed(server, hostile, peace, 60 * arguments.minutes)
            _show(server, "at the end")
            print("files left:", len(server.left_uploads()))
            print("tracebacks in the log:", sum("Traceback" in line for line in server.log))


def _attack(server: Server, hostile: Hostile, count: int) -> None:
    with _probed(server) as in_peace:
        time.sleep(10.0)
    statuses: collections.Counter[int] = collections.Counter()
    draw = random.Random(count)
    kinds = [draw.choice(list(hostile.kinds)) for _ in range(count)]
    with _probed(server) as attacked, ThreadPoolExecutor(ATTACKERS) as pool:
        sent = [
            # Any body may be too slow for the limits above, and room may be short.
            pool.submit(hostile.send, kind, server.address, seed, also=frozenset({408, 503}))
            for seed, kind in enumerate(kinds)
        ]
        statuses.update(future.result() for future in sent)
    print(f"attack of {count}: {dict(sorted(statuses.items()))}")
    for when, seconds in (("in peace", in_peace), ("in the attack", attacked)):
        ordered = sorted(seconds)
        print(
            f"  {len(ordered)} probes {when}: median {ordered[len(ordered) // 2] * 1e3:.1f} ms, "
            f"99 of 100 under {ordered[len(ordered) * 99 // 100] * 1e3:.0f} ms, "
            f"slowest {ordered[-1] * 1e3:.0f} ms",
            flush=True,
        )


@contextlib.contextmanager
def _probed(server: Server) -> Iterator[list[float]]:
    """Ask a probe all the time, from a process of its own.

    Yields:
        A list that has the seconds of each answer when the block has ended.
    """
    seconds: list[float] = []
    host, port = server.address
    process = subprocess.Popen(
        [sys.executable, "-c", PROBES, host, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield seconds
        output, _ = process.communicate()
        seconds += map(float, output.split())
    finally:
        process.kill()


def _each(server: Server, hostile: Hostile, peace: dict[Path, Any], count: int) -> None:
    statuses: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    good: collections.Counter[str] = collections.Counter()
    videos = itertools.cycle(peace)
    slowest = 0.0
    with ThreadPoolExecutor(16) as pool:
        for kind in hostile.kinds:
            start = time.monotonic()
            sent = [pool.submit(hostile.send, kind, server.address, seed) for seed in range(count)]
            while not all(future.done() for future in sent):
                good[_right(server, next(videos), peace)] += 1
            for future in sent:
                statuses[kind][future.result()] += 1
            slowest = max(slowest, (time.monotonic() - start) / count)
            print(f"  {kind}: {dict(sorted(statuses[kind].items()))}", flush=True)
            _show(server, f"after {count} times {kind}")
    print("good ones between:", dict(sorted(good.items())))


def _mixed(server: Server, hostile: Hostile, peace: dict[Path, Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    seeds = itertools.count(10_000)
    counts: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()

    def until_the_end(once: Callable[[random.Random], str]) -> None:
        draw = random.Random(next(seeds))
        while time.monotonic() < end:
            outcome = once(draw)
            with lock:
                counts[outcome] += 1

    def good(draw: random.Random) -> str:
        return f"good {_right(server, draw.choice(list(peace)), peace)}"

    def bad(draw: random.Random) -> str:
        kind = draw.choice(list(hostile.kinds))
        if kind in FAST:
            time.sleep(0.2)  # or they would be nearly all
        # The machine is so busy that any body may be too slow for the limits above.
        hostile.send(kind, server.address, next(seeds), also=frozenset({408}))
        return "hostile"

    def vanish(draw: random.Random) -> str:
        hostile.send("vanishes", server.address, next(seeds))
        time.sleep(draw.random())
        return "vanished"

    def kill(draw: random.Random) -> str:
        time.sleep(2 * KILL_EACH_SECONDS * draw.random())
        for process in server.decoders()[:1]:
            os.kill(process, signal.SIGKILL)
        return "killed"

    def show(_draw: random.Random) -> str:
        time.sleep(min(60.0, max(0.0, end - time.monotonic())))
        with lock:
            _show(server, str(dict(sorted(counts.items()))))
        return "shown"

    clients: Sequence[Callable[[random.Random], str]] = (
        *[good] * GOOD_CLIENTS,
        *[bad] * HOSTILE_CLIENTS,
        *[vanish] * VANISHING_CLIENTS,
        kill,
        show,
    )
    with ThreadPoolExecutor(len(clients)) as pool:
        for done in [pool.submit(until_the_end, once) for once in clients]:
            done.result()
    print("mixed:", dict(sorted(counts.items())))


def _right(server: Server, video: Path, peace: dict[Path, Any]) -> str:
    """The status of a good request, or why it has no answer; an answer is as it was in peace."""
    answer = _good(server, video)
    assert answer.status_code in (200, 503, 504), answer.text
    if answer.status_code == 200:
        assert answer.json()["predictions"] == peace[video], (video, answer.json())
        return "200"
    code: str = answer.json()["code"]
    return code


def _good(server: Server, video: Path) -> httpx.Response:
    files = {"file": ("video.mp4", video.read_bytes())}
    return httpx.post(f"{server.url}/v1/classify", files=files, timeout=150)


def _show(server: Server, when: str) -> None:
    own = server.resident_bytes() / 2**20
    decoding = [resident_mib(process) for process in server.decoders()]
    handles = server.metric("process_open_fds")
    print(
        f"{own:.0f} MiB, {handles:.0f} handles, {len(decoding)} decoders with "
        f"{sum(decoding):.0f} MiB; {when}",
        flush=True,
    )


if __name__ == "__main__":
    main()
