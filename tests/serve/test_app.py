"""The application in this process: states that a real server passes through too fast, or never."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray

from stdeploy.artifacts.card import read_card
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.serve.admission import DurationEstimator
from stdeploy.serve.batch_runner import BatchRunner
from stdeploy.serve.monitoring import REQUESTS
from stdeploy.serve.request_gate import RequestGate
from stdeploy.serve.server import application, metrics_application
from stdeploy.serve.service import Model, Service
from stdeploy.serve.settings import load
from stdeploy.serve.uploads import UploadFolder
from tests.serve.conftest import BACKEND


class BreaksLater:
    """A real runtime that can be told to break, as one on a GPU may."""

    def __init__(self, artifact: Path) -> None:
        options = RuntimeOptions(backend=BACKEND, threads=1)
        self._runtime = open_runtime(artifact, options=options)
        self.name, self.device = self._runtime.name, self._runtime.device
        self.device_type = self._runtime.device_type
        self.precision = self._runtime.precision
        self.broken = False
        self.slow_seconds = 0.0

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(self.slow_seconds)
        if self.broken:
            raise RuntimeError("CUDA error at /usr/lib/libcudart.so")
        return self._runtime.run(frames)

    def close(self) -> None:
        self._runtime.close()


class InProcessServer:
    """An application without a process around it."""

    def __init__(self, artifact: Path, folder: Path) -> None:
        settings = load({"network_seconds": 0.2, "max_requests": 4}, None)
        self.runtime = BreaksLater(artifact)
        self.runner = BatchRunner(self.runtime, max_batch=1, max_delay_seconds=0)
        model = Model(name="tiny", sha256="0" * 64, card=read_card(artifact))
        self.service = Service(
            model,
            self.runner,
            decode_workers=1,
            limits=settings.limits,
            views=None,
            max_batch=1,
            durations=DurationEstimator(),
        )
        self.uploads = UploadFolder(folder)
        gate = RequestGate(settings, self.uploads)
        self.health = gate.health
        self.app: FastAPI = application(gate, api_key=None, own_metrics=True)
        self.metrics_app = metrics_application(gate)

    def ask(self, *calls: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        """Requests at once."""

        async def all_of_them() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                return await asyncio.gather(*(client.request(m, p, **k) for m, p, k in calls))

        return asyncio.run(all_of_them())

    def get(self, path: str) -> httpx.Response:
        return self.ask(("GET", path, {}))[0]

    def close(self) -> None:
        self.service.close()
        self.runner.close()
        self.uploads.close()


@pytest.fixture
def in_process(artifact: Path, tmp_path: Path) -> Iterator[InProcessServer]:
    server = InProcessServer(artifact, tmp_path)
    yield server
    server.close()


def classify(video: Path) -> tuple[str, str, dict[str, Any]]:
    return "POST", "/v1/classify", {"files": {"file": ("a.mp4", video.read_bytes())}}


def test_before_the_model_is_open_work_is_refused_and_probes_say_so(
    in_process: InProcessServer, video: Path
) -> None:
    (answer,) = in_process.ask(classify(video))
    assert (answer.status_code, answer.json()["code"]) == (503, "starting")
    assert answer.headers["retry-after"] == "2"
    assert in_process.get("/livez").status_code == 200
    assert in_process.get("/startupz").status_code == 503
    assert in_process.get("/readyz").json() == {"status": "not ready", "reason": "starting"}
    assert in_process.get("/v2/health/ready").status_code == 503
    in_process.health.opened(in_process.service)
    assert in_process.get("/readyz").status_code == 200
    assert in_process.ask(classify(video))[0].status_code == 200


def test_a_probe_is_a_line_when_its_answer_changes(
    in_process: InProcessServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "stdeploy")

    def lines_of(path: str) -> list[int]:
        caplog.clear()
        for _ in range(3):
            in_process.get(path)
        return [record.status for record in caplog.records if record.name == REQUESTS]  # type: ignore[attr-defined]

    for path in ("/readyz", "/v2/health/ready"):
        assert lines_of(path) == [503]
    assert lines_of("/livez") == lines_of("/metrics") == []
    in_process.health.opened(in_process.service)
    for path in ("/readyz", "/v2/health/ready"):
        assert lines_of(path) == [200]
    assert lines_of("/v1/models") == [200] * 3


def test_a_runtime_that_breaks_gives_500_and_turns_liveness_red(
    in_process: InProcessServer, video: Path
) -> None:
    in_process.health.opened(in_process.service)
    in_process.runtime.broken = True
    answers = in_process.ask(*[classify(video)] * 3)
    assert [answer.status_code for answer in answers] == [500] * 3
    assert "CUDA" not in answers[0].text
    assert "/" not in answers[0].json()["error"]
    for probe in ("livez", "readyz"):
        answer = in_process.get(f"/{probe}")
        assert (answer.status_code, answer.json()["reason"]) == (
            503,
            "the network failed (RuntimeError)",
        )
    assert in_process.get("/v2/health/live").status_code == 503
    assert "stdeploy_live 0.0" in in_process.get("/metrics").text


def test_a_network_that_hangs_turns_liveness_red(in_process: InProcessServer, video: Path) -> None:
    in_process.health.opened(in_process.service)
    in_process.runtime.slow_seconds = 0.5

    async def look() -> int:
        transport = httpx.ASGITransport(in_process.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            method, path, content = classify(video)
            work = asyncio.ensure_future(client.request(method, path, **content))
            status = 200
            while status == 200 and not work.done():
                await asyncio.sleep(0.05)
                status = (await client.get("/livez")).status_code
            await work
            return status

    assert asyncio.run(look()) == 503
    assert in_process.get("/livez").status_code == 200


def test_errors_that_nobody_thought_of_show_nothing(
    in_process: InProcessServer, video: Path
) -> None:
    in_process.health.opened(in_process.service)
    in_process.uploads.close()  # the folder is gone: a fault of this host
    (answer,) = in_process.ask(classify(video))
    assert answer.status_code == 500
    assert answer.json()["error"] == "the server made a mistake"


def test_what_is_not_there_is_an_error_in_the_same_shape(in_process: InProcessServer) -> None:
    for path, status, code in (
        ("/nothing", 404, "not_found"),
        ("/v1/classify", 405, "method_not_allowed"),
        ("/page/../app.py", 404, "not_found"),
        ("/page/..%2fapp.py", 404, "not_found"),
    ):
        answer = in_process.get(path)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert in_process.get("/nothing").json()["error"] == "there is nothing at '/nothing'"
    answer = in_process.get("/v1/classify")
    assert answer.json()["error"] == "'/v1/classify' takes no GET; POST is allowed"
    assert answer.headers["allow"] == "POST"


def test_the_port_of_metrics_answers_like_the_other(in_process: InProcessServer) -> None:
    in_process.app = in_process.metrics_app
    answer = in_process.get("/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert in_process.get("/livez").status_code == 200
    text = in_process.get("/metrics").text
    assert 'stdeploy_requests_total{route="/livez",status="200"} 1.0' in text
    assert "_created" not in text


def test_the_page_and_its_parts_come_with_their_headers(in_process: InProcessServer) -> None:
    page = in_process.get("/")
    assert "<title>" in page.text
    for answer in (page, in_process.get("/page/style.css"), in_process.get("/page/page.js")):
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-cache"
    assert in_process.get("/page/index.html").status_code == 404
    # What is no page may do nothing, should a browser take it for one.
    for path in ("/livez", "/openapi.json", "/nothing"):
        policy = in_process.get(path).headers["content-security-policy"]
        assert policy == "default-src 'none'; frame-ancestors 'none'"


def test_the_documentation_needs_no_internet(in_process: InProcessServer) -> None:
    answer = in_process.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert re.search(r"script-src 'self' 'sha256-[\w+/]{43}='; ", policy)
    assert "frame-ancestors 'none'" in policy
    text = answer.text
    for asset in re.findall(r"static-offline-docs/[\w.-]+", text):
        assert in_process.get(f"/{asset}").status_code == 200
    assert "http://" not in text
    assert "https://" not in text
    paths = in_process.get("/openapi.json").json()["paths"]
    assert "/v1/classify" in paths
    assert "/v2/models/{model}/infer" in paths
