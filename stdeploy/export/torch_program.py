"""A fused network as a program of torch.export (.pt2), for programs that start from those."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard, ParityRow
from stdeploy.artifacts.contents import TORCH_PROGRAM_CARD
from stdeploy.artifacts.files import (
    FLOAT_INPUT,
    FUSED_SUFFIX,
    TORCH_PROGRAM_SUFFIX,
    StrPath,
    as_path,
    checked_output,
    existing,
    whole_file,
)
from stdeploy.artifacts.frames import Frames
from stdeploy.artifacts.spec import InputFormat, Precision
from stdeploy.backends.base import ClosesOnExit, DeviceType
from stdeploy.backends.signature import as_input
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.datasets.loader import NamedVideos
from stdeploy.errors import ArtifactError, check_choice
from stdeploy.export.calibration import real_clips
from stdeploy.export.verification import Reference, check, prove, thresholds
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import FramesToLogits, logits_of


@dataclasses.dataclass(frozen=True)
class TorchProgram:
    """What was written.

    Attributes:
        path: the .pt2 file; its extra file "stdeploy.card.json" is the card.
        card: with every comparison that it passed.
    """

    path: Path
    card: ModelCard

    @property
    def parity(self) -> tuple[ParityRow, ...]:
        """Every comparison with the fused network, all of them passed."""
        return self.card.parity


def export_torch_program(
    fused: StrPath,
    output: StrPath | None = None,
    *,
    input_format: InputFormat = "uint8-nthwc",
    calibrate: StrPath | NamedVideos | None = None,
    max_clips: int = 32,
    allow: Mapping[str, float] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> TorchProgram:
    """Write a fused network as a program of torch.export, in fp32, for any batch size.

    `torch.export.load` reads it, in the same version of torch or a newer one. Loading such a file
    may run code that its maker wrote, so stdeploy opens none; load those of people you trust.

    Args:
        fused: a .fused.safetensors file.
        output: where to write; None puts ckpt.pt2 beside ckpt.fused.safetensors.
        input_format: what the program takes: frames uint8 (N, T, H, W, 3), or the same numbers as
            float32 (N, 3, T, H, W).
        calibrate: real videos to compare on, beside synthetic clips; see `export_onnx`.
        max_clips: most clips of them.
        allow: thresholds of the gate to use instead of those in parity.py, by name.
        progress: is told what is done, how much of it and of how much.
        tell: is told which videos are of no use.

    Raises:
        ArtifactError: the file is no fused network.
        SpecError: no such input or threshold.
        ParityError: the program answers differently; nothing is written.
    """
    check_choice("input_format", input_format, ("uint8-nthwc", "float-ncthw"))
    fused = existing(as_path(fused, "a fused network"))
    if not fused.name.endswith(FUSED_SUFFIX):
        raise ArtifactError(
            f"{str(fused)!r}: a *{FUSED_SUFFIX} file is wanted, which stdeploy fuse writes; no "
            "program of torch can be made of a graph"
        )
    middle = FLOAT_INPUT if input_format == "float-ncthw" else ""
    stem = fused.name.removesuffix(FUSED_SUFFIX)
    path = checked_output(
        fused.with_name(stem + middle + TORCH_PROGRAM_SUFFIX)
        if output is None
        else as_path(output, "an output"),
        TORCH_PROGRAM_SUFFIX,
    )
    allowed = thresholds("fp32", allow or {})
    model, card = load_model(fused)
    clips = real_clips(calibrate, card.clip, max_clips=max_clips, tell=tell)
    reference = Reference.of(
        lambda frames: logits_of(model, card.clip, frames), card, clips, progress
    )
    card = card.model_copy(
        update={
            "input": input_format,
            "lineage": card.lineage.of_child(fused, torch=torch.__version__),
            "parity": (),
        }
    )
    graph = FramesToLogits(model, card.clip, input_format).eval()
    # Two clips: torch.export would take a batch of one for a constant.
    example = torch.zeros((2, *card.input_shape), dtype=getattr(torch, card.input_type))
    progress("exporting the program", 0, 1)
    with torch.no_grad():
        program = torch.export.export(
            graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    with whole_file(path) as temporary:
        _save(program, card, temporary)
        with _Opened(temporary, card) as runtime:
            proof = prove(runtime, reference, allowed, progress=progress)
        check(proof, source=f"{path.name!r}")
        card = card.model_copy(update={"parity": proof.rows})
        _save(program, card, temporary)
    return TorchProgram(path, card)


class _Opened(ClosesOnExit):
    """A program in this process, which has just written it; see `RunsClips`."""

    name = "torch.export"
    device = "CPU"
    device_type: DeviceType = "cpu"
    precision: Precision = "fp32"
    stored: Precision = "fp32"

    def __init__(self, path: Path, card: ModelCard) -> None:
        self._card = card
        self._program: Callable[[torch.Tensor], torch.Tensor] = torch.export.load(path).module()

    def __enter__(self) -> Self:
        return self

    def run(self, frames: Frames) -> NDArray[np.float32]:
        """Classify clips; see `RunsClips.run`."""
        clips: Any = as_input(frames, self._card)
        with torch.inference_mode():
            return np.asarray(self._program(torch.from_numpy(clips)).numpy(), dtype=np.float32)


def _save(program: torch.export.ExportedProgram, card: ModelCard, path: Path) -> None:
    torch.export.save(program, path, extra_files={TORCH_PROGRAM_CARD: card.to_json()})
