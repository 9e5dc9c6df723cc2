"""stdeploy export: fused weights to ONNX, verified."""

from pathlib import Path
from typing import Annotated

import typer

from stdeploy.cli.console import note, out
from stdeploy.errors import BackendError, require


def command(
    fused: Annotated[
        Path | None,
        typer.Argument(help="Default: the newest *.fused.safetensors of this folder."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: ckpt.onnx beside the weights.")
    ] = None,
    trt: Annotated[
        bool, typer.Option("--trt", help="Also build a TensorRT engine (needs a GPU host).")
    ] = False,
) -> None:
    """Write one self-contained .onnx file: uint8 frames in, logits out, any batch size.

    ONNX Runtime must give the same logits as the fused network at batches 1, 2 and 5, or
    nothing is written.
    """
    require("torch", extra="export", purpose="exporting")
    from stdeploy.export.onnx import export_onnx
    from stdeploy.export.tensorrt import missing_tensorrt
    from stdeploy.files import FUSED_SUFFIX, newest

    if fused is None:
        fused = newest(Path(), FUSED_SUFFIX, made_by="stdeploy fuse ckpt.pt")
    note(f"exporting {fused}")
    result = export_onnx(fused, output)
    for row in result.card.parity:
        out.print(
            f"{row.check}: relative error {row.error:.1e} (<= {row.tolerance:.0e})", markup=False
        )
    size = result.path.stat().st_size / 1e6
    out.print(f"{result.path}  {size:.1f} MB", soft_wrap=True, markup=False)
    if trt:
        raise BackendError(missing_tensorrt(result.path))
