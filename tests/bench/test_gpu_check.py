"""`make gpu-check` on a CPU: every stage runs, and a killed call has lost one stage alone."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "gpu_check"
STAGES = [
    *("host", "torch_profile", "answers", "planar_b1", "readers"),
    *("training_speed", "training_waits", "planar", "aot_b1", "nvdec"),
    *("training", "artifacts", "kinetics_onnx", "onnx_profile", "serving_nvdec"),
    *("serving", "kinetics", "b1", "torch_batch_32_b1", "aot"),
    *("torch_batch_32", "artifacts_planar", "planar_onnx", "compiled", "aot_autotuned"),
    *("planar_precisions", "onnx_channels_last", "onnx_batch_32", "determinism", "memory"),
    *("streams", "stream_answers", "live"),
    *("engines", "compile", "training_compiled"),
]
# Their machine has no GPU: what it alone can show.
ONLY_ON_A_GPU = {"host", "engines"}


@contextlib.contextmanager
def rehearsal(results: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, str(FOLDER), "--rehearsal", "--results", str(results)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def stages_of(results: Path) -> dict[str, dict]:
    path = results / "rehearsal.json"
    return json.loads(path.read_text())["stages"] if path.is_file() else {}


def children_of(process: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def lives(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_a_killed_rehearsal_goes_on_and_every_stage_passes(tmp_path: Path) -> None:
    with rehearsal(tmp_path) as process:
        while process.poll() is None and not stages_of(tmp_path):
            time.sleep(0.1)
        while not (stage := children_of(process.pid)):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    before = stages_of(tmp_path)
    assert list(before) == ["host"], output
    deadline = time.monotonic() + 60
    while lives(stage[0]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not lives(stage[0])  # a stage does not go on alone
    with rehearsal(tmp_path) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    after = stages_of(tmp_path)
    assert list(after) == STAGES
    assert after["host"] == before["host"]  # was not run again
    assert {name: stage["status"] for name, stage in after.items()} == dict.fromkeys(
        STAGES, "passed"
    ), output
    for name, outcome in after.items():
        assert outcome["findings"], name
        impossible = [f for f in outcome["findings"] if f["status"] == "cannot run here"]
        assert not impossible or name in ONLY_ON_A_GPU, impossible
    measured = [name for name, outcome in after.items() if outcome["report"]]
    assert len(measured) == 15
    for name in measured:
        assert all(row["clips_per_second"] > 0 for row in after[name]["report"]["rows"])
    page = (tmp_path / "rehearsal.md").read_text()
    assert "| b1 | passed |" in page
    assert "- serving, server: " in page
    assert "| torch cpu fp32 unfused | 1 |" in page


@pytest.mark.slow
def test_a_benchmark_that_is_ended_keeps_the_turns_that_it_has_measured(tmp_path: Path) -> None:
    path = tmp_path / "kinetics_onnx.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"STDEPLOY_REHEARSE_GPU": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, FOLDER / "stage.py", path.stem, path, str(os.getpid())]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        while process.poll() is None and not (path.is_file() and json.loads(path.read_text())):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    outcome = json.loads(path.read_text())
    assert process.returncode == -signal.SIGKILL  # it was not at its end
    assert outcome["report"]["rows"]
    assert all(row["clips_per_second"] > 0 for row in outcome["report"]["rows"])


def test_without_a_gpu_the_check_says_what_to_do(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, str(FOLDER), "--results", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    assert result.stderr.startswith("no NVIDIA GPU here; make gpu-check is for hosts with one, and")
    assert not list(tmp_path.iterdir())
