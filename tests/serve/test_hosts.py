from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stdeploy.serve.hosts import AllowedHosts, is_name
from tests.serve.conftest import Server, running


@pytest.mark.parametrize(
    ("names", "header", "allowed"),
    [
        ((), "localhost", True),
        ((), "LOCALHOST.:8000", True),
        ((), "app.localhost", True),
        ((), "127.0.0.1:8000", True),
        ((), "10.1.2.3", True),
        ((), "[::1]:8000", True),
        ((), "[fe80::1%eth0]", True),
        ((), "evil.example", False),
        ((), "127.0.0.1.evil.example", False),
        ((), "localhost.evil.example", False),
        ((), "evillocalhost", False),
        ((), "", False),
        ((), "localhost:80:80", False),
        ((), "user@localhost", False),
        ((), "[::1", False),
        (("videos.example.com",), "Videos.Example.com:443", True),
        (("videos.example.com",), "example.com", False),
        (("*.example.com",), "a.b.example.com", True),
        (("*.example.com",), "example.com", False),
        (("*.example.com",), "evilexample.com", False),
        (("*",), "anything at all", True),
    ],
)
def test_a_host_is_allowed_by_its_name(names: tuple[str, ...], header: str, allowed: bool) -> None:
    assert (header in AllowedHosts(names)) is allowed


@pytest.mark.parametrize(
    ("word", "good"),
    [("a.example", True), ("*.lan", True), ("*", True), ("http://a", False), ("a:80", False)],
)
def test_a_name_is_told_from_an_address_of_the_web(word: str, good: bool) -> None:
    assert is_name(word) is good


@pytest.fixture(scope="module")
def named(artifact: Path) -> Iterator[Server]:
    with running(artifact, "--allowed-hosts", "videos.example, *.lan") as server:
        yield server


def test_a_page_whose_name_means_this_host_reads_nothing(server: Server, video: Path) -> None:
    # What a browser sends for a page of evil.example, once that name means 127.0.0.1.
    rebound = {
        "Host": "evil.example:8000",
        "Origin": "http://evil.example:8000",
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "video/mp4",
        "X-Forwarded-Host": "localhost",
    }
    for method, path in (("GET", "/"), ("GET", "/metrics"), ("POST", "/v1/classify")):
        content = video.read_bytes() if method == "POST" else b""
        answer = httpx.request(method, server.url + path, headers=rebound, content=content)
        assert (answer.status_code, answer.json()["code"]) == (421, "unknown_host")
    assert answer.json()["error"] == (
        "this server does not go by the name 'evil.example:8000'; if it should, start it with that "
        "name in --allowed-hosts"
    )


def test_names_of_the_setting_are_answered(named: Server) -> None:
    for host, status in (("videos.example", 200), ("a.lan:80", 200), ("b.example", 421)):
        assert httpx.get(f"{named.url}/livez", headers={"Host": host}).status_code == status
