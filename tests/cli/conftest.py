import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stdeploy.cli.main import main
from stdeploy.models.checkpoint import save_checkpoint
from tests.helpers.models import card_of, tiny_model
from tests.helpers.program import Inside, stdeploy
from tests.helpers.videos import write_video


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The same without a process of its own, for what does not depend on one: seconds less."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("STDEPLOY_DEBUG", "0")
        monkeypatch.setenv("STDEPLOY_CACHE", str(cwd.parent / "stdeploy-cache"))
        monkeypatch.setattr(sys, "argv", ["stdeploy", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            signal.signal(signal.SIGTERM, handler)
        output = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, status, output.out, output.err)

    return run


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after `stdeploy fuse ckpt.pt` and `stdeploy export`, with videos."""
    folder = tmp_path_factory.mktemp("chain")
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5))
    save_checkpoint(folder / "ckpt.pt", model, card_of(model))
    fused = stdeploy("fuse", "ckpt.pt", cwd=folder)
    assert fused.returncode == 0, fused.stderr
    assert "conv5.1.conv2" in fused.stdout
    assert "ckpt.fused.safetensors" in fused.stdout
    exported = stdeploy("export", cwd=folder)
    assert exported.returncode == 0, exported.stderr
    assert "exporting ckpt.fused.safetensors" in exported.stderr
    assert "onnxruntime, batch 5" in exported.stdout
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        noise = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(30)]
        write_video(folder / f"{name}.mp4", noise, fps=12.0)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return folder
