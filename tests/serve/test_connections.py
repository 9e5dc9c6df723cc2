"""A server that may not open many files."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from stdeploy.errors import BackendError
from stdeploy.serve.connections import Listener, connections_within
from tests.serve.conftest import running


@pytest.mark.parametrize(
    ("allowed", "metrics", "gpu", "connections"),
    [
        (1_048_576, False, False, 512),
        (1072, False, False, 512),
        (1070, False, False, 511),
        (1024, True, False, 325),
        (1024, False, True, 456),
        (64, False, False, 8),
    ],
)
def test_connections_leave_room_for_other_files(
    allowed: int, metrics: bool, gpu: bool, connections: int
) -> None:
    found = connections_within(
        allowed, max_connections=512, decode_workers=8, metrics=metrics, gpu=gpu
    )
    assert found == connections


def test_a_limit_that_leaves_no_room_is_told_at_the_start(artifact: Path) -> None:
    with pytest.raises(BackendError, match="may have 40 files open, and a server needs 64 at"):
        connections_within(40, max_connections=512, decode_workers=8, metrics=False, gpu=False)
    limited = ("sh", "-c", 'ulimit -n 40; exec "$@"', "sh")
    command = ("-m", "stdeploy", "serve", str(artifact), "--decode-workers", "8", "--port", "0")
    result = subprocess.run(
        [*limited, sys.executable, *command], capture_output=True, text=True, check=False
    )
    assert result.returncode == 3
    assert "raise the limit (ulimit -n;" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_idle_connections_beyond_the_limit_cost_a_few_lines_and_no_answer(artifact: Path) -> None:
    with running(artifact, "--decode-workers", "2", open_files=64) as server:
        assert any('"connections": 17' in line for line in server.log)
        with contextlib.ExitStack() as held:
            for _ in range(100):
                held.enter_context(socket.create_connection(server.address, timeout=60))
            time.sleep(1.5)  # asyncio would try again once a second
            with socket.create_connection(
                server.address, timeout=60, source_address=("127.0.0.2", 0)
            ) as other:
                other.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert other.recv(12) == b"HTTP/1.1 200"
            assert len("".join(server.log)) < 10_000
            assert not any("Traceback" in line for line in server.log)
        server.wait_until(lambda: httpx.get(f"{server.url}/livez").status_code == 200)


def test_a_connection_for_which_there_is_no_file_is_closed() -> None:
    old, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as held:
        listener = held.enter_context(contextlib.closing(Listener(socket.AF_INET)))
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        listener.setblocking(False)
        clients = [
            held.enter_context(socket.create_connection(listener.getsockname(), timeout=60))
            for _ in range(3)
        ]
        next_file = os.dup(0)
        os.close(next_file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_file, most))
        try:
            with pytest.raises(BlockingIOError):
                listener.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (old, most))
        assert [client.recv(1) for client in clients] == [b"", b"", b""]
        with socket.create_connection(listener.getsockname(), timeout=60):
            listener.setblocking(True)
            accepted, _ = listener.accept()
            accepted.close()
