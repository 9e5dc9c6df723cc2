"""What works with `pip install 'stdeploy[cpu]'` and nothing else; .ci/cpu-only runs it there."""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdeploy.artifacts.card import read_card
from stdeploy.inference.classifier import Classifier
from tests.data.files import TINY_ONNX
from tests.helpers.program import records, stdeploy
from tests.helpers.videos import numbered_frames, write_video

VERBS = (
    *("ablate", "analyze", "bench", "card", "classify", "data", "doctor", "evaluate", "export"),
    *("flops", "fuse", "pull", "serve", "train", "watch"),
)


def lacks(module: str) -> bool:
    return importlib.util.find_spec(module) is None


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    write_video(path, numbered_frames(30), fps=12.0)
    return path


@pytest.mark.skipif("STDEPLOY_BARE" not in os.environ, reason="a full installation")
def test_this_installation_is_bare() -> None:
    for module in ("torch", "av", "openvino", "matplotlib", "ray"):
        assert lacks(module), f"{module} is installed; .ci/cpu-only proves nothing"


def test_a_file_of_the_first_version_keeps_its_card() -> None:
    card = read_card(TINY_ONNX)
    assert card.labels == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert card.lineage.versions["stdeploy"] == "0.1.0"


def test_a_video_is_classified(video: Path) -> None:
    arguments = ("classify", video.name, "--model", TINY_ONNX, "--json")
    result = stdeploy(*arguments, cwd=video.parent)
    assert result.returncode == 0, result.stderr
    [row] = records(result)
    assert row["predictions"][0]["label"] == "class 4"
    assert row["predictions"][0]["score"] == pytest.approx(0.350, abs=0.01)
    with Classifier.open(TINY_ONNX) as classifier:
        prediction = classifier.classify(video)
    scores = [found["score"] for found in row["predictions"]]
    assert scores == pytest.approx(prediction.scores, abs=1e-6)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, tmp_path: Path) -> None:
    result = stdeploy(verb, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Usage: stdeploy" in result.stdout


def test_doctor_names_what_is_here(tmp_path: Path) -> None:
    result = stdeploy("doctor", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"onnxruntime, cpu +works", result.stdout)
    if lacks("torch"):
        assert re.search(r"torch +absent +not installed; .*'stdeploy\[train\]'", result.stdout)


def test_a_verb_that_needs_more_names_the_command(tmp_path: Path) -> None:
    if not lacks("fastapi"):
        pytest.skip("the server is installed")
    result = stdeploy("serve", TINY_ONNX, cwd=tmp_path)
    assert result.returncode == 3
    assert "serving needs fastapi, which is not installed; run: " in result.stderr
    assert result.stderr.rstrip().endswith("pip install 'stdeploy[serve]'")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "stdeploy", "serve", str(TINY_ONNX), "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r" at (http://\S+)", line):
                yield found[1]
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_server_answers(video: Path) -> None:
    if lacks("fastapi"):
        pytest.skip("the server is not installed")
    with server(video.parent) as url:
        request = urllib.request.Request(
            f"{url}/v1/classify", video.read_bytes(), {"Content-Type": "video/mp4"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = json.load(answer)
    assert body["predictions"][0]["label"] == "class 4"
