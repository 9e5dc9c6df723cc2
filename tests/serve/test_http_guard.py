"""Requests byte by byte, as no ordinary client sends them."""

import json
import socket

import pytest

from tests.serve.conftest import Server

HOST = b"Host: localhost\r\n"
POST = b"POST /v1/classify HTTP/1.1\r\n" + HOST + b"Content-Type: video/mp4\r\n"
NEXT = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
CLOSE = b"Connection: close\r\n\r\n"


def asked(server: Server, sent: bytes) -> tuple[int, bytes, bytes]:
    """Status, head and body of all that comes until the server closes the connection."""
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.sendall(sent)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


@pytest.mark.parametrize(
    ("request_of_two_meanings", "words"),
    [
        (
            POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Content-Length and Transfer-Encoding exclude each other",
        ),
        (
            b"GET /livez HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n"
            b"Content-Length: 5\r\n\r\n0\r\n\r\n",
            "Content-Length and Transfer-Encoding exclude each other",
        ),
        (
            POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.0 has no Transfer-Encoding",
        ),
        (
            POST.replace(b"1.1", b"1.0")
            + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.0 has no Transfer-Encoding",
        ),
        (
            POST + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "a line of the head is folded, or ends without CR",
        ),
        (
            POST + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "a line of the head is folded, or ends without CR",
        ),
        (
            POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "Only Transfer-Encoding: chunked is supported",
        ),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "conflicting Content-Leng"),
        (POST + b"Content-Length : 5\r\n\r\nhello", "illegal header line"),
        (NEXT.replace(b"1.1", b"2.0"), "HTTP/2.0 is not spoken here; 1.1 is"),
        (POST + b"Content-Type: text/html\r\n\r\n", "Content-Type is given twice"),
        (
            POST + b"Content-Encoding: identity\r\ncontent-encoding: gzip\r\n\r\n",
            "Content-Encoding is given twice",
        ),
        (
            POST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
            "Authorization is given twice",
        ),
        (
            POST + b"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n\r\n",
            "Sec-Fetch-Site is given twice",
        ),
        (
            POST + b"Origin: http://localhost\r\nOrigin: http://evil.com\r\n\r\n",
            "Origin is given twice",
        ),
    ],
)
def test_a_request_that_two_programs_may_read_differently_is_the_last_of_its_connection(
    server: Server, request_of_two_meanings: bytes, words: str
) -> None:
    status, head, body = asked(server, request_of_two_meanings + NEXT)
    assert status == 400
    assert b"connection: close" in head
    error = json.loads(body)  # and no second answer behind it
    assert error["code"] == "bad_request"
    assert words in error["error"]


@pytest.mark.parametrize(("size", "status"), [(16_384, 200), (16_385, 431), (100_000, 431)])
def test_a_head_is_as_large_as_allowed_to_the_byte_however_it_comes(
    server: Server, size: int, status: int
) -> None:
    start = b"GET /livez HTTP/1.1\r\n" + HOST + b"X: "
    padding = size - len(start) - len(b"\r\n" + CLOSE)
    found, _, body = asked(server, start + b"y" * padding + b"\r\n" + CLOSE)
    assert found == status
    if status == 431:
        error = json.loads(body)
        assert error["code"] == "head_too_large"
        assert error["error"] == "the head of the request is larger than 16384 bytes"


def test_trailers_are_measured_as_heads_are(server: Server) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n" + CLOSE + b"1\r\nx\r\n0\r\n"
    assert asked(server, chunked + b"X: y\r\n\r\n")[0] == 415
    assert asked(server, chunked + b"X: " + b"y" * 20_000 + b"\r\n\r\n")[0] == 431


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://localhost/livez", 200),
        (b"HTTP://127.0.0.1:80/v1/models?x=1", 200),
        (b"https://[::1]/livez", 200),
        (b"http://localhost", 200),
        (b"http://localhost?x=1", 200),
        (b"http://localhost/nothing", 404),
        (b"http://evil.example/livez", 421),
        (b"http://localhost@evil.example/livez", 421),
        (b"http:///livez", 421),
    ],
)
def test_a_target_that_is_an_address_goes_before_the_header(
    server: Server, target: bytes, status: int
) -> None:
    assert asked(server, b"GET " + target + b" HTTP/1.1\r\n" + HOST + CLOSE)[0] == status


def test_the_header_does_not_make_up_for_the_host_of_the_target(server: Server) -> None:
    head = b"GET http://localhost/livez HTTP/1.1\r\nHost: evil.example\r\n"
    assert asked(server, head + CLOSE)[0] == 200  # RFC 9112, 3.2.2


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/readyz", "/startupz", "/metrics", "/docs", "/v1/models", "/v2"]
)
def test_head_is_answered_as_get_is_without_the_body(server: Server, path: str) -> None:
    line = f"{path} HTTP/1.1\r\n".encode()
    status, head, body = asked(server, b"HEAD " + line + HOST + CLOSE)
    assert (status, body) == (200, b"")
    _, of_get, _ = asked(server, b"GET " + line + HOST + CLOSE)
    names = {field.partition(b":")[0] for field in of_get.split(b"\r\n")[1:]}
    assert {field.partition(b":")[0] for field in head.split(b"\r\n")[1:]} == names


def test_head_is_refused_where_get_is(server: Server) -> None:
    for path, status in (("/v1/classify", 405), ("/nothing", 404)):
        found, _, body = asked(server, f"HEAD {path} HTTP/1.1\r\n".encode() + HOST + CLOSE)
        assert (found, body) == (status, b"")
    _, head, _ = asked(server, b"DELETE /livez HTTP/1.1\r\n" + HOST + CLOSE)
    assert b"allow: get, head" in head


@pytest.mark.parametrize("path", ["/livez/", "/docs/", "/page", "/v1/classify/", "/v2/"])
def test_no_answer_sends_to_an_address_that_is_made_of_the_header(
    server: Server, path: str
) -> None:
    for method in ("GET", "POST"):
        status, head, _ = asked(server, f"{method} {path} HTTP/1.1\r\n".encode() + HOST + CLOSE)
        assert status == 404
        assert b"location" not in head
