"""The same rows from Ray's workers as from one process; a killed worker loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stdeploy.models.checkpoint import save_checkpoint
from tests.helpers.models import card_of, tiny_model
from tests.helpers.odd_videos import coloured_frames, encode
from tests.helpers.program import records, stdeploy

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

RUN = ("--backend", "onnxruntime", "--threads", 1, "--views", 2, "--json")
RAY = ("--ray", "local", "--workers", 2)
VIDEOS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    model = tiny_model()
    save_checkpoint(folder / "a.pt", model, card_of(model))
    for verb in (("fuse", "a.pt"), ("export",)):
        result = stdeploy(*verb, cwd=folder)
        assert result.returncode == 0, result.stderr
    for number in range(VIDEOS):
        frames = coloured_frames(30 + number)[number:]
        encode(folder / f"{number:02d}.mp4", frames, "libx264")
    (folder / "07.mp4").write_bytes(b"no video at all\n" * 50)
    return folder


def without_times(rows: list[dict]) -> str:
    return json.dumps([{k: v for k, v in row.items() if k != "timings_ms"} for row in rows])


@pytest.fixture(scope="module")
def expected(folder: Path) -> str:
    result = stdeploy("classify", ".", *RUN, cwd=folder)
    assert result.returncode == 1, result.stderr
    rows = records(result)
    assert len(rows) == VIDEOS
    assert [row["video"] for row in rows if "error" in row] == ["07.mp4"]
    return without_times(rows)


def test_rows_are_those_of_one_process(folder: Path, expected: str) -> None:
    result = stdeploy("classify", ".", *RUN, *RAY, cwd=folder)
    assert result.returncode == 1, result.stderr
    assert without_times(records(result)) == expected


def workers_of_ray() -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                title = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and b"_Worker" in title:
                found.append(int(process.name))
    return found


def test_a_killed_worker_loses_nothing(folder: Path, expected: str) -> None:
    command = [sys.executable, "-m", "stdeploy", "classify", ".", *map(str, (*RUN, *RAY))]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"STDEPLOY_CACHE": str(folder.parent / "stdeploy-cache")},
    )
    killed = False
    while not killed and process.poll() is None:
        for number in workers_of_ray():
            os.kill(number, signal.SIGKILL)
            killed = True
        time.sleep(0.02)
    output, _ = process.communicate(timeout=120)
    assert killed
    rows = [json.loads(line) for line in output.splitlines()]
    assert without_times(rows) == expected


def test_a_cluster_that_does_not_answer_is_an_error(folder: Path) -> None:
    result = stdeploy("classify", "00.mp4", "--ray", "127.0.0.1:1", cwd=folder)
    assert result.returncode == 3
    assert "no Ray cluster answers at '127.0.0.1:1'" in " ".join(result.stderr.split())
