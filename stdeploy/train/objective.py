"""What a step lowers: the cross entropy of its clips, or of clips that VideoMix has mixed."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from stdeploy.train.augment import videomix_box


def objective(
    network: Callable[[Tensor], Tensor],
    frames: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float,
    videomix_alpha: float,
    key: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Mean loss of a batch, and how many of its clips were classified rightly.

    Args:
        network: from frames as here to logits, (N, K).
        frames: uint8 (N, T, H, W, 3).
        labels: int64 (N,).
        label_smoothing: share of the target spread over all classes.
        videomix_alpha: see `Augmentation`; right is the label of the clip that the box was put
            into.
        key: numbers that decide what is random.
    """
    share, other = 0.0, labels
    if videomix_alpha:
        frames, share = _mixed(frames, videomix_alpha, key)
        other = labels.flip(0)
    logits = network(frames)
    loss = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if share:
        mixed_in = functional.cross_entropy(logits, other, label_smoothing=label_smoothing)
        loss = (1.0 - share) * loss + share * mixed_in
    return loss, (logits.argmax(dim=1) == labels).sum()


def _mixed(frames: Tensor, alpha: float, key: Sequence[int]) -> tuple[Tensor, float]:
    """Every clip with a box of the one across the batch, and the box's share of the picture."""
    rng = np.random.default_rng(key)
    side = frames.shape[-2]
    area, (down, across) = float(rng.beta(alpha, alpha)), rng.random(2)
    rows, columns = videomix_box(area, side, (float(down), float(across)))
    mixed = frames.clone()
    mixed[:, :, rows, columns] = frames.flip(0)[:, :, rows, columns]
    share = (rows.stop - rows.start) * (columns.stop - columns.start) / side**2
    return mixed, float(share)
