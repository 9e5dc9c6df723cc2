import subprocess
import sys

import pytest

from stdeploy.doctor import (
    both_onnxruntimes,
    both_opencvs,
    examine,
    faulty_onnx,
    faulty_torch,
)
from stdeploy.hardware import cpu_count, cpu_name, gpus, memory_bytes
from stdeploy.runtime.openvino import OpenVinoRuntime


def test_this_host_is_described_and_what_tests_use_works() -> None:
    found = {finding.topic: finding for finding in examine()}
    assert cpu_name() in found["CPU"].text
    assert found["torch, cpu"].status == "works"
    assert found["onnxruntime, cpu"].status == "works"
    assert found["openvino, cpu"].status == "works"
    assert "faster of onnxruntime and openvino" in found["auto"].text
    assert (found["GPU"].status == "works") == bool(gpus())
    assert not [finding for finding in found.values() if finding.status == "problem"]


@pytest.mark.parametrize(
    ("check", "installed", "words"),
    [
        (both_onnxruntimes, {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}, "overwrite"),
        (both_opencvs, {"opencv-python": "4", "opencv-python-headless": "4"}, "overwrite"),
        (faulty_torch, {"torch": "2.9.1+cu128"}, "Conv3d under mixed precision"),
        (faulty_torch, {"torch": "2.8.0"}, "CVE-2026-24747"),
        (faulty_onnx, {"onnx": "1.20.1"}, "external-data"),
    ],
)
def test_known_bad_combinations_are_found_with_a_remedy(check, installed, words) -> None:
    (finding,) = check(installed)
    assert finding.status == "problem"
    assert words in finding.text
    assert "pip" in finding.remedy


@pytest.mark.parametrize(
    "installed",
    [{}, {"onnxruntime-gpu": "1.31.1"}, {"torch": "2.13.0+cpu"}, {"onnx": "1.21.0"}],
)
def test_good_combinations_are_left_alone(installed: dict[str, str]) -> None:
    for check in (both_onnxruntimes, both_opencvs, faulty_torch, faulty_onnx):
        assert list(check(installed)) == []


def test_a_missing_backend_is_absent_with_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    (finding,) = OpenVinoRuntime.examine()
    assert finding.status == "absent"
    assert finding.remedy == (
        "pip install 'stdeploy[openvino]' (in a clone: pip install '.[openvino]')"
    )


def test_hardware_is_plausible() -> None:
    assert 1 <= cpu_count() <= 4096
    assert (memory_bytes() or 0) > 1 << 28


def test_exit_status_is_1_where_there_is_a_problem() -> None:
    script = (
        "import sys\nfrom stdeploy import doctor\n"
        "doctor.examine = lambda: iter([doctor.Finding('x', 'problem', 'is broken', 'mend it')])\n"
        "sys.argv = ['stdeploy', 'doctor']\nfrom stdeploy.cli.main import main\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "problem  is broken; mend it" in result.stdout
