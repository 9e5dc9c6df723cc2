"""Make tiny.onnx, which classifies where no torch is installed: python -m tests.data.make.

Committed, because what makes it needs torch, and so that files of earlier versions stay readable.
"""

import tempfile
from pathlib import Path

from stdeploy.export.onnx import ExportOptions, export_onnx
from stdeploy.fusion import fuse_file
from stdeploy.models.checkpoint import save_checkpoint
from tests.data.files import TINY_ONNX
from tests.helpers.models import card_of, tiny_model


def main() -> None:
    """Train nothing: a network of five classes with random weights, fused and exported."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny.pt"
        model = tiny_model(width=0.03125, temporal_lengths=(1, 1, 3, 3, 5))
        save_checkpoint(checkpoint, model, card_of(model))
        export_onnx(fuse_file(checkpoint).path, TINY_ONNX, ExportOptions())


if __name__ == "__main__":
    main()
