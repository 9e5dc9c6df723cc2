"""The same rows from Ray's workers as from this process; a killed worker loses nothing."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stdeploy.classify import Classifier, ClassifyOptions
from stdeploy.cluster import LOCAL, ClusterOptions, classify_on_ray
from stdeploy.errors import BackendError, VideoError
from stdeploy.export.onnx import export_onnx
from stdeploy.fuse import fuse_file
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.runtime.base import RuntimeOptions
from tests.conftest import card_of, tiny_model
from tests.video.odd import coloured_frames, encode

pytest.importorskip("ray")
# Of Ray's own making, at the end of a session.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

OPTIONS = ClassifyOptions(views=2)
RUNTIME = RuntimeOptions(backend="onnxruntime", threads=1)
CLUSTER = ClusterOptions(address=LOCAL, workers=2)
VIDEOS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    model = tiny_model()
    save_checkpoint(folder / "a.pt", model, card_of(model))
    fuse_file(folder / "a.pt")
    export_onnx(folder / "a.fused.safetensors")
    for number in range(VIDEOS):
        frames = coloured_frames(30 + number)[number:]
        encode(folder / f"{number:02d}.mp4", frames, "libx264")
    (folder / "07.mp4").write_bytes(b"no video at all\n" * 50)
    return folder


def videos(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mp4"))


def without_times(rows: list[dict[str, Any]]) -> str:
    return json.dumps([{k: v for k, v in row.items() if k != "timings_ms"} for row in rows])


@pytest.fixture(scope="module")
def expected(folder: Path) -> str:
    rows = []
    with Classifier.open(folder / "a.onnx", options=OPTIONS, runtime_options=RUNTIME) as opened:
        for path, result in opened.classify_all(videos(folder)):
            failed = isinstance(result, VideoError)
            rows.append(
                {"video": str(path), "error": str(result)} if failed else result.to_record(3)
            )
    assert sum("error" in row for row in rows) == 1
    return without_times(rows)


def on_ray(folder: Path, cluster: ClusterOptions = CLUSTER) -> list[dict[str, Any]]:
    rows = classify_on_ray(
        videos(folder), folder / "a.onnx", cluster, OPTIONS, RUNTIME, top_k=3, untrusted=False
    )
    return list(rows)


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


def test_rows_are_those_of_this_process(folder: Path, expected: str) -> None:
    assert without_times(on_ray(folder)) == expected


def test_a_killed_worker_loses_nothing(folder: Path, expected: str) -> None:
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for number in workers_of_ray():
                os.kill(number, signal.SIGKILL)
                killed.append(number)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    rows = on_ray(folder)
    killer.join()
    assert killed
    assert without_times(rows) == expected


def test_a_cluster_that_does_not_answer_is_an_error(folder: Path) -> None:
    with pytest.raises(BackendError, match="no Ray cluster answers at '127"):
        on_ray(folder, ClusterOptions(address="127.0.0.1:1", workers=1))
