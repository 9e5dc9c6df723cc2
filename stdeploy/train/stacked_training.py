"""Networks of one shape that train at once: what tells them apart is one more dimension.

`torch.func.vmap` runs all of them in the same kernels, which a small network by itself leaves
mostly idle. Each has its own weights, norms, clips and gradients; nothing is shared but the time.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional

Named = dict[str, Tensor]


class StackedNetworks:
    """S networks of one shape, in training mode at first.

    Args:
        networks: alike but for their numbers; they are copied.

    Attributes:
        parameters: by name, (S, ...) each.
        buffers: likewise; training moves the norms' running statistics.
        count: S.
    """

    parameters: Named
    buffers: Named

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.parameters, self.buffers = stack_module_state(list(networks))
        self._shape = copy.deepcopy(networks[0]).to("meta").train()
        self.count = len(networks)

    def logits(self, clips: Tensor, *, training: bool) -> Tensor:
        """Map clips (S, N, 3, T, H, W), to each network its own, to logits (S, N, K).

        Args:
            clips: normalised.
            training: norms take the statistics of the batch and keep them; otherwise they use
                those that were kept.
        """
        self._shape.train(training)

        def one(parameters: Named, buffers: Named, x: Tensor) -> Tensor:
            logits: Tensor = functional_call(self._shape, (parameters, buffers), (x,))
            return logits

        if self.count == 1:  # nothing to stack, and plain kernels are the faster ones
            parameters = {name: tensor[0] for name, tensor in self.parameters.items()}
            buffers = {name: tensor[0] for name, tensor in self.buffers.items()}
            return one(parameters, buffers, clips[0])[None]
        stacked: Tensor = torch.func.vmap(one)(self.parameters, self.buffers, clips)
        return stacked

    def network(self, number: int) -> Named:
        """The state_dict of one of them, a copy."""
        return {
            name: tensor[number].detach().clone()
            for name, tensor in {**self.parameters, **self.buffers}.items()
        }


class StackedOptimiser:
    """SGD with Nesterov momentum for stacked networks, with a linear warm-up and cosine to zero.

    Args:
        networks: whose parameters are moved.
        steps: in all.
        learning_rate: at its highest.
        warmup_steps: over which it rises from zero.
        momentum: of SGD.
        weight_decay: on all parameters of two dimensions and more of a network; not on norms and
            biases.
    """

    def __init__(
        self,
        networks: StackedNetworks,
        *,
        steps: int,
        learning_rate: float,
        warmup_steps: int,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        parameters = networks.parameters.values()
        decayed = [p for p in parameters if p.dim() > 2]  # one of them counts the networks
        others = [p for p in parameters if p.dim() <= 2]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others},
        ]
        self._networks = networks
        self._optimiser = torch.optim.SGD(
            groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0, weight_decay=0.0
        )

        def factor(step: int) -> float:
            rising = min(1.0, (step + 1) / max(1, warmup_steps))
            return rising * 0.5 * (1 + math.cos(math.pi * step / steps))

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, factor)

    def step(self, clips: Tensor, labels: Tensor) -> Tensor:
        """One step of every network on its own batch.

        Args:
            clips: (S, N, 3, T, H, W).
            labels: (S, N), indices; or (S, N, K), 0 or 1 for each of K things of which several
                may be there.

        Returns:
            The loss of each network before the step, (S,).
        """
        logits = self._networks.logits(clips, training=True)
        if labels.dim() == 3:
            each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
            losses = each.mean(dim=(1, 2))
        else:
            each = functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), reduction="none"
            )
            losses = each.view(labels.shape).mean(dim=1)
        self._optimiser.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._schedule.step()
        return losses.detach()
