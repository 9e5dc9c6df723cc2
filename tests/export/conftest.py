"""Files of every precision, for the tests of what verifies them."""

from pathlib import Path

import pytest

from stdeploy.artifacts.spec import Precision
from stdeploy.export.onnx import export_onnx
from stdeploy.hardware import cpu_emulates_bf16
from stdeploy.models.checkpoint import save_fused
from tests.export.files import HESITANT, LENGTHS, fused_network
from tests.helpers.models import card_of
from tests.helpers.videos import write_golden_videos


@pytest.fixture(scope="session")
def calibration_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_golden_videos(tmp_path_factory.mktemp("clips") / "clips", count=4)


@pytest.fixture(scope="session")
def exported_folder(tmp_path_factory: pytest.TempPathFactory, calibration_videos: Path) -> Path:
    """a.onnx, a.fp16.onnx, a.bf16.onnx, a.int8.onnx beside a.fused.safetensors."""
    fused = tmp_path_factory.mktemp("kernels") / "a.fused.safetensors"
    model = fused_network(temporal_lengths=LENGTHS)
    save_fused(fused, model, card_of(model))
    precisions: list[Precision] = ["fp32", "fp16", "int8"]
    for precision in precisions + (["bf16"] if cpu_emulates_bf16() else []):
        export_onnx(fused, precision=precision, calibrate=calibration_videos, allow=HESITANT)
    return fused.parent
