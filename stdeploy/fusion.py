"""Fusing a whole network: every branch and batch norm into one filter a layer, and the proof."""

import copy
import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stdeploy.artifacts.card import ModelCard, ParityRow
from stdeploy.artifacts.files import (
    StrPath,
    as_path,
    checked_output,
    existing,
    fused_path,
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

_GOLDEN = "network, golden clip"

# Standard deviations in the mean of a norm that take two of the seven digits of float32.
_FEW_DIGITS = 100.0


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
        worst = _worst(failed)
        cause = _cause(model, fused, card.clip, failed, seed=card.golden.seed)
        raise ParityError(
            f"fusing {checkpoint.name!r} changed {len(failed)} of {len(rows)} outputs, most "
            f"{worst.check!r} in {worst.precision}: relative error {worst.error:.1e}, allowed "
            f"{worst.tolerance:.0e}; nothing was written. {cause}"
        )
    fused_card = card.model_copy(
        update={
            "model": fused.spec,
            "lineage": card.lineage.of_child(checkpoint, torch=torch.__version__),
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
    inputs = _small_clips(clip, seed)
    for precision, dtype in _DTYPES.items():
        original = copy.deepcopy(model).to(dtype)
        folded = copy.deepcopy(fused).to(dtype)
        for name, layer in filters_of(original):
            yield _compare_layers(name, layer, folded.get_submodule(name), precision, seed)
        for name, frames in inputs.items():
            yield _compare(original, folded, clip, name, frames, precision)
    if inputs[_GOLDEN].shape != clip.frames_shape:
        frames = golden_clip(seed, clip.frames_shape)
        yield _compare(original, folded, clip, _GOLDEN, frames, "fp32")


@dataclasses.dataclass(frozen=True)
class Rounding:
    """How far two networks, or two layers, are in float32 from the original in float64.

    Attributes:
        original: relative error of the original.
        fused: of what it was folded into.
    """

    original: float
    fused: float

    @property
    def by_folding(self) -> bool:
        """Whether folding at least doubles the error that the original's own rounding makes."""
        return not self.fused <= 2.0 * self.original


def rounding(
    model: ActionModel, fused: ActionModel, clip: ClipSpec, check: str, *, seed: int
) -> Rounding:
    """What float32 costs the original and its fused copy in one check of `verify`.

    Both are compared with the original in float64, on the same input, of at most 16 frames of
    112 x 112 pixels.

    Args:
        model: the original, in evaluation mode.
        fused: its fused copy.
        clip: what the network sees.
        check: of a ParityRow: the name of a filter, or of a comparison of the networks.
        seed: of the golden clip and of the noise.
    """
    exact, single = copy.deepcopy(model).double(), copy.deepcopy(model).float()
    folded = copy.deepcopy(fused).float()
    frames = _small_clips(clip, seed).get(check)
    if frames is not None:
        expected, magnitude = logits_and_magnitude(exact, clip, frames[None])
        outputs = [logits_of(network, clip, frames[None]) for network in (single, folded)]
        errors = [relative_error(expected, output, scale=magnitude) for output in outputs]
    else:
        layer = dict(filters_of(exact))[check]
        x = _random_input(layer, seed).float()
        with torch.inference_mode():
            expected = layer(x.double()).numpy()
            outputs = [net.get_submodule(check)(x).double().numpy() for net in (single, folded)]
        errors = [relative_error(expected, output) for output in outputs]
    return Rounding(original=errors[0], fused=errors[1])


def _cause(
    model: ActionModel,
    fused: ActionModel,
    clip: ClipSpec,
    failed: Sequence[ParityRow],
    *,
    seed: int,
) -> str:
    """Why checks failed, in words: the weights, the original's own rounding, or folding."""
    spoilt = [n for n, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if spoilt:
        return f"Not all numbers of {spoilt[0]} are finite; take an earlier checkpoint"
    worst = _worst(failed)
    found = rounding(model, fused, clip, worst.check, seed=seed)
    figures = (
        f"Against float64 the original is off by {found.original:.1e} in fp32, the fused network "
        f"by {found.fused:.1e}"
    )
    name, ratio = _largest_mean(model)
    offset = (
        f"; {name} subtracts a mean of {ratio:.0f} standard deviations, which leaves few digits: "
        "train on so that what enters it has less of an offset"
        if ratio > _FEW_DIGITS
        else ""
    )
    if not found.by_folding:
        own = "the original's own rounding is as large, so folding is not at fault"
        return f"{figures}: {own}{offset}"
    if any(row.precision == "fp64" for row in failed):
        return f"{figures}: folding adds to it, in fp64 too, so it is wrong; please report it"
    return f"{figures}: folding adds to it, by rounding alone, since all agree in fp64{offset}"


def _worst(failed: Sequence[ParityRow]) -> ParityRow:
    """The check that is furthest from what is allowed."""
    return max(failed, key=lambda row: row.error / row.tolerance)


def _largest_mean(model: ActionModel) -> tuple[str, float]:
    """The batch norm with the largest |mean| / standard deviation, and that ratio."""
    ratios = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm3d) and module.running_mean is not None:
            assert module.running_var is not None
            deviation = (module.running_var.double() + module.eps).sqrt()
            ratios[name] = float((module.running_mean.double().abs() / deviation).max())
    name = max(ratios, key=ratios.__getitem__)
    return name, ratios[name]


def _small_clips(clip: ClipSpec, seed: int) -> dict[str, NDArray[np.uint8]]:
    """What whole networks are compared on in float64, by the name of the check."""
    side = min(clip.crop_px, _MAX_SIDE_PX)
    shape = (min(clip.num_frames, _MAX_FRAMES), side, side, 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return {"network, noise": noise, _GOLDEN: golden_clip(seed, shape)}


def _random_input(layer: TemporalFilter, seed: int) -> torch.Tensor:
    """Normal random numbers for a filter, (1, C_in, t + 3, kH + 6, kW + 6), float64."""
    length, height, width = layer.kernel_size
    channels = layer.typed_branches()[0].coefficients.shape[1] * layer.groups
    shape = (1, channels, length + 3, height + 6, width + 6)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _compare_layers(
    name: str, layer: TemporalFilter, folded: nn.Module, precision: Arithmetic, seed: int
) -> ParityRow:
    weight = folded.get_parameter("weight")
    x = _random_input(layer, seed).to(weight.dtype)
    with torch.inference_mode():
        expected, actual = layer(x).double().numpy(), folded(x).double().numpy()
    taps = "x".join(str(size) for size in layer.kernel_size)
    branches = "+".join(str(part.coefficients.shape[2]) for part in layer.typed_branches())
    return ParityRow(
        check=name,
        precision=precision,
        error=relative_error(expected, actual),
        tolerance=FUSION_TOLERANCE[precision],
        detail=f"{taps}, {x.shape[1]} -> {weight.shape[0]}, tau {branches}",
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
