"""How the weights are moved: which, rates, decay, and their running average."""

import math
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stdeploy.models.base import ActionModel
from stdeploy.train.recipe import Optimisation, Start


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


def average_of(model: nn.Module, how: Optimisation) -> AveragedModel | None:
    """The running average of the weights, if the recipe wants one."""
    if not how.ema_decay:
        return None
    towards = get_ema_multi_avg_fn(how.ema_decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=towards, use_buffers=True)
