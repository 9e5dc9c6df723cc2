"""A few of each hostile request; benchmarks/serving_endurance.py sends hundreds."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.serve.conftest import running
from tests.serve.hostile import Hostile
from tests.serve.test_v1 import post

EACH = 4


def test_nothing_hostile_is_a_500_a_hang_a_leak_or_a_wrong_answer_for_others(
    artifact: Path, video: Path, tmp_path: Path
) -> None:
    hostile = Hostile(tmp_path, video)
    limits = ("--header-seconds", "1", "--upload-seconds", "2", "--request-seconds", "10")
    with running(artifact, *limits, "--max-pixels", "1000000") as server:
        good = video.read_bytes()
        wanted = post(server, good).json()["predictions"]
        with ThreadPoolExecutor(8) as pool:
            sent = [
                pool.submit(hostile.send, kind, server.address, seed)
                for seed in range(EACH)
                for kind in hostile.kinds
            ]
            answers = [post(server, good) for _ in range(10)]
            for future in sent:
                future.result()
        for answer in answers:
            assert answer.status_code in (200, 503), answer.text
            assert answer.status_code == 503 or answer.json()["predictions"] == wanted
        server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 0)
        server.wait_until(lambda: server.left_uploads() == [])
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert post(server, good).json()["predictions"] == wanted
        assert not any("Traceback" in line for line in server.log), "".join(server.log)
