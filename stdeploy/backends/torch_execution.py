"""How torch runs a network here: without TF32, without its warnings, or as a CUDA graph."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Result = TypeVar("Result")

# Runs before a graph is captured, on their own stream, so that cuDNN has chosen its algorithms.
_WARM_UP_RUNS = 3


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Without TF32, whose 10 bits a golden clip in float32 would not forgive."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        # `enabled` has to be said: this context would switch cuDNN off by default.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch.compile warns about its own internals, when it is loaded and when it first runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def captured(run: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture what a function does on the GPU.

    Args:
        run: reads and writes tensors that stay where they are.

    Returns:
        The graph, and what the captured run gave, which each replay writes anew.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_RUNS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may decode on the GPU meanwhile, and take memory there.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    return graph, result
