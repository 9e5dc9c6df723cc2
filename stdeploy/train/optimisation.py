"""What a step lowers, and how the weights are moved: which, rates, decay, running average."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import TrainingError
from stdeploy.models.base import ActionModel
from stdeploy.train.augment import videomix_box
from stdeploy.train.recipe import Optimisation, Start

_LARGEST = 1e18  # products of two larger numbers are beyond float32


def learning_rate_factor(step: int, steps_per_epoch: int, how: Optimisation) -> float:
    """Factor on the learning rate: linear from 0 to 1, then half a cosine back to 0.

    Args:
        step: number of the step, from 0.
        steps_per_epoch: steps in an epoch.
        how: gives epochs and warmup_epochs.
    """
    warmup = how.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, how.epochs * steps_per_epoch - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def freeze(model: nn.Module, first: Start) -> None:
    """Hold still the stages that are not trained, and norms that keep their statistics.

    To be said again after each `model.train()`.
    """
    for stage in first.freeze:
        model.get_submodule(stage).requires_grad_(False).eval()
    if first.freeze_norms:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def check_norms(
    model: ActionModel, clip: ClipSpec, first: Start, how: Optimisation, world_size: int
) -> None:
    """See that every norm that is trained gets more than one number a channel.

    Only shapes are computed, on a copy without numbers.

    Args:
        model: the network; not changed.
        clip: what it sees.
        first: which norms keep their statistics.
        how: gives the clips of a step, and in how many parts they come.
        world_size: processes that share them.

    Raises:
        TrainingError: a norm gets one, whose mean it is and whose variance is 0.
    """
    if how.batch_size // (how.accumulate * (1 if how.sync_batch_norm else world_size)) > 1:
        return
    shapes = copy.deepcopy(model).to("meta").train()
    freeze(shapes, first)
    alone = list[str]()

    def look(name: str, norm: nn.Module, features: Tensor) -> None:
        if norm.training and features.numel() == features.shape[1]:
            alone.append(name)

    for name, module in shapes.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(lambda norm, x, name=name: look(name, norm, x[0]))
            # Its own would refuse what is looked for here.
            module.forward = lambda x: x  # type: ignore[assignment,method-assign]
    with torch.no_grad():
        side = clip.crop_px
        shapes(torch.empty((1, 3, clip.num_frames, side, side), device="meta"))
    if alone:
        raise TrainingError(
            f"a feature map of 1 x 1 x 1 is left in front of {alone[0]!r}, and its process sees "
            f"one clip at a time (batch_size {how.batch_size}, accumulate {how.accumulate}, "
            f"processes {world_size}), so that a norm has one number to take the mean and variance "
            f"of; raise batch_size, lower accumulate or the number of processes, or enlarge "
            f"clip.crop_px ({side}) or clip.num_frames ({clip.num_frames})"
        )


def parameter_groups(model: ActionModel, how: Optimisation) -> list[dict[str, Any]]:
    """Weight decay for kernels and the classifier, none for norms and biases.

    Kernels are held as W~, so that this is the regulariser of eq. (7). What is frozen is left
    out. Each group has its factor on the learning rate under "scale".
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = how.weight_decay if parameter.ndim > 1 else 0.0
            scale = how.head_learning_rate_factor if name.startswith("head.") else 1.0
            groups.setdefault((decay, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


def is_usable(model: nn.Module) -> bool:
    """Whether all weights and statistics of a network are numbers that can be computed with."""
    tensors = [t for t in model.state_dict().values() if t.is_floating_point()]
    return all(bool((t.abs() < _LARGEST).all()) for t in tensors)  # of NaN this is false


def average_of(model: nn.Module, how: Optimisation) -> AveragedModel | None:
    """The running average of the weights, if the recipe wants one."""
    if not how.ema_decay:
        return None
    towards = get_ema_multi_avg_fn(how.ema_decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=towards, use_buffers=True)


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
