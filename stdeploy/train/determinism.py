"""Training that gives the same numbers every time, on a GPU too, and what that costs."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

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
