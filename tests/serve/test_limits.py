"""What the server does with too much, too slow and too many."""

import contextlib
import http.client
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

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\n"
MP4 = b"\0\0\0\x20ftypisom"


@pytest.fixture(scope="module")
def strict(artifact: Path) -> Iterator[Server]:
    """With small limits, and clocks that no test waits for."""
    options = {
        "max-body-bytes": "200000",
        "max-header-bytes": "4096",
        "header-seconds": "60",
        "max-connections": "20",
        "max-duration-seconds": "10",
        "max-pixels": "20000",
        "max-frames": "1000",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    with running(artifact, *flags) as server:
        yield server


@pytest.fixture(scope="module")
def hasty_with_heads(artifact: Path) -> Iterator[Server]:
    with running(artifact, "--header-seconds", "1") as server:
        yield server


@pytest.fixture(scope="module")
def hasty_with_bodies(artifact: Path) -> Iterator[Server]:
    with running(artifact, "--header-seconds", "60", "--upload-seconds", "1") as server:
        yield server


def raw(server: Server, *pieces: bytes) -> tuple[int, dict]:
    """Send bytes; the status and the JSON of the answer."""
    with socket.create_connection(server.address, timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return read(connection)


@contextlib.contextmanager
def dripping(connection: socket.socket) -> Iterator[None]:
    """Send a byte now and then, as long as the other side takes them."""
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.1):
                connection.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


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


@pytest.mark.parametrize(("sent", "connection_after"), [(3, None), (2, "close")])
def test_a_refused_body_ends_the_connection_where_it_is_not_here_as_a_whole(
    strict: Server, sent: int, connection_after: str | None
) -> None:
    text = HEAD.replace(b"video/mp4", b"text/plain") + b"Content-Length: 3\r\n\r\n"
    with socket.create_connection(strict.address, timeout=60) as connection:
        connection.sendall(text + b"abc"[:sent])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.getheader("Connection")) == (415, connection_after)
        answer.read()
        if connection_after is None:
            connection.sendall(text + b"abc")
            again = http.client.HTTPResponse(connection)
            again.begin()
            assert again.status == 415
        else:
            assert connection.recv(1) == b""


def test_a_body_that_drips_is_given_up(hasty_with_bodies: Server) -> None:
    with socket.create_connection(hasty_with_bodies.address, timeout=60) as connection:
        connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + MP4)
        with dripping(connection):
            status, error = read(connection)
    assert (status, error["code"]) == (408, "too_slow")
    assert "the body took longer than 1 s" in error["error"]
    assert hasty_with_bodies.left_uploads() == []


def test_a_body_that_comes_too_slowly_is_given_up_before_its_time(artifact: Path) -> None:
    with (
        running(artifact, "--min-upload-bytes-per-second", "100000") as server,
        socket.create_connection(server.address, timeout=60) as connection,
    ):
        start = time.monotonic()
        connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + MP4 + bytes(50_000))
        with dripping(connection):
            status, error = read(connection)
        assert (status, error["code"]) == (408, "too_slow")
        assert error["error"] == "the body came slower than 100000 bytes a second"
        # 5 s, and half a second that what came has earned.
        assert 5.4 < time.monotonic() - start < 30


def test_a_head_that_is_not_finished_is_given_up(hasty_with_heads: Server) -> None:
    with socket.create_connection(hasty_with_heads.address, timeout=60) as connection:
        with contextlib.suppress(OSError):  # it was given up before this process went on
            connection.sendall(b"GET / HT")
        status, error = read(connection)
    assert (status, error["code"]) == (408, "too_slow")


def test_a_head_that_drips_is_given_up(hasty_with_heads: Server) -> None:
    with socket.create_connection(hasty_with_heads.address, timeout=60) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /")
        with dripping(connection):
            status, error = read(connection)
    assert (status, error["code"]) == (408, "too_slow")


def test_the_second_head_of_a_connection_has_its_clock_too(hasty_with_heads: Server) -> None:
    with connection_with_an_answer(hasty_with_heads) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHos")
        assert read(connection)[0] == 408


def connection_with_an_answer(server: Server) -> socket.socket:
    """A connection on which a request was answered; a busy machine may need some attempts."""
    for _ in range(20):
        connection = socket.create_connection(server.address, timeout=60)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            answer.read()  # it may come in pieces
            if answer.status == 200:
                return connection
        connection.close()
    pytest.fail("no request was answered")


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /livez HTTP/1.1\r\nX: " + b"y" * 10_000, 431, "head_too_large"),
        (b"\x16\x03\x01 hello\r\n\r\n", 400, "bad_request"),
    ],
)
def test_a_head_that_is_too_large_or_none_is_refused(
    strict: Server, head: bytes, status: int, code: str
) -> None:
    found, error = raw(strict, head)
    assert (found, error["code"]) == (status, code)


def test_more_connections_than_allowed_are_closed_and_room_comes_back(strict: Server) -> None:
    held = [socket.create_connection(strict.address) for _ in range(20)]
    try:
        assert raw(strict)[0] == 503
    finally:
        for connection in held:
            connection.close()
    strict.wait_until(lambda: httpx.get(f"{strict.url}/livez").status_code == 200)


def test_another_address_takes_a_place_from_the_one_that_holds_all(strict: Server) -> None:
    slow = HEAD + b"Content-Length: 100000\r\n\r\n" + MP4
    held = [socket.create_connection(strict.address, timeout=60) for _ in range(20)]
    try:
        for connection in held:
            connection.sendall(slow)
        strict.wait_until(lambda: len(strict.left_uploads()) == 20)
        with socket.create_connection(
            strict.address, timeout=60, source_address=("127.0.0.2", 0)
        ) as other:
            other.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert read(other)[0] == 200
        strict.wait_until(lambda: len(strict.left_uploads()) == 19)
    finally:
        for connection in held:
            connection.close()
    strict.wait_until(lambda: strict.left_uploads() == [])


def test_videos_that_are_too_large_or_long_are_refused_in_words(
    strict: Server, long_video: Path, tmp_path: Path
) -> None:
    from tests.helpers.odd_videos import coloured_frames, encode

    assert long_video.stat().st_size < 200_000
    answer = post(strict, long_video.read_bytes())
    assert answer.status_code == 422
    assert "frames" in answer.json()["error"] or "lasts" in answer.json()["error"]
    encode(tmp_path / "wide.mp4", coloured_frames(5, width=320, height=240), "libx264")
    answer = post(strict, (tmp_path / "wide.mp4").read_bytes())
    assert answer.status_code == 422
    assert "has frames of 320x240 px; at most 0.0 million" in answer.json()["error"]


def test_a_full_server_says_when_to_come_again(artifact: Path, video: Path) -> None:
    content = video.read_bytes()
    with running(artifact, "--max-requests", "2") as server, ThreadPoolExecutor(4) as pool:
        with server.decoding_stopped():
            taken = [pool.submit(post, server, content) for _ in range(2)]
            server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 2)
            refused = post(server, content)
            assert (refused.status_code, refused.json()["code"]) == (503, "full")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert httpx.get(f"{server.url}/livez").status_code == 200
        assert all(future.result().status_code == 200 for future in taken)


def test_a_second_client_gets_in_and_the_first_hears_that_it_takes_too_much(
    artifact: Path, video: Path
) -> None:
    content = video.read_bytes()
    forwarded = {"Content-Type": "video/mp4", "X-Forwarded-For": "10.1.2.3"}
    with running(artifact, "--max-requests", "4") as server, ThreadPoolExecutor(4) as pool:
        with server.decoding_stopped():
            taken = [pool.submit(post, server, content) for _ in range(3)]
            server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 3)
            taken.append(pool.submit(post, server, content, forwarded))
            server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 4)
            refused = post(server, content)
            assert (refused.status_code, refused.json()["code"]) == (429, "over_share")
        assert all(future.result().status_code == 200 for future in taken)


def test_a_server_that_one_client_has_filled_makes_room_for_another(
    artifact: Path, video: Path
) -> None:
    content = video.read_bytes()
    forwarded = {"Content-Type": "video/mp4", "X-Forwarded-For": "10.1.2.3"}
    with running(artifact, "--max-requests", "8") as server, ThreadPoolExecutor(9) as pool:
        with server.decoding_stopped():
            greedy = [pool.submit(post, server, content) for _ in range(8)]
            server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 8)
            other = pool.submit(post, server, content, forwarded)
            server.wait_until(lambda: any(future.done() for future in greedy))
            (gone,) = (future.result() for future in greedy if future.done())
            assert (gone.status_code, gone.json()["code"]) == (429, "over_share")
            assert 1 <= int(gone.headers["retry-after"]) <= 60
        assert other.result().status_code == 200
        assert sorted(future.result().status_code for future in greedy) == [200] * 7 + [429]


def test_a_stream_that_has_to_make_room_ends_with_an_event(artifact: Path, video: Path) -> None:
    content = video.read_bytes()
    forwarded = {"Content-Type": "video/mp4", "X-Forwarded-For": "10.1.2.3"}
    with running(artifact, "--max-requests", "8") as server, ThreadPoolExecutor(9) as pool:
        with server.decoding_stopped():
            greedy = [pool.submit(post, server, content, stream=1) for _ in range(8)]
            server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 8)
            other = pool.submit(post, server, content, forwarded)
            server.wait_until(lambda: any(future.done() for future in greedy))
            (gone,) = (future.result() for future in greedy if future.done())
            assert gone.status_code == 200
            assert gone.text.startswith("event: error\n")
            assert '"code":"over_share"' in gone.text
        assert other.result().status_code == 200


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


def test_an_answer_that_nobody_reads_is_given_up(hasty_with_bodies: Server) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(hasty_with_bodies.address)
        connection.settimeout(60)
        with pytest.raises(ConnectionError):
            connection.sendall(request * 1_000_000)
    assert httpx.get(f"{hasty_with_bodies.url}/livez").status_code == 200


def test_all_uploads_together_are_bounded(artifact: Path, video: Path) -> None:
    assert video.stat().st_size > 2500
    with running(artifact, "--max-held-bytes", "5000") as server:
        answer = post(server, video.read_bytes())
        assert (answer.status_code, answer.json()["code"]) == (503, "no_room")
        assert server.left_uploads() == []


def test_answers_are_not_held_back_by_the_system() -> None:
    """asyncio switches Nagle's delay off only for sockets that name their protocol."""
    from stdeploy.serve.server import listen

    with (
        listen("127.0.0.1", 0, "--port") as listener,
        socket.create_connection(listener.getsockname()),
    ):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_what_never_becomes_a_request_has_a_line_and_is_counted(
    strict: Server, hasty_with_heads: Server
) -> None:
    def seen(server: Server, status: int, code: str, answer: dict) -> None:
        (line,) = (json.loads(line) for line in server.log if answer["request_id"] in line)
        assert (line["message"], line["status"], line["code"]) == ("request", status, code)
        assert line["client"] == "127.0.0.1"
        assert line["seconds"] >= 0
        counted = server.metric(f'stdeploy_requests_total{{route="none",status="{status}"}}')
        assert counted >= 1
        assert server.metric(f'stdeploy_rejections_total{{reason="{code}"}}') >= 1

    def refused(server: Server, *pieces: bytes) -> tuple[int, dict]:
        status, answer = raw(server, *pieces)
        server.wait_until(lambda: any(answer["request_id"] in line for line in server.log))
        return status, answer

    status, answer = refused(strict, b"\x16\x03\x01 hello\r\n\r\n")
    seen(strict, status, "bad_request", answer)
    status, answer = refused(hasty_with_heads)
    assert status == 408
    seen(hasty_with_heads, 408, "too_slow", answer)
    held = [socket.create_connection(strict.address) for _ in range(20)]
    try:
        status, answer = refused(strict)
        assert status == 503
    finally:
        for connection in held:
            connection.close()
    strict.wait_until(lambda: httpx.get(f"{strict.url}/livez").status_code == 200)
    seen(strict, 503, "full", answer)
