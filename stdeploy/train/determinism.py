"""Training that gives the same numbers every time, on a GPU too, and what that costs.

The kernel of torch for the gradient of max pooling adds up in whichever order its threads come, and
refuses to do so where deterministic algorithms are asked for: `replace_max_pools`.

NOTE: torch 2.13 has a deterministic kernel. Where that is the oldest that we take, max pooling goes
from this file.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from stdeploy.artifacts.layouts import Size3
from stdeploy.errors import TrainingError

# cuBLAS gives one answer with a workspace of fixed size alone; torch refuses products without it.
_WORKSPACE_VARIABLE, _WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
# The first is not counted: libraries choose their algorithms in it.
_ROUNDS = 3


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool = True) -> Iterator[None]:
    """Let torch compute in one order only, and refuse what it cannot compute so.

    Args:
        wanted: False changes nothing.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    workspace = os.environ.get(_WORKSPACE_VARIABLE)
    os.environ.setdefault(_WORKSPACE_VARIABLE, _WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it takes whichever algorithm was faster today
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            del os.environ[_WORKSPACE_VARIABLE]


@contextlib.contextmanager
def searched_algorithms(wanted: bool = True) -> Iterator[None]:
    """Let cuDNN try its algorithms for each size of clips that comes, and keep the fastest.

    Args:
        wanted: False changes nothing.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted or before
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@dataclasses.dataclass(frozen=True)
class Cost:
    """Times of the forward and backward pass of a step, in seconds.

    Attributes:
        usual: in any order.
        deterministic: in one order.
    """

    usual: float
    deterministic: float

    def __str__(self) -> str:
        return (
            f"deterministic: a step takes {self.deterministic / self.usual:.2f} times as long, "
            f"{self.deterministic:.3g} s in place of {self.usual:.3g} s"
        )


def cost_of_determinism(fabric: Fabric, graph: nn.Module, frames_shape: Sequence[int]) -> Cost:
    """Measure a step with and without, in turns.

    Called inside of `deterministic_algorithms`, in all processes.

    Args:
        fabric: of the run.
        graph: uint8 frames (N, T, H, W, 3) to logits (N, K), in training mode; its gradients and
            norms are changed.
        frames_shape: of a batch in one process.

    Raises:
        TrainingError: something in the network cannot be computed so on this device.
    """
    frames = torch.randint(256, tuple(frames_shape), dtype=torch.uint8, device=fabric.device)
    usual, same = list[float](), list[float]()
    try:
        for _ in range(_ROUNDS):
            same.append(_seconds(fabric, graph, frames))
            torch.use_deterministic_algorithms(False)
            try:
                usual.append(_seconds(fabric, graph, frames))
            finally:
                torch.use_deterministic_algorithms(True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch has no such kernel, or cuDNN no such algorithm
        reason = " ".join(str(error).split()).partition(", but you set")[0][:200]
        raise TrainingError(
            f"this network cannot be trained deterministically on {fabric.device.type}: {reason}; "
            "leave --deterministic out, or train on a CPU"
        ) from error
    return Cost(usual=min(usual[1:]), deterministic=min(same[1:]))


def _seconds(fabric: Fabric, graph: nn.Module, frames: Tensor) -> float:
    """Of a forward and a backward pass."""
    labels = torch.zeros(len(frames), dtype=torch.int64, device=frames.device)
    start = _now(frames.device)
    with fabric.autocast():
        loss = functional.cross_entropy(graph(frames), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    seconds = _now(frames.device) - start
    graph.zero_grad()
    return seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


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
