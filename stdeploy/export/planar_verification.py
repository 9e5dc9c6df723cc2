"""The planar form of a network against the network itself, before any graph is made of it."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from stdeploy.artifacts.card import ModelCard, ParityRow
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import PLANAR_TOLERANCE, relative_error
from stdeploy.artifacts.spec import Arithmetic, ClipSpec
from stdeploy.errors import ParityError
from stdeploy.models.base import ActionModel
from stdeploy.models.frames_to_logits import logits_and_magnitude, logits_of
from stdeploy.models.planar import planar_form

# float64 convolutions unfold their input; sides change nothing of what is compared.
_MAX_SIDE_PX = 64

_DTYPES: dict[Arithmetic, torch.dtype] = {"fp64": torch.float64, "fp32": torch.float32}


def verify_planar(
    model: ActionModel, planar: ActionModel, clip: ClipSpec, *, seed: int
) -> Iterator[ParityRow]:
    """Compare a network with its planar form, on noise and on the golden clip.

    Both see all frames of a clip, of at most 64 x 64 pixels, in float64 and in float32.

    Args:
        model: fused, in evaluation mode.
        planar: from `stdeploy.models.planar.planar_form`.
        clip: what the network sees.
        seed: of the golden clip and of the noise.

    Yields:
        One row a comparison; its error is relative to the terms that the classifier adds up.
    """
    side = min(clip.crop_px, _MAX_SIDE_PX)
    shape = (clip.num_frames, side, side, 3)
    clips = {
        "noise": np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8),
        "golden clip": golden_clip(seed, shape),
    }
    for precision, dtype in _DTYPES.items():
        usual, other = (copy.deepcopy(network).to(dtype) for network in (model, planar))
        for name, frames in clips.items():
            expected, magnitude = logits_and_magnitude(usual, clip, frames[None])
            actual = logits_of(other, clip, frames[None])
            yield ParityRow(
                check=f"planar form, {name}",
                precision=precision,
                error=relative_error(expected, actual, scale=magnitude),
                tolerance=PLANAR_TOLERANCE[precision],
                detail="x".join(str(size) for size in frames.shape[:3]),
            )


def proven_planar(
    model: ActionModel, card: ModelCard, fused: Path
) -> tuple[tuple[ParityRow, ...], ActionModel]:
    """The planar form of a fused network, and how it was compared with it.

    Args:
        model: the network.
        card: its card.
        fused: its file, for the error.

    Raises:
        ParityError: it computes something else.
    """
    planar = planar_form(model, card.clip.num_frames)
    rows = tuple(verify_planar(model, planar, card.clip, seed=card.golden.seed))
    failed = [row for row in rows if not row.passed]
    if failed:
        raise ParityError(
            f"the planar form of {fused.name!r} differs from it: {failed[0].check} in "
            f"{failed[0].precision} {failed[0].error:.1e}, allowed {failed[0].tolerance:.0e}; "
            "nothing was written, please report it"
        )
    return rows, planar
