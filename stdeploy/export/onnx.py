"""Fused weights to one self-contained .onnx file that is verified before it gets its name."""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from stdeploy.card import CARD_KEY, Lineage, ModelCard, ParityRow
from stdeploy.errors import ArtifactError, ParityError, require
from stdeploy.files import checked_output, existing, onnx_path, sha256_of, whole_file
from stdeploy.golden import check_golden, golden_clip
from stdeploy.layers.frames import FramesToLogits
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.models.inference import logits_of
from stdeploy.parity import RUNTIME_TOLERANCE, relative_error
from stdeploy.runtime.base import open_runtime
from stdeploy.runtime.onnxruntime import OnnxRuntime

OPSET = 20
_BATCHES = (1, 2, 5)


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        path: the .onnx file.
        card: the card inside it, with the parity of every batch size.
    """

    path: Path
    card: ModelCard


def export_onnx(fused: Path, output: Path | None = None) -> ExportResult:
    """Export a fused network: uint8 frames (N, T, H, W, 3) in, logits (N, K) out, any N.

    Args:
        fused: a .fused.safetensors file.
        output: where to write; None puts ckpt.onnx beside ckpt.fused.safetensors.

    Raises:
        ArtifactError: the file cannot be used or is not fused.
        ParityError: ONNX Runtime answers differently; nothing is written.
        MissingExtraError: onnxscript or ONNX Runtime is not installed.
    """
    require("onnxscript", extra="export", purpose="exporting to ONNX")
    require("onnxruntime", extra="cpu", purpose="verifying an ONNX file")
    existing(fused)
    path = checked_output(onnx_path(fused) if output is None else output, ".onnx", source=fused)
    model, card = load_model(fused)
    if not card.model.fused:
        raise ArtifactError(
            f"{str(fused)!r} still has branches and batch norms; run: stdeploy fuse {fused.name}"
        )
    frames, expected = _reference(model, card)
    check_golden(
        card.golden.logits,
        expected[0],
        tolerance=RUNTIME_TOLERANCE,
        source=f"{fused.name!r} on torch",
    )
    card = card.model_copy(
        update={
            "lineage": card.lineage.model_copy(
                update={
                    "parent": fused.name,
                    "parent_sha256": sha256_of(fused),
                    "versions": {
                        **Lineage().versions,
                        "torch": torch.__version__,
                        "onnx": onnx.__version__,
                    },
                }
            ),
            "parity": (),
        }
    )
    proto = _to_onnx(model, card)
    with whole_file(path) as temporary:
        _save(proto, card, temporary)
        rows = tuple(_parity_rows(temporary, card, frames, expected))
        failed = [row for row in rows if not row.passed]
        if failed:
            raise ParityError(
                f"ONNX Runtime answers {fused.name!r} differently at {failed[0].check}: relative "
                f"error {failed[0].error:.1e}, allowed {failed[0].tolerance:.0e}; "
                "nothing was written"
            )
        card = card.model_copy(update={"parity": rows})
        _save(proto, card, temporary)
        # What was verified is a file without these rows; the file that stays is opened once more.
        open_runtime(temporary, card).close()
    return ExportResult(path, card)


def _reference(model: ActionModel, card: ModelCard) -> tuple[Any, Any]:
    """Clips and the network's own answers, the golden clip first; one at a time for memory."""
    seeds = range(card.golden.seed, card.golden.seed + max(_BATCHES))
    frames = np.stack([golden_clip(seed, card.clip.frames_shape) for seed in seeds])
    logits = [logits_of(model, card.clip, frame[None]) for frame in frames]
    return frames, np.concatenate(logits)


def _to_onnx(model: ActionModel, card: ModelCard) -> onnx.ModelProto:
    graph = FramesToLogits(model, card.clip).eval()
    # Two clips: torch.export would take a batch of one for a constant.
    example = torch.zeros((2, *card.clip.frames_shape), dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=["frames"],
            output_names=["logits"],
            dynamic_shapes={"frames": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ArtifactError("torch.onnx.export gave no program; is onnxscript up to date?")
    proto = program.model_proto
    onnx.checker.check_model(proto, full_check=True)
    return proto


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns about its own internals, which no user of ours can act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _save(proto: onnx.ModelProto, card: ModelCard, path: Path) -> None:
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {CARD_KEY: card.to_json()})
    onnx.save_model(proto, path)


def _parity_rows(path: Path, card: ModelCard, frames: Any, expected: Any) -> Iterator[ParityRow]:
    with OnnxRuntime.open(path, card) as runtime:
        for batch in _BATCHES:
            yield ParityRow(
                check=f"onnxruntime, batch {batch}",
                precision="float32",
                error=relative_error(expected[:batch], runtime.run(frames[:batch])),
                tolerance=RUNTIME_TOLERANCE,
                detail="x".join(str(size) for size in card.clip.frames_shape[:3]),
            )
