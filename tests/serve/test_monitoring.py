"""What the server writes about its requests, for people and for programs."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stdeploy.serve.monitoring import REQUESTS, RateLimit
from tests.serve.conftest import Server, running
from tests.serve.test_v1 import RAW, post

BROKEN = b"\x1aE\xdf\xa3" + bytes(range(256)) * 20


@pytest.fixture(scope="module")
def text_server(artifact: Path) -> Iterator[Server]:
    with running(artifact, "--log-format", "text") as server:
        yield server


@pytest.fixture(scope="module")
def json_server(artifact: Path) -> Iterator[Server]:
    with running(artifact, "--log-format", "json") as server:
        yield server


def line_with(server: Server, words: str) -> str:
    """The line that has come with some words in it."""
    server.wait_until(lambda: any(words in line for line in server.log))
    (line,) = [line for line in server.log if words in line]
    return line.rstrip()


def test_a_line_for_people_is_short_and_says_why_a_request_was_refused(
    text_server: Server,
) -> None:
    request_id = post(text_server, b"hello, world" * 100).json()["request_id"]
    line = line_with(text_server, f" {request_id[:8]}")
    time_of_day, *words = line.split()
    assert time.strptime(time_of_day, "%H:%M:%S")
    assert words[:4] == ["POST", "/v1/classify", "415", "unsupported_type"]
    assert words[5:] == ["s", "127.0.0.1", request_id[:8]]


def test_a_line_for_people_stays_short_where_path_and_id_are_long(text_server: Server) -> None:
    url = f"{text_server.url}/v2/models/{'m' * 500}/versions/1/infer"
    httpx.post(url, content=b"{}", headers={"X-Request-ID": "given-by-a-client" + "x" * 40})
    line = line_with(text_server, " given-by")
    assert "404 not_found" in line
    assert len(line) <= 100


def test_a_line_for_programs_has_all_of_it(json_server: Server, video: Path) -> None:
    good = post(json_server, video.read_bytes()).json()["request_id"]
    refused = post(json_server, b"").json()["request_id"]
    line = json.loads(line_with(json_server, good))
    assert (line["request_id"], line["status"], line["path"]) == (good, 200, "/v1/classify")
    assert "code" not in line
    line = json.loads(line_with(json_server, refused))
    assert (line["request_id"], line["status"], line["code"]) == (refused, 400, "bad_request")


def test_a_stream_that_ends_in_an_error_has_its_code_in_the_log(json_server: Server) -> None:
    request_id = post(json_server, BROKEN, stream=1).headers["x-request-id"]
    line = json.loads(line_with(json_server, request_id))
    assert (line["status"], line["code"]) == (200, "undecodable")


def test_probes_are_a_line_only_where_their_answer_changes(artifact: Path) -> None:
    with running(artifact, "--log-format", "json") as server:
        for path in ("/livez", "/readyz", "/startupz", "/metrics", "/v2/health/ready") * 3:
            assert httpx.get(f"{server.url}{path}").status_code == 200
        last = httpx.get(f"{server.url}/nothing").headers["x-request-id"]
        line_with(server, last)
        lines = [json.loads(line) for line in server.log if line.startswith("{")]
        readiness = [line["status"] for line in lines if line.get("path") == "/readyz"]
        # `running` has asked since the start; if it was fast enough to see that, both are there.
        assert readiness in ([], [503, 200])
        asked = {line["path"] for line in lines if "path" in line}
        assert asked <= {"/readyz", "/nothing"}


def test_at_debug_level_each_probe_is_a_line(artifact: Path) -> None:
    with running(artifact, "--log-format", "json", "--log-level", "debug") as server:
        ids = [httpx.get(f"{server.url}/livez").headers["x-request-id"] for _ in range(3)]
        assert all(json.loads(line_with(server, each))["level"] == "DEBUG" for each in ids)


def test_no_line_holds_what_a_client_made_up(text_server: Server) -> None:
    """Paths are written as they came, so that nobody can write a line of his own."""
    post(text_server, b"", RAW)
    httpx.get(f"{text_server.url}/a%0AINFO%20forged")
    assert "GET /a%0AINFO%20forged 404" in line_with(text_server, "forged")


def test_what_goes_wrong_without_an_end_is_a_few_lines_in_a_while() -> None:
    now = 0.0
    limit = RateLimit(most=2, seconds=10, clock=lambda: now)
    logger = logging.Logger("x")

    def passes(name: str, line: int, **more: object) -> logging.LogRecord | None:
        record = logger.makeRecord(
            name, logging.WARNING, "a.py", line, "full", (), None, extra=more
        )
        return record if limit.filter(record) else None

    assert [passes("asyncio", 1) is not None for _ in range(5)] == [True, True, False, False, False]
    assert passes("asyncio", 2) is not None  # another place
    assert all(passes(REQUESTS, 3, method="GET") for _ in range(5))
    # What was refused before there was a request.
    assert [bool(passes(REQUESTS, 4, method=None)) for _ in range(3)] == [True, True, False]
    now = 10.0
    told = passes("asyncio", 1)
    assert told is not None
    assert told.left_out == 3  # type: ignore[attr-defined]
    assert not hasattr(passes("asyncio", 1), "left_out")
