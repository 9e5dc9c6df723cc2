"""Running a network of torch on uint8 frames, as every comparison in this program does."""

import numpy as np
import torch
from numpy.typing import NDArray

from stdeploy.card import GoldenClip
from stdeploy.golden import GOLDEN_SEED, golden_clip
from stdeploy.layers.frames import FramesToLogits
from stdeploy.models.base import ActionModel
from stdeploy.spec import ClipSpec


def logits_of(model: ActionModel, clip: ClipSpec, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Classify clips in evaluation mode, in the type and on the device of the weights.

    Args:
        model: any network; its mode is put back afterwards.
        clip: how its pixels are normalised.
        frames: uint8 (N, T, H, W, 3).

    Returns:
        Logits (N, K).
    """
    weight = next(model.parameters())
    graph = FramesToLogits(model, clip).to(device=weight.device, dtype=weight.dtype)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = graph(torch.from_numpy(frames).to(weight.device))
    finally:
        model.train(was_training)
    return np.asarray(logits.double().cpu().numpy(), dtype=np.float64)


def golden_of(model: ActionModel, clip: ClipSpec, seed: int = GOLDEN_SEED) -> GoldenClip:
    """What a network says to the golden clip of its own clip size."""
    logits = logits_of(model, clip, golden_clip(seed, clip.frames_shape)[None])[0]
    return GoldenClip(seed=seed, logits=tuple(float(value) for value in logits))
