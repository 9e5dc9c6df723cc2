"""The server as a process, on a tiny network and a real video."""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_checkpoint
from stdeploy.models.checkpoint import save_checkpoint
from tests.helpers.models import card_of, tiny_model
from tests.helpers.odd_videos import coloured_frames, encode

CLIP = ClipSpec(num_frames=6, frame_stride=2, fps=12.5, short_side_px=36, crop_px=32)
BACKEND = "onnxruntime"


@dataclasses.dataclass
class Server:
    """A server that runs.

    Attributes:
        url: where.
        process: it.
        uploads: the folder of its uploads.
        log: what it wrote to standard error, so far.
    """

    url: str
    process: "subprocess.Popen[str]"
    uploads: Path
    log: list[str]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def left_uploads(self) -> list[Path]:
        return [path for path in self.uploads.rglob("*") if path.is_file() and path.name[0] != "."]

    def metric(self, name: str) -> float:
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")

    def resident_bytes(self) -> float:
        return self.metric("process_resident_memory_bytes")

    def decoders(self) -> list[int]:
        """Its decoding processes."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    command = (entry / "cmdline").read_text()
                except OSError:
                    continue
                if int(parent) == self.process.pid and "decode_worker" in command:
                    found.append(int(entry.name))
        return found

    @contextlib.contextmanager
    def decoding_stopped(self) -> Iterator[list[int]]:
        """While it lasts no video is read, so that requests stay inside on any machine.

        Yields:
            The processes that stand still.
        """
        stopped = self.decoders()
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        try:
            yield stopped
        finally:
            for process in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def wait_until(self, true: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "".join(self.log[-20:])
            time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(
    artifact: Path,
    *options: str,
    ready: bool = True,
    open_files: int | None = None,
    **variables: str,
) -> Iterator[Server]:
    """Start a server on a free port; at the end it is told to go, and has to.

    Args:
        artifact: what answers.
        options: of the command line.
        ready: wait until it says that it answers; otherwise until it listens.
        open_files: that the system allows it.
        variables: of its environment.
    """
    limited = ("sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh") if open_files else ()
    port = 0 if ready else free_port()  # what it takes is said when it answers
    awaited = r" at (http://\S+)" if ready else "^opening "
    with tempfile.TemporaryDirectory() as uploads:
        process = subprocess.Popen(
            [
                *(*limited, sys.executable, "-m", "stdeploy"),
                *("serve", str(artifact), "--port", str(port)),
                *("--backend", BACKEND, "--threads", "1", "--upload-folder", uploads, *options),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )
        log: list[str] = []
        assert process.stderr
        try:
            for line in process.stderr:
                log.append(line)
                if found := re.search(awaited, line):
                    break
            else:
                raise AssertionError("".join(log))
            reader = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
            reader.start()
            url = found[1] if ready else f"http://127.0.0.1:{port}"
            server = Server(url, process, Path(uploads), log)
            yield server
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, "".join(log[-20:])
            reader.join()
            assert list(Path(uploads).iterdir()) == []
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


def exported(folder: Path, *, num_classes: int = 5) -> Path:
    """tiny.onnx in a folder."""
    model = tiny_model(num_classes=num_classes, temporal_lengths=(1, 1, 3, 1, 3))
    save_checkpoint(folder / "tiny.pt", model, card_of(model, CLIP))
    fused = fuse_checkpoint(folder / "tiny.pt").path
    return export_onnx(fused).path


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "real.mp4"
    encode(path, coloured_frames(100), "libx264")
    return path


@pytest.fixture(scope="session")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    encode(path, coloured_frames(1500), "libx264")
    return path


@pytest.fixture(scope="session")
def cut_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that breaks off; its header stands before the frames and announces all of them."""
    path = tmp_path_factory.mktemp("video") / "cut.mp4"
    header_first = {"movflags": "faststart"}
    encode(path, coloured_frames(100), "libx264", container_options=header_first, g="10")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


@pytest.fixture(scope="module")
def server(artifact: Path) -> Iterator[Server]:
    with running(artifact) as server:
        yield server
