"""What the tests of exported files share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from stdeploy.fusion import fuse_model
from stdeploy.hardware import cpu_emulates_bf16
from stdeploy.models.base import ActionModel
from tests.helpers.models import tiny_model, write_signed
from tests.helpers.onnx_faults import Place

BF16 = pytest.param(
    "bf16", marks=pytest.mark.skipif(not cpu_emulates_bf16(), reason="needs AVX-512 to verify")
)
PRECISIONS = ("fp32", "fp16", BF16, "int8")
# The best classes of a random network lie so near each other that any rounding swaps them.
HESITANT = {"top1_changed": 1.0}
LENGTHS = (1, 1, 3, 3, 5)
PLACE = Place("conv4.1.conv2", 5)  # of 3 frames


def fused_network(architecture: str = "i3d-resnet18", **fields: Any) -> ActionModel:
    return fuse_model(tiny_model(architecture, **fields)).float()


def file_of(folder: Path, precision: str) -> Path:
    return folder / ("a.onnx" if precision == "fp32" else f"a.{precision}.onnx")


def altered(
    folder: Path, target: Path, precision: str, change: Callable[[onnx.ModelProto], None]
) -> Path:
    """A file with a change, and with the content digest of what it is now."""
    proto = onnx.load(file_of(folder, precision))
    change(proto)
    path = file_of(target, precision)
    write_signed(proto, path)
    return path
