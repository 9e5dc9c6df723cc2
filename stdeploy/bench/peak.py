"""The arithmetic that this machine reaches in a matrix product: the yardstick of shares."""

import importlib.util
import time
from collections.abc import Callable

import numpy as np

from stdeploy.hardware import cpu_multiplies

# Other work that interrupts one thread of a product makes the others wait. A small product is over
# before that; a large one uses more of a machine that is free.
_SIDES = {"cpu": (256, 512, 1024, 2048), "cuda": (8192,)}
_SECONDS, _REPEATS = 0.3, 4  # at least, of each side; clocks rise with the work


def matmul_flops(device: str, precision: str) -> float | None:
    """Operations per second of a product of square matrices, two for each multiply-accumulate.

    Args:
        device: "cpu" or "cuda".
        precision: "fp32", "fp16", "bf16" or "int8".

    Returns:
        The best of several sizes and many products; None where there is no such product here.
    """
    found: list[float | None] = []
    if (device, precision) == ("cpu", "fp32"):
        found += map(_numpy_flops, _SIDES[device])
    if importlib.util.find_spec("torch"):
        found += (_torch_flops(device, precision, side) for side in _SIDES[device])
    return max((flops for flops in found if flops is not None), default=None)


def _numpy_flops(side: int) -> float:
    matrix = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    return _best(lambda: matrix @ matrix, side)


def _torch_flops(device: str, precision: str, side: int) -> float | None:
    import torch

    if device == "cpu" and precision == "fp16":
        precision = "fp32"  # what backends compute fp16 in on a CPU
    if device == "cpu" and precision != "fp32" and not cpu_multiplies(precision):
        return None  # torch would loop over the numbers, slower than in fp32: no yardstick
    if precision == "int8":
        a = torch.randint(-128, 128, (side, side), dtype=torch.int8, device=device)
    else:
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        a = torch.randn(side, side, device=device).to(dtype)
    b = a.t().contiguous().t()  # what int8 kernels of a GPU ask for
    # torch.mm in fp32 is MKL, which leaves AVX-512 unused on processors of AMD. oneDNN does not.
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    onednn = (device, precision) == ("cpu", "fp32") and has_onednn
    if onednn:
        a = a.to_mkldnn()

    def product() -> None:
        if onednn:
            torch.nn.functional.linear(a, a)
        elif precision == "int8":
            torch._int_mm(a, b)
        else:
            torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()

    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return _best(product, side)
    except RuntimeError:
        return None


def _best(product: Callable[[], object], side: int) -> float:
    """Operations per second of the fastest of many products."""
    taken: list[float] = []
    while sum(taken) < _SECONDS or len(taken) < _REPEATS:
        start = time.perf_counter()
        product()
        taken.append(time.perf_counter() - start)
    return 2 * side**3 / min(taken)
