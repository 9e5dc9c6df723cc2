"""What this machine has: its processor, its memory, its NVIDIA GPUs."""

import ctypes
import dataclasses
import functools
import os
import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")

# Of the CUDA driver API, cuda.h.
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76

# Instruction sets, as Linux names them, that multiply in a precision faster than in fp32.
_PRODUCTS = {
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"},
}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        name: as the driver gives it, such as "NVIDIA H200".
        compute_capability: (major, minor), such as (9, 0).
        memory_bytes: in all.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int

    @property
    def slug(self) -> str:
        """The name for file names: "nvidia-h200"."""
        kept = [char.lower() if char.isalnum() else "-" for char in self.name]
        return "-".join(part for part in "".join(kept).split("-") if part)

    @property
    def target(self) -> str:
        """The compute capability as TensorRT writes it: "sm90"."""
        return "sm{}{}".format(*self.compute_capability)


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA sees; none where there is no driver.

    NOTE: asks the driver library itself. Every package that could be asked instead (torch,
    cuda-bindings) belongs to an extra, and this question decides which of them is used.
    """
    cuda = _driver()
    if cuda is None:
        return ()
    count = ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_gpu(cuda, number) for number in range(count.value))


def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver supports, such as (13, 0); None without a driver."""
    cuda, version = _driver(), ctypes.c_int()
    if cuda is None or cuda.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


@functools.cache
def cpu_name() -> str:
    """Model of the processor."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


@functools.cache
def cpu_features() -> frozenset[str]:
    """Names of instruction sets as Linux gives them, such as "avx512_vnni"; empty elsewhere."""
    return frozenset((_cpu_info("flags") or _cpu_info("Features") or "").split())


def cpu_multiplies(precision: str) -> bool:
    """Whether the processor has instructions of their own for products in "bf16" or "int8"."""
    return bool(_PRODUCTS[precision] & cpu_features())


def cpu_emulates_bf16() -> bool:
    """Whether OpenVINO can compute in bf16 here, if only slowly; it needs AVX-512 for that."""
    features = cpu_features()
    return not features or cpu_multiplies("bf16") or "avx512f" in features


def cpu_count() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _cpu_info(field: str) -> str | None:
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return None


@functools.cache
def _driver() -> ctypes.CDLL | None:
    name = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        return None
    return cuda if cuda.cuInit(0) == 0 else None


def _gpu(cuda: ctypes.CDLL, number: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device)
        return value.value

    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=(
            attribute(_COMPUTE_CAPABILITY_MAJOR),
            attribute(_COMPUTE_CAPABILITY_MINOR),
        ),
        memory_bytes=memory.value,
    )
