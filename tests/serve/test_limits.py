"""What the server does with too much, too slow and too many."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serve.conftest import Server, running
from tests.serve.test_v1 import post

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\n"
MP4 = b"\0\0\0\x20ftypisom"


@pytest.fixture(scope="module")
def strict(artifact: Path) -> Iterator[Server]:
    options = {
        "max-body-bytes": "200000",
        "max-header-bytes": "4096",
        "header-seconds": "1",
        "upload-seconds": "1.5",
        "max-connections": "20",
        "max-duration-seconds": "10",
        "max-pixels": "20000",
        "max-frames": "1000",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    with running(artifact, *flags) as server:
        yield server


def raw(server: Server, *pieces: bytes, pause: float = 0.0) -> tuple[int, dict]:
    """Send bytes; the status and the JSON of the answer."""
    with socket.create_connection(server.address, timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        return read(connection)


def read(connection: socket.socket) -> tuple[int, dict]:
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_a_body_that_is_too_large_by_its_header_is_refused_before_it_comes(strict: Server) -> None:
    status, error = raw(strict, HEAD + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n")
    assert (status, error["code"]) == (413, "too_large")
    assert "larger than 0.1907 MiB" in error["error"]


def test_a_client_that_sends_too_much_hears_it(strict: Server) -> None:
    # Many clients read no answer before they have sent all.
    body = MP4 + bytes(3_000_000)
    status, error = raw(strict, HEAD + b"Content-Length: %d\r\n\r\n" % len(body), body)
    assert (status, error["code"]) == (413, "too_large")
    chunks = (MP4 + bytes(10_000) for _ in range(100))
    answer = httpx.post(
        f"{strict.url}/v1/classify", content=chunks, headers={"Content-Type": "video/mp4"}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert strict.left_uploads() == []


def test_a_body_that_drips_is_given_up(strict: Server) -> None:
    with socket.create_connection(strict.address, timeout=20) as connection:
        connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + MP4)
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            status, error = read(connection)
        finally:
            stop.set()
            thread.join()
    assert (status, error["code"]) == (408, "too_slow")
    assert strict.left_uploads() == []


@pytest.mark.parametrize("pieces", [[b"GET / HT"], [b"", b"G", b"E", b"T"]])
def test_a_head_that_drips_is_given_up(strict: Server, pieces: list[bytes]) -> None:
    status, error = raw(strict, *pieces, pause=0.15)
    assert (status, error["code"]) == (408, "too_slow")


def test_the_second_head_of_a_connection_has_its_clock_too(strict: Server) -> None:
    with socket.create_connection(strict.address, timeout=20) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHos")
        assert read(connection)[0] == 408


@pytest.mark.parametrize(
    "head", [b"GET /livez HTTP/1.1\r\nX: " + b"y" * 10_000, b"\x16\x03\x01 hello\r\n\r\n"]
)
def test_a_head_that_is_too_large_or_none_is_refused(strict: Server, head: bytes) -> None:
    status, error = raw(strict, head)
    assert (status, error["code"]) == (400, "bad_request")


def test_more_connections_than_allowed_are_closed_and_room_comes_back(strict: Server) -> None:
    held = [socket.create_connection(strict.address) for _ in range(20)]
    try:
        assert raw(strict)[0] == 503
    finally:
        for connection in held:
            connection.close()
    strict.wait_until(lambda: httpx.get(f"{strict.url}/livez").status_code == 200)


def test_videos_that_are_too_large_or_long_are_refused_in_words(
    strict: Server, long_video: Path, tmp_path: Path
) -> None:
    from tests.video.odd import coloured_frames, encode

    assert long_video.stat().st_size < 200_000
    answer = post(strict, long_video.read_bytes())
    assert answer.status_code == 422
    assert "frames" in answer.json()["error"] or "lasts" in answer.json()["error"]
    encode(tmp_path / "wide.mp4", coloured_frames(5, width=320, height=240), "libx264")
    answer = post(strict, (tmp_path / "wide.mp4").read_bytes())
    assert answer.status_code == 422
    assert "has frames of 320x240 px; at most 0.0 million" in answer.json()["error"]


def test_a_full_house_says_when_to_come_again(artifact: Path, long_video: Path) -> None:
    query = {"stream": 1, "timeline": 1, "hop_seconds": 0.1}
    content = long_video.read_bytes()
    with running(artifact, "--max-requests", "2") as server, ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(post, server, content, **query) for _ in range(2)]
        server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 2)
        refused = post(server, content)
        assert (refused.status_code, refused.json()["code"]) == (503, "full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert all(future.result().status_code == 200 for future in taken)


def test_a_second_client_gets_in_and_the_first_hears_that_it_takes_too_much(
    artifact: Path, video: Path, long_video: Path
) -> None:
    query = {"stream": 1, "timeline": 1, "hop_seconds": 0.1}
    content = long_video.read_bytes()
    forwarded = {"Content-Type": "video/mp4", "X-Forwarded-For": "10.1.2.3"}
    with running(artifact, "--max-requests", "4") as server, ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(post, server, content, **query) for _ in range(3)]
        server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 3)
        other = post(server, video.read_bytes(), forwarded)
        assert other.status_code == 200
        refused = post(server, content)
        assert (refused.status_code, refused.json()["code"]) == (429, "over_share")
        assert all(future.result().status_code == 200 for future in taken)


def test_an_answer_that_comes_too_late_is_a_504_and_the_work_ends(
    artifact: Path, long_video: Path
) -> None:
    content = long_video.read_bytes()
    deadlines = ("--request-seconds", "0.2", "--stream-seconds", "0.4")
    with running(artifact, *deadlines) as server:
        query = {"timeline": 1, "hop_seconds": 0.1}
        answer = post(server, content, **query)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
        streamed = post(server, content, **query, stream=1)
        assert '"code":"deadline"' in streamed.text
        server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 0)
        server.wait_until(lambda: server.metric("stdeploy_queue_clips") == 0)
        assert server.left_uploads() == []


def test_an_answer_that_nobody_reads_is_given_up(artifact: Path, long_video: Path) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    with running(artifact, "--upload-seconds", "1") as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(server.address)
            connection.settimeout(20)
            with pytest.raises(ConnectionError):
                connection.sendall(request * 1_000_000)
        assert httpx.get(f"{server.url}/livez").status_code == 200


def test_all_uploads_together_are_bounded(artifact: Path, video: Path) -> None:
    assert video.stat().st_size > 2500
    with running(artifact, "--max-held-bytes", "5000") as server:
        answer = post(server, video.read_bytes())
        assert (answer.status_code, answer.json()["code"]) == (503, "no_room")
        assert server.left_uploads() == []


def test_answers_are_not_held_back_by_the_system() -> None:
    """asyncio switches Nagle's delay off only for sockets that name their protocol."""
    from stdeploy.serve.server import _listen

    with (
        _listen("127.0.0.1", 0) as door,
        socket.create_connection(door.getsockname()),
    ):
        accepted, _ = door.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP
