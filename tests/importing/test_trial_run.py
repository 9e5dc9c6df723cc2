"""The first run of a graph: a crash, or a run without end, is one line and ends nothing else."""

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stdeploy.errors import ArtifactError
from stdeploy.importing import trial_run
from stdeploy.importing.trial_run import try_out
from tests.importing.networks import (
    FRAMES,
    SIDE,
    TinyNetwork,
    Transformer,
    built,
    write_onnx,
)

CLIP = (3, FRAMES, SIDE, SIDE)


class InHalfPrecision(nn.Module):
    """Takes float32 and computes in float16, which crashes ONNX Runtime 1.32 on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Transformer().half()

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(clip.half())
        return logits.float()


def test_a_graph_that_runs_is_let_through(tmp_path: Path) -> None:
    path = write_onnx(built(TinyNetwork), tmp_path / "net.onnx", CLIP)
    try_out(path, {"input0": (1, *CLIP)}, source="net.onnx")
    # What is raised there is raised again by whoever runs it here.
    try_out(path, {"input0": (1, 2)}, source="net.onnx")


def test_a_crash_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashed(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, -11)

    monkeypatch.setattr(trial_run.subprocess, "run", crashed)
    with pytest.raises(ArtifactError, match=r"makes ONNX Runtime crash \(SIGSEGV\)"):
        try_out(tmp_path / "net.onnx", {}, source="net.onnx")


def test_a_run_without_end_is_ended(tmp_path: Path) -> None:
    path = write_onnx(built(TinyNetwork), tmp_path / "net.onnx", CLIP)
    with pytest.raises(ArtifactError, match="takes more than 0 s for one clip"):
        try_out(path, {"input0": (1, *CLIP)}, source="net.onnx", most_seconds=0.01)


def test_what_crashes_onnx_runtime_does_not_crash_the_program(tmp_path: Path) -> None:
    path = write_onnx(built(InHalfPrecision), tmp_path / "net.onnx", CLIP)
    with contextlib.suppress(ArtifactError):  # other versions of it run the graph
        try_out(path, {"input0": (1, *CLIP)}, source="net.onnx")
