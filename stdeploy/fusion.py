"""Fusing a whole network: every branch and batch norm into one filter a layer, and the proof."""

import copy
import dataclasses
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stdeploy.artifacts.card import Lineage, ModelCard, ParityRow
from stdeploy.artifacts.files import (
    StrPath,
    as_path,
    checked_output,
    existing,
    fused_path,
    sha256_of,
)
from stdeploy.artifacts.golden import check_golden, golden_clip
from stdeploy.artifacts.parity import FUSION_TOLERANCE, RUNTIME_TOLERANCE, relative_error
from stdeploy.artifacts.spec import Arithmetic, ClipSpec
from stdeploy.errors import ArtifactError, FusionError, ParityError
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model, save_fused
from stdeploy.models.frames_to_logits import logits_and_magnitude, logits_of

_DTYPES: dict[Arithmetic, torch.dtype] = {"fp64": torch.float64, "fp32": torch.float32}

# float64 convolutions unfold their input: a clip of this size needs some 200 MB, one of
# 64 x 224 x 224 over 3 GB.
_MAX_FRAMES, _MAX_SIDE_PX = 16, 112


@dataclasses.dataclass(frozen=True)
class FuseResult:
    """What fusing did.

    Attributes:
        path: the file written.
        card: of the fused network, with the parity of every check.
        parameters_before: of the network with branches and norms.
        parameters_after: of the fused network.
    """

    path: Path
    card: ModelCard
    parameters_before: int
    parameters_after: int

    @property
    def parity(self) -> tuple[ParityRow, ...]:
        """Every comparison with the original, all of them passed."""
        return self.card.parity


def fuse_checkpoint(
    checkpoint: StrPath,
    output: StrPath | None = None,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> FuseResult:
    """Fuse a checkpoint, verify the result, and write it.

    Args:
        checkpoint: a .pt file.
        output: where to write; None puts ckpt.fused.safetensors beside ckpt.pt.
        progress: is told comparisons done and in all.

    Raises:
        ArtifactError: the checkpoint cannot be used, or is fused already.
        ParityError: the fused network differs; nothing is written.
        SpecError: a path that is none.
    """
    checkpoint = existing(as_path(checkpoint, "a checkpoint"))
    path = checked_output(
        fused_path(checkpoint) if output is None else as_path(output, "an output"),
        ".safetensors",
        source=checkpoint,
    )
    model, card = load_model(checkpoint)
    if card.model.fused:
        command = f"stdeploy export {shlex.quote(str(checkpoint))}"
        raise ArtifactError(f"{str(checkpoint)!r} is fused already; run: {command}")
    check_golden(
        card.golden.logits,
        logits_of(model, card.clip, golden_clip(card.golden.seed, card.clip.frames_shape)[None])[0],
        magnitude=card.golden.magnitude,
        tolerance=RUNTIME_TOLERANCE["fp32"],
        source=f"{checkpoint.name!r} on torch",
    )
    fused = fuse_model(model)
    rows: list[ParityRow] = []
    expected_rows = len(_DTYPES) * (len(filters_of(model)) + 2) + 1
    for row in verify(model, fused, card.clip, seed=card.golden.seed):
        rows.append(row)
        progress(len(rows), expected_rows)
    failed = [row for row in rows if not row.passed]
    if failed:
        worst = max(failed, key=lambda row: row.error / row.tolerance)
        raise ParityError(
            f"fusing {checkpoint.name!r} changed {len(failed)} of {len(rows)} outputs, most "
            f"{worst.check!r} in {worst.precision}: relative error {worst.error:.1e}, allowed "
            f"{worst.tolerance:.0e}; nothing was written. Are its weights finite?"
        )
    fused_card = card.model_copy(
        update={
            "model": fused.spec,
            "lineage": card.lineage.model_copy(
                update={
                    "parent": checkpoint.name,
                    "parent_sha256": sha256_of(checkpoint),
                    "versions": {**Lineage().versions, "torch": torch.__version__},
                }
            ),
            "parity": tuple(rows),
        }
    )
    save_fused(path, fused.float(), fused_card)
    return FuseResult(path, fused_card, _count_parameters(model), _count_parameters(fused))


def fuse_model(model: ActionModel) -> ActionModel:
    """Fold every filter of a network, on a copy.

    Args:
        model: in evaluation mode; not changed.

    Returns:
        A network in float64 with one convolution with bias in place of each filter, and no
        batch norm.

    Raises:
        FusionError: the network is in training mode or has a norm that no filter owns.
    """
    if model.training:
        raise FusionError(
            "the network is in training mode, where its norms use the statistics of the batch; "
            "call model.eval() first"
        )
    fused = copy.deepcopy(model).double()
    for name, layer in filters_of(fused):
        parent, _, attribute = name.rpartition(".")
        setattr(fused.get_submodule(parent), attribute, layer.fold())
    left = [name for name, module in fused.named_modules() if isinstance(module, nn.BatchNorm3d)]
    if left:
        raise FusionError(f"batch norms outside a filter cannot be folded: {', '.join(left)}")
    fused.spec = model.spec.model_copy(update={"fused": True})
    return fused


def filters_of(model: ActionModel) -> list[tuple[str, TemporalFilter]]:
    """All filters of a network that is not fused, with their names."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, TemporalFilter)]


def verify(
    model: ActionModel, fused: ActionModel, clip: ClipSpec, *, seed: int
) -> Iterator[ParityRow]:
    """Compare a network with its fused copy, layer by layer and end to end.

    Every layer gets random input. The whole networks get noise and the golden clip, both in
    float64 and float32, cut to at most 16 frames of 112 x 112 pixels; and the golden clip in
    full in float32. The errors of a layer are relative to its largest output, those of a network
    to the terms that its classifier adds up, because logits near 0 say nothing about rounding.

    Args:
        model: the original, in evaluation mode.
        fused: its fused copy.
        clip: what the network sees.
        seed: of the golden clip and of the noise.

    Yields:
        One row a comparison.
    """
    height = min(clip.crop_px, _MAX_SIDE_PX)
    small = (min(clip.num_frames, _MAX_FRAMES), height, height, 3)
    inputs = {
        "noise": np.random.default_rng(seed).integers(0, 256, small, dtype=np.uint8),
        "golden clip": golden_clip(seed, small),
    }
    for precision, dtype in _DTYPES.items():
        original = copy.deepcopy(model).to(dtype)
        folded = copy.deepcopy(fused).to(dtype)
        for name, layer in filters_of(original):
            yield _compare_layers(name, layer, folded.get_submodule(name), precision, seed)
        for name, frames in inputs.items():
            yield _compare(original, folded, clip, f"network, {name}", frames, precision)
    if small != clip.frames_shape:
        frames = golden_clip(seed, clip.frames_shape)
        yield _compare(original, folded, clip, "network, golden clip", frames, "fp32")


def _compare_layers(
    name: str, layer: TemporalFilter, folded: nn.Module, precision: Arithmetic, seed: int
) -> ParityRow:
    weight = folded.get_parameter("weight")
    length, height, width = layer.kernel_size
    generator = torch.Generator().manual_seed(seed)
    shape = (1, weight.shape[1], length + 3, height + 6, width + 6)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(weight.dtype)
    with torch.inference_mode():
        expected, actual = layer(x).double().numpy(), folded(x).double().numpy()
    taps = "x".join(str(size) for size in layer.kernel_size)
    branches = "+".join(str(part.coefficients.shape[2]) for part in layer.typed_branches())
    return ParityRow(
        check=name,
        precision=precision,
        error=relative_error(expected, actual),
        tolerance=FUSION_TOLERANCE[precision],
        detail=f"{taps}, {weight.shape[1]} -> {weight.shape[0]}, tau {branches}",
    )


def _compare(
    original: ActionModel,
    folded: ActionModel,
    clip: ClipSpec,
    check: str,
    frames: NDArray[np.uint8],
    precision: Arithmetic,
) -> ParityRow:
    expected, magnitude = logits_and_magnitude(original, clip, frames[None])
    return ParityRow(
        check=check,
        precision=precision,
        error=relative_error(expected, logits_of(folded, clip, frames[None]), scale=magnitude),
        tolerance=FUSION_TOLERANCE[precision],
        detail="x".join(str(size) for size in frames.shape[:3]),
    )


def _count_parameters(model: ActionModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
