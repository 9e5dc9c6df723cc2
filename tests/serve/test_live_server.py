"""The page of `stdeploy watch --http`, asked as browsers and Prometheus ask."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from stdeploy.cli.watch_sources import address_of
from stdeploy.errors import BackendError, SpecError
from stdeploy.serve.live_server import LiveServer
from tests.data.files import TINY_ONNX
from tests.helpers.live_sender import readers_of, sending, write_film

WATCHED = """
[[source]]
name = "door"
url = "{door}"
[[source]]
name = "a <b>&\\"c\\\\"
url = "{other}"
[[source]]
name = "away"
url = "tcp://127.0.0.1:9"
"""


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where two sources that play, and one that is away, are shown; ended by Ctrl-C."""
    folder = tmp_path_factory.mktemp("watched")
    write_film(folder / "film.ts", 3.0)
    content = (folder / "film.ts").read_bytes() * 60
    with sending(content, 180.0) as door, sending(content, 180.0) as other:
        text = WATCHED.format(door=door.url, other=other.url)
        (folder / "sources.toml").write_text(text)
        command = ["watch", "--sources", "sources.toml", "--http", "0", "--hop", "0.3"]
        process = subprocess.Popen(
            [sys.executable, "-m", "stdeploy", *command, "-m", TINY_ONNX],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr
        assert process.stdout
        line = ""
        while "page and metrics at" not in line:
            line = process.stderr.readline()
            assert line, process.communicate()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found
        for _ in range(4):
            assert json.loads(process.stdout.readline())["source"] in ("door", 'a <b>&"c\\')
        yield found[0]
        readers = readers_of(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert errors.splitlines()[-1] == "ended"
        assert "Traceback" not in errors
        assert len(readers) == 3
        assert not any(Path(f"/proc/{reader}").exists() for reader in readers)


def source(url: str, name: str) -> dict[str, Any]:
    (found,) = (
        each for each in httpx.get(f"{url}/v1/sources").json()["sources"] if each["source"] == name
    )
    return found


def test_sources_are_told_as_json(url: str) -> None:
    answer = httpx.get(f"{url}/v1/sources")
    assert answer.headers["cache-control"] == "no-store"
    record = answer.json()
    assert "on CPU in fp32" in record["model"]
    assert [each["source"] for each in record["sources"]] == ["door", 'a <b>&"c\\', "away"]
    door = until(lambda: (s := source(url, "door")) and s["picture_time"] and s)
    assert door["state"] == "live"
    assert door["answers"] >= 1
    assert 0 <= door["lag_seconds"] < 10
    assert len(door["predictions"]) == 3
    assert abs(door["answered_time"] - time.time()) < 60
    away = until(lambda: (s := source(url, "away")) and s["note"] and s)
    assert (away["state"], away["frames"], away["lag_seconds"]) == ("waiting", 0, None)
    assert away["note"] == "the source cannot be opened, or sends no video"
    assert door["events"] == away["events"] == []


def test_pictures_are_the_newest_and_no_other_site_may_show_them(url: str) -> None:
    until(lambda: source(url, "door")["picture_time"])
    answer = httpx.get(f"{url}/v1/sources/0/picture.jpg")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (96, 128, 3)
    before = source(url, "door")["picture_time"]
    until(lambda: source(url, "door")["picture_time"] > before)
    for path in (
        "2/picture.jpg",
        "3/picture.jpg",
        "-1/picture.jpg",
        "x/picture.jpg",
        "٣/picture.jpg",
    ):
        assert httpx.get(f"{url}/v1/sources/{path}").status_code == 404


def test_metrics_tell_of_each_source_and_of_batches(url: str) -> None:
    until(lambda: source(url, "door")["answers"] >= 2)
    text = httpx.get(f"{url}/metrics").text
    assert re.search(r'^stdeploy_live_state\{source="door",state="live"\} 1\.0$', text, re.M)
    assert re.search(r'^stdeploy_live_state\{source="away",state="live"\} 0\.0$', text, re.M)
    assert re.search(r'^stdeploy_live_lag_seconds\{source="door"\} \d', text, re.M)
    assert not re.search(r'^stdeploy_live_lag_seconds\{source="away"\}', text, re.M)
    for name in ("frames", "answers"):
        found = re.search(rf'^stdeploy_live_{name}_total\{{source="door"\}} (\S+)$', text, re.M)
        assert found
        assert float(found[1]) >= 2
    for name in ("dropped_frames", "reconnects"):
        assert f'stdeploy_live_{name}_total{{source="a <b>&\\"c\\\\"}} ' in text
    batches = re.search(r"^stdeploy_live_batch_sources_count (\S+)$", text, re.M)
    assert batches
    assert float(batches[1]) >= 2
    assert 'stdeploy_live_batch_sources_bucket{le="1.0"}' in text
    assert 'stdeploy_model_info{backend="' in text
    assert re.search(r'^stdeploy_requests_total\{route="/v1/sources",status="200"\}', text, re.M)


@pytest.mark.parametrize("probe", ["livez", "readyz", "startupz"])
def test_probes_are_green(url: str, probe: str) -> None:
    assert httpx.get(f"{url}/{probe}").status_code == 200


def test_the_page_is_guarded_as_that_of_the_server_is(url: str) -> None:
    page = httpx.get(url)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "script-src" not in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", page.text)  # no other host
    for part in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text):
        assert httpx.get(f"{url}/{part}").status_code == 200
    assert httpx.get(f"{url}/page/index.html").status_code == 404
    assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 421
    assert httpx.get(f"{url}/v1/sources", headers={"Host": "evil.example"}).status_code == 421
    assert httpx.post(url).status_code == 405
    assert httpx.get(f"{url}/v1/other").json()["code"] == "not_found"


def test_an_address_that_is_taken_is_told_with_its_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BackendError, match=r"cannot listen on .*; choose another --http"):
            LiveServer("127.0.0.1", port).__enter__()


def test_before_the_network_is_there_it_is_not_ready() -> None:
    with LiveServer("127.0.0.1", 0) as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        assert httpx.get(f"{server.url}/startupz").status_code == 503
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert httpx.get(f"{server.url}/v1/sources").json()["sources"] == []


@pytest.mark.parametrize(
    ("http", "address"),
    [
        ("8000", ("127.0.0.1", 8000)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:8000", ("::1", 8000)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses_are_understood(http: str, address: tuple[str, int]) -> None:
    assert address_of(http) == address


@pytest.mark.parametrize(
    "http", ["", "a", ":80", "::1:80", "a:b", "a:70000", "[::1]", "[a:80", "-1"]
)
def test_what_is_no_address_is_refused(http: str) -> None:
    with pytest.raises(SpecError, match="is no address"):
        address_of(http)
