"""Sixteen live sources and one network: lag in peace and while four of them misbehave, and leaks.

    python benchmarks/live_sources.py ARTIFACT [--minutes N] [--threads N] [--results FILE]

Senders in processes of their own replay a small film (160x120, encoded once, H.264 in MPEG-TS) at
12.5 frames a second over TCP, HTTP and UDP; `stdeploy watch --sources FILE --json --http PORT`
answers about each once a second. In turns of a minute all goes well, or the sender of one source
is killed, that of another stopped (it keeps its connection and says nothing), a third sends random
bytes, and a fourth 60 frames a second. The lag of the other twelve is compared, and memory, open
files, threads and processes of the program are counted all along.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS, FAST_FPS = 12.5, 60.0
SECONDS_OF_FILM = 8
WIDTH, HEIGHT = 160, 120
TURN_SECONDS = 60.0
SETTLE_SECONDS = 15.0  # after a turn changes: sources are opened again
SAMPLE_SECONDS = 10.0
PROTOCOLS = ("tcp",) * 10 + ("http",) * 3 + ("udp",) * 3
BAD = ("killed", "stalled", "garbage", "fast")  # the first four sources, in turns
MOST_UNSENT = 2**20
UDP_BYTES = 1316


def film(fps: float) -> list[tuple[bytes, bool]]:
    """Frames of H.264, each with whether it is a key frame."""
    output = av.open(io.BytesIO(), "w", format="mpegts")
    options = {"preset": "ultrafast", "tune": "zerolatency", "g": "12"}
    stream = output.add_stream("libx264", rate=Fraction(fps), options=options)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    found = []
    for number in range(int(SECONDS_OF_FILM * fps)):
        moved = number * 12.5 / fps
        pixels = np.stack([x * 2 + moved * 4, y * 2, x + y + moved * 3], axis=-1) % 255
        frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
        found += [(bytes(p), p.is_keyframe) for p in stream.encode(frame)]
    return found


class Muxer:
    """Frames, again and again, as a transport stream whose clock goes on."""

    def __init__(self, frames: Sequence[tuple[bytes, bool]], fps: float) -> None:
        self.fps = fps
        self._frames = frames
        self._number = 0
        self._file = Collected()
        self._output = av.open(
            self._file, "w", format="mpegts", options={"flush_packets": "1"}, buffer_size=4096
        )
        self._stream = self._output.add_stream("libx264", rate=Fraction(self.fps))
        self._stream.width, self._stream.height = WIDTH, HEIGHT
        self._stream.pix_fmt = "yuv420p"

    def next(self) -> bytes:
        """The next frame."""
        content, key = self._frames[self._number % len(self._frames)]
        packet = av.Packet(content)
        packet.stream = self._stream
        packet.time_base = Fraction(1, 90_000)
        packet.pts = packet.dts = round(self._number * 90_000 / self.fps)
        packet.is_keyframe = key
        self._output.mux(packet)
        self._number += 1
        return self._file.taken()


class Collected(io.RawIOBase):
    """What a muxer has written since it was asked last."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, content: Any) -> int:
        """Keep it."""
        self._parts.append(bytes(content))
        return len(content)

    def taken(self) -> bytes:
        """All of it, once."""
        content, self._parts = b"".join(self._parts), []
        return content


async def send(address: str, fps: float, garbage: bool, frames: Sequence[Any]) -> None:
    """Be one source until this process ends."""
    protocol, _, port = address.partition(":")
    clients: set[asyncio.StreamWriter] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if protocol == "http":
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        clients.add(writer)

    if protocol != "udp":
        await asyncio.start_server(take, "127.0.0.1", int(port))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    muxer, draw = Muxer(frames, fps), random.Random(int(port))
    start, number = time.monotonic() + draw.random() / fps, 0
    while True:
        await asyncio.sleep(max(0.0, start + number / fps - time.monotonic()))
        number += 1
        content = draw.randbytes(2000) if garbage else muxer.next()
        if protocol == "udp":
            for at in range(0, len(content), UDP_BYTES):
                datagrams.sendto(content[at : at + UDP_BYTES], ("127.0.0.1", int(port)))
        for writer in list(clients):
            if writer.is_closing() or writer.transport.get_write_buffer_size() > MOST_UNSENT:
                writer.close()
                clients.discard(writer)
            else:
                writer.write(content)


async def send_all(addresses: Sequence[str], fps: float, garbage: bool) -> None:
    """Be some sources."""
    frames = film(fps)
    await asyncio.gather(*(send(address, fps, garbage, frames) for address in addresses))


@dataclasses.dataclass
class Sender:
    """A process that is some sources."""

    addresses: list[str]
    fps: float = FPS
    garbage: bool = False

    def __post_init__(self) -> None:
        settings = json.dumps([self.addresses, self.fps, self.garbage])
        self.process = subprocess.Popen([sys.executable, __file__, "--send", settings])

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


def free_ports(count: int) -> list[int]:
    """Numbers that nobody uses."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the program held at one moment."""

    second: float
    rss_mib: float
    readers_mib: float
    files: int
    threads: int
    processes: int
    load: float


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(each) for each in (task / "children").read_text().split()]
    return found


def status_of(pid: int, name: str) -> int:
    """A number of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def private_mib(pid: int) -> float:
    """Memory that only this process has."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(each.split()[1]) for each in lines if each.startswith("Private_")) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """That a process has used, and those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(each) for each in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def sampled(pid: int, start: float) -> Sample:
    """What the program holds now."""
    readers = children(pid)
    return Sample(
        round(time.monotonic() - start, 1),
        round(status_of(pid, "VmRSS") / 1024, 1),
        round(sum(map(private_mib, readers)), 1),
        len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - counted, not walked
        status_of(pid, "Threads"),
        len(readers),
        round(os.getloadavg()[0], 1),
    )


class Watched:
    """The program, and what it said.

    Attributes:
        answers: (second, name, lag) of each.
    """

    def __init__(
        self,
        artifact: Path,
        addresses: Sequence[str],
        folder: Path,
        start: float,
        threads: int,
    ) -> None:
        lines = ["hop_seconds = 1.0"]
        for number, address in enumerate(addresses):
            protocol, _, port = address.partition(":")
            url = f"{protocol}://127.0.0.1:{port}"
            lines += ["[[source]]", f'name = "{name_of(number)}"', f'url = "{url}"']
        (folder / "sources.toml").write_text("\n".join(lines) + "\n")
        (port,) = free_ports(1)
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"
        self.answers: list[tuple[float, str, float]] = []
        self.notes: list[str] = []
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "stdeploy", "watch", "--model", str(artifact.absolute())),
                *("--sources", "sources.toml", "--json", "--http", str(port)),
                *("--backend", "onnxruntime", "--threads", str(threads)),
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for read in (self._answers, self._notes):
            threading.Thread(target=read, args=(start,), daemon=True).start()

    def _answers(self, start: float) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            row = json.loads(line)
            now = time.monotonic() - start
            self.answers.append((now, row["source"], row["lag_seconds"]))

    def _notes(self, start: float) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.notes.append(f"{time.monotonic() - start:.1f} {line.rstrip()}")

    def states(self) -> dict[str, str]:
        """Of the sources now, as its metrics say."""
        text = urllib.request.urlopen(self.metrics_url, timeout=10).read().decode()
        found = {}
        for line in text.splitlines():
            if line.startswith("stdeploy_live_state{") and line.endswith(" 1.0"):
                words = line.split('"')
                found[words[1]] = words[3]
        return found


def name_of(number: int) -> str:
    """Of a source."""
    return f"{BAD[number]} in turns" if number < len(BAD) else f"good {number - len(BAD) + 1}"


@contextlib.contextmanager
def misbehaving(senders: list[Sender]) -> Iterator[None]:
    """The first four senders, each in its way."""
    killed, stalled, garbage, fast = senders
    killed.end()
    stalled.process.send_signal(signal.SIGSTOP)
    garbage.end()
    fast.end()
    senders[2] = Sender(garbage.addresses, garbage=True)
    senders[3] = Sender(fast.addresses, fps=FAST_FPS)
    try:
        yield
    finally:
        stalled.process.send_signal(signal.SIGCONT)
        for number in (2, 3):
            senders[number].end()
        for number in (0, 2, 3):
            senders[number] = Sender(senders[number].addresses)


def quantiles(lags: Sequence[float]) -> dict[str, float]:
    """Median, 99 of 100, and the largest, in seconds."""
    ordered = sorted(lags)
    return {
        "median": round(statistics.median(ordered), 3),
        "p99": round(ordered[len(ordered) * 99 // 100], 3),
        "largest": round(ordered[-1], 3),
    }


def summary(
    answers: Sequence[tuple[float, str, float]], turns: Sequence[tuple[str, float, float]]
) -> dict[str, Any]:
    """Lag and answers a second of the twelve, in peace and in trouble."""
    good = {name_of(number) for number in range(len(BAD), len(PROTOCOLS))}
    found: dict[str, Any] = {}
    for kind in ("peace", "trouble"):
        spans = [(a + SETTLE_SECONDS * (kind == "peace"), b) for k, a, b in turns if k == kind]
        inside = [
            each for each in answers if each[1] in good and any(a <= each[0] <= b for a, b in spans)
        ]
        if not inside:
            continue
        seconds = sum(b - a for a, b in spans)
        counts: dict[str, int] = defaultdict(int)
        gaps: list[float] = []
        last: dict[str, float] = {}
        for when, name, _ in inside:
            counts[name] += 1
            gap = when - last.get(name, when)
            if gap < SETTLE_SECONDS:  # else another turn lies between
                gaps.append(gap)
            last[name] = when
        found[kind] = {
            "seconds": round(seconds),
            "answers": len(inside),
            "answers_a_second_of_the_slowest": round(min(counts.values()) / seconds, 3),
            "longest_gap_seconds": round(max(gaps), 3),
            "lag_seconds": quantiles([lag for *_, lag in inside]),
        }
    return found


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=1, help="of the network")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--send")
    arguments = parser.parse_args()
    if arguments.send:
        asyncio.run(send_all(*json.loads(arguments.send)))
        return
    if arguments.artifact is None:
        parser.error("name an artifact")
    # A shell that starts this in the background may have it ignored, and with it the program.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result = measure(arguments.artifact, 60 * arguments.minutes, arguments.threads)
    text = json.dumps(result, indent=1)
    if arguments.results:
        arguments.results.write_text(text + "\n")
    print(text)


def measure(artifact: Path, seconds: float, threads: int) -> dict[str, Any]:
    """All of it."""
    addresses = [f"{p}:{port}" for p, port in zip(PROTOCOLS, free_ports(16), strict=True)]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        good = Sender(addresses[len(BAD) :])
        senders = [Sender([address]) for address in addresses[: len(BAD)]]
        watched = Watched(artifact, addresses, Path(folder), start, threads)
        samples: list[Sample] = []
        turns: list[tuple[str, float, float]] = []
        states: dict[str, dict[str, str]] = {}

        def wait(kind: str, length: float) -> None:
            begun = time.monotonic()
            while time.monotonic() < begun + length:
                time.sleep(min(SAMPLE_SECONDS, max(0.1, begun + length - time.monotonic())))
                samples.append(sampled(watched.process.pid, start))
                print(kind, samples[-1], flush=True, file=sys.stderr)
            turns.append((kind, begun - start, time.monotonic() - start))
            states[kind] = watched.states()

        try:
            wait("start", 20.0)
            while time.monotonic() - start + 2 * TURN_SECONDS < seconds:
                wait("peace", TURN_SECONDS)
                with misbehaving(senders):
                    wait("trouble", TURN_SECONDS)
            wait("peace", TURN_SECONDS)
            program = watched.process.pid
            used = {
                "network and page": round(cpu_seconds(program), 1),
                "readers": round(sum(map(cpu_seconds, children(program))), 1),
                "sender of twelve": round(cpu_seconds(good.process.pid), 1),
            }
            watched.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):  # its status then says so
                watched.process.wait(30)
        finally:
            watched.process.kill()
            watched.process.wait()
            for sender in (good, *senders):
                sender.process.send_signal(signal.SIGCONT)
                sender.end()
    return {
        "minutes": round((time.monotonic() - start) / 60, 1),
        "exit_status": watched.process.returncode,
        "threads": threads,
        "twelve_good_sources": summary(watched.answers, turns),
        "states_at_the_end_of": states,
        "cpu_seconds": used,
        "samples": [dataclasses.astuple(each) for each in samples],
        "sample_fields": [field.name for field in dataclasses.fields(Sample)],
        "notes": watched.notes[-40:],
    }


if __name__ == "__main__":
    main()
