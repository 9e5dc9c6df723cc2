"""The arithmetic that this machine reaches in a large matrix product: the yardstick of shares."""

import importlib.util
import time

import numpy as np

from stdeploy.hardware import cpu_multiplies

# Large enough that a product takes milliseconds, small enough for every cache hierarchy to show.
_CPU_SIDE, _GPU_SIDE = 2048, 8192
_REPEATS = 4
_WARM_UP_SECONDS = 0.3


def matmul_flops(device: str, precision: str) -> float | None:
    """Operations per second of a product of square matrices, two for each multiply-accumulate.

    Args:
        device: "cpu" or "cuda".
        precision: "fp32", "fp16", "bf16" or "int8".

    Returns:
        The best of a few; None where there is no such product here.
    """
    found: list[float | None] = []
    if (device, precision) == ("cpu", "fp32"):
        # The MKL of torch leaves AVX-512 unused on processors of AMD; the OpenBLAS of NumPy does
        # not.
        found.append(_numpy_flops())
    if importlib.util.find_spec("torch"):
        found.append(_torch_flops(device, precision))
    return max((flops for flops in found if flops is not None), default=None)


def _numpy_flops() -> float:
    matrix = np.random.default_rng(0).standard_normal((_CPU_SIDE, _CPU_SIDE), dtype=np.float32)
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - start)
    return 2 * _CPU_SIDE**3 / best


def _torch_flops(device: str, precision: str) -> float | None:
    import torch

    if device == "cpu" and precision == "fp16":
        precision = "fp32"  # what backends compute fp16 in on a CPU
    if device == "cpu" and precision != "fp32" and not cpu_multiplies(precision):
        return None  # torch would loop over the numbers, slower than in fp32: no yardstick
    side = _GPU_SIDE if device == "cuda" else _CPU_SIDE
    if precision == "int8":
        a = torch.randint(-128, 128, (side, side), dtype=torch.int8, device=device)
    else:
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        a = torch.randn(side, side, device=device).to(dtype)
    b = a.t().contiguous().t()  # what int8 kernels of a GPU ask for

    def product() -> None:
        if precision == "int8":
            torch._int_mm(a, b)
        else:
            torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()

    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        start = time.perf_counter()
        while time.perf_counter() - start < _WARM_UP_SECONDS:  # clocks rise with the work
            product()
    except RuntimeError:
        return None
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return float(2 * side**3 / best)
