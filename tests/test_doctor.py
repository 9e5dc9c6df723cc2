import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stdeploy.backends.openvino import OpenVinoRuntime
from stdeploy.doctor import (
    both_onnxruntimes,
    both_opencvs,
    examine,
    faulty_onnx,
    faulty_torch,
)
from stdeploy.hardware import cpu_count, cpu_name, gpus, memory_bytes


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
    assert finding.remedy == "pip install 'stdeploy[openvino]'"


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


def test_remedies_are_for_the_pip_of_this_environment(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom stdeploy import doctor\n"
        "bad = doctor.both_opencvs({'opencv-python': '4', 'opencv-python-headless': '4'})\n"
        "doctor._examine = lambda: bad\n"
        "sys.argv = ['stdeploy', 'doctor']\nfrom stdeploy.cli.main import main\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    pip = f"{sys.executable} -m pip"
    remedy = f"{pip} uninstall both, then {pip} install 'opencv-python-headless>=4.14.0.94,<5'"
    assert result.stdout.endswith(f"; {remedy}\n")


@pytest.mark.parametrize("columns", [60, 80])
def test_on_a_terminal_words_are_whole_and_a_remedy_is_in_one_piece(columns: int) -> None:
    script = (
        "import sys\nfrom stdeploy import doctor\n"
        "text, remedy = 'word ' * 40, \"pip install 'stdeploy[cpu]'\"\n"
        "doctor._examine = lambda: iter([doctor.Finding('a topic', 'absent', text, remedy)])\n"
        "sys.argv = ['stdeploy', 'doctor']\nfrom stdeploy.cli.main import main\nmain()"
    )
    ours, theirs = os.openpty()
    subprocess.run(
        [sys.executable, "-c", script],
        stdout=theirs,
        env=os.environ | {"COLUMNS": str(columns), "PATH": str(Path(sys.executable).parent)},
        check=True,
    )
    os.close(theirs)
    shown = re.sub(r"\x1b\[[\d;]*m", "", os.read(ours, 1 << 16).decode())
    os.close(ours)
    *lines, remedy = (line.rstrip() for line in shown.splitlines())
    assert re.fullmatch(r"a topic {11}absent {3}word( word)*", lines[0])
    assert all(re.fullmatch(r" {27}word( word)*", line) for line in lines[1:])
    assert max(map(len, lines)) <= columns
    assert remedy == " " * 27 + "pip install 'stdeploy[cpu]'"
