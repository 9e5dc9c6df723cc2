"""Max pooling whose gradient adds up in a fixed order, on a GPU too.

torch's own kernel adds up in whichever order its threads come, and refuses to do so where
deterministic algorithms are asked for.

NOTE: torch 2.13 has a deterministic kernel. Where that is the oldest that we take, this file goes.
"""

import itertools
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stdeploy.layers.temporal import Size3


def replace_max_pools(model: nn.Module) -> None:
    """Put `DeterministicMaxPool3d` in the place of every max pooling, in place.

    Args:
        model: what its pools give stays the same, to the last bit. Pools with dilation, which no
            network here has, are left as they are.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.MaxPool3d and _triple(child.dilation) == (1, 1, 1):
                setattr(module, name, DeterministicMaxPool3d.like(child))


class DeterministicMaxPool3d(nn.MaxPool3d):
    """Max pooling of torch, but for its gradient while deterministic algorithms are on."""

    @classmethod
    def like(cls, pool: nn.MaxPool3d) -> "DeterministicMaxPool3d":
        """With the settings of another."""
        return cls(pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, T, H, W)."""
        if not (torch.are_deterministic_algorithms_enabled() and x.requires_grad):
            return cast(Tensor, super().forward(x))
        sizes = (_triple(self.kernel_size), _triple(self.stride), _triple(self.padding))
        pooled: Tensor = _MaxPool.apply(x, *sizes, self.ceil_mode)  # type: ignore[no-untyped-call]
        return pooled


class _MaxPool(torch.autograd.Function):
    """Remembers which place of its window each maximum was taken from."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Size3, stride: Size3, padding: Size3, ceil_mode: bool
    ) -> Tensor:
        pooled, indices = functional.max_pool3d_with_indices(
            x, kernel, stride, padding, ceil_mode=ceil_mode
        )
        ctx.save_for_backward(_places(indices, tuple(x.shape[2:]), kernel, stride, padding))
        ctx.size, ctx.sizes = tuple(x.shape[2:]), (kernel, stride, padding)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (places,) = gradients, ctx.saved_tensors
        kernel, stride, padding = ctx.sizes
        out = gradient.shape[2:]
        room = [
            max(size + 2 * pad, k + step * (n - 1))
            for size, pad, k, step, n in zip(ctx.size, padding, kernel, stride, out, strict=True)
        ]
        padded = gradient.new_zeros(*gradient.shape[:2], *room)
        # One place of the window after the other: no two outputs meet in one place of the input.
        for number, first in enumerate(itertools.product(*map(range, kernel))):
            t, h, w = (
                slice(begin, begin + step * (n - 1) + 1, step)
                for begin, step, n in zip(first, stride, out, strict=True)
            )
            padded[:, :, t, h, w] += gradient.masked_fill(places != number, 0.0)
        t, h, w = (slice(p, p + size) for p, size in zip(padding, ctx.size, strict=True))
        return padded[:, :, t, h, w], None, None, None, None


def _places(
    indices: Tensor, size: tuple[int, ...], kernel: Size3, stride: Size3, padding: Size3
) -> Tensor:
    """From places in the input, (N, C, t, h, w) of int64, to places in windows, 0..kernel size - 1.

    A place in the input would not do: beside a border, one outside has the number of one inside.
    """
    _, height, width = size
    flat = indices.to(torch.int32)
    coordinates = (flat // (height * width), flat // width % height, flat % width)
    place = torch.zeros_like(flat)
    for axis, coordinate in enumerate(coordinates):
        first = torch.arange(flat.shape[2 + axis], dtype=torch.int32, device=flat.device)
        shape = [-1 if other == axis else 1 for other in range(3)]
        begin = (first * stride[axis] - padding[axis]).view(shape)
        place = place * kernel[axis] + coordinate - begin
    return place.to(torch.uint8 if math.prod(kernel) <= 256 else torch.int32)


def _triple(size: int | tuple[int, ...]) -> Size3:
    return cast(Size3, (size, size, size) if isinstance(size, int) else tuple(size))
