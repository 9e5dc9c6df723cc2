"""What works on this host, what does not, why, and what to do about it."""

import dataclasses
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Iterator

from stdeploy import __version__
from stdeploy.backends.base import BACKENDS, Finding, findings, runtime_class
from stdeploy.backends.selection import rule
from stdeploy.errors import BackendError, MissingExtraError
from stdeploy.hardware import (
    cpu_count,
    cpu_features,
    cpu_name,
    driver_cuda_version,
    gpus,
    memory_bytes,
)
from stdeploy.optional_packages import with_our_pip

_PACKAGES = (
    *("numpy", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "torch"),
    *("tensorrt", "tensorrt-rtx", "cuda-bindings", "PyNvVideoCodec", "av", "fvcore", "safetensors"),
    *("opencv-python-headless", "opencv-python"),
)
# Instructions that decide how fast a precision is on a CPU.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
# TensorRT 10.16 and 11 and ONNX Runtime 1.28 and newer are built for CUDA 13.
_CUDA = (13, 0)


def examine() -> Iterator[Finding]:
    """Look at this host; every backend is really loaded, so this takes some seconds."""
    for finding in _examine():
        yield dataclasses.replace(finding, remedy=with_our_pip(finding.remedy))


def _examine() -> Iterator[Finding]:
    yield from _host()
    for backend in BACKENDS:
        yield from findings(backend, _backend)
    yield from findings("nvdec", _reader_on_gpu)
    yield from _known_bad()
    yield Finding("auto", "fact", rule())


def _backend(name: str) -> Iterator[Finding]:
    yield from runtime_class(name).examine()


def _reader_on_gpu(name: str) -> Iterator[Finding]:
    """What --reader nvdec can decode."""
    if not gpus() and importlib.util.find_spec("PyNvVideoCodec") is None:
        yield Finding(name, "absent", "no NVIDIA GPU; videos are decoded on the CPU")
        return
    from stdeploy.video.nvdec import decodable  # an extra

    try:
        found = decodable()
    except MissingExtraError:
        raise
    except BackendError as error:
        yield Finding(name, "problem", str(error))
        return
    sizes = ", ".join(f"{codec} to {width}x{height}" for codec, (width, height) in found.items())
    yield Finding(name, "works", f"decodes {sizes}, in 4:2:0 with 8 bits")


def versions() -> dict[str, str]:
    """Installed packages that matter here, by name."""
    found = {"stdeploy": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _host() -> Iterator[Finding]:
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    yield Finding("versions", "fact", installed)
    features = ", ".join(name for name in _FEATURES if name in cpu_features()) or "unknown"
    memory = memory_bytes()
    size = f", {memory / 1e9:.0f} GB memory" if memory else ""
    yield Finding("CPU", "fact", f"{cpu_name()}, {cpu_count()} processors{size}; {features}")
    for gpu in gpus():
        major, minor = gpu.compute_capability
        text = f"{gpu.name}, compute capability {major}.{minor}, {gpu.memory_bytes / 1e9:.0f} GB"
        yield Finding("GPU", "works", text)
    driver = driver_cuda_version()
    if not gpus():
        yield Finding("GPU", "absent", "no NVIDIA GPU, or no driver for it; the CPU is used")
    elif driver is not None and driver < _CUDA:
        yield Finding(
            "driver",
            "problem",
            f"supports CUDA {driver[0]}.{driver[1]}; onnxruntime-gpu and TensorRT need 13.0",
            "install NVIDIA driver r580 or newer",
        )


def _known_bad() -> Iterator[Finding]:
    """Combinations that are known to go wrong."""
    installed = versions()
    for check in _CHECKS:
        yield from check(installed)


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.partition("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def both_onnxruntimes(installed: dict[str, str]) -> Iterator[Finding]:
    """They share a folder: the last one installed wins, uninstalling one breaks the other."""
    if {"onnxruntime", "onnxruntime-gpu"} <= installed.keys():
        yield Finding(
            "onnxruntime",
            "problem",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            "pip uninstall onnxruntime onnxruntime-gpu, then install one of them",
        )


def both_opencvs(installed: dict[str, str]) -> Iterator[Finding]:
    """They share a folder too, and only one of them works without libGL."""
    if {"opencv-python", "opencv-python-headless"} <= installed.keys():
        yield Finding(
            "opencv",
            "problem",
            "opencv-python and opencv-python-headless are both installed and overwrite each other",
            "pip uninstall both, then pip install 'opencv-python-headless>=4.14.0.94,<5'",
        )


def faulty_torch(installed: dict[str, str]) -> Iterator[Finding]:
    """Before 2.10: CVE-2026-24747 in torch.load; 2.9: Conv3d slow and hungry under AMP."""
    if "torch" not in installed:
        return
    numbers = _numbers(installed["torch"])
    if numbers[:2] == (2, 9):
        yield Finding(
            "torch",
            "problem",
            f"{installed['torch']}: Conv3d under mixed precision is slow and takes much memory",
            "pip install 'torch>=2.10,<2.14'",
        )
    elif numbers < (2, 10):
        yield Finding(
            "torch",
            "problem",
            f"{installed['torch']}: a crafted checkpoint corrupts memory (CVE-2026-24747)",
            "pip install 'torch>=2.10,<2.14'",
        )


def faulty_onnx(installed: dict[str, str]) -> Iterator[Finding]:
    """Before 1.21: files could make it read other files (external data)."""
    if "onnx" in installed and _numbers(installed["onnx"]) < (1, 21):
        yield Finding(
            "onnx",
            "problem",
            f"{installed['onnx']}: a crafted file reads other files (external-data CVEs)",
            "pip install 'onnx>=1.21'",
        )


def faulty_cudnn(_installed: dict[str, str]) -> Iterator[Finding]:
    """CuDNN 9.8 to 9.15 give wrong or slow Conv3d on some GPUs."""
    if not gpus() or not importlib.util.find_spec("torch"):
        return
    import torch

    number = None
    if torch.cuda.is_available():
        number = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    if number is not None and 90800 <= number < 91600:
        yield Finding(
            "cuDNN",
            "problem",
            f"{number // 10000}.{number // 100 % 100}: 9.8 to 9.15 have faults in Conv3d",
            "pip install 'nvidia-cudnn-cu13>=9.16'",
        )


_CHECKS: tuple[Callable[[dict[str, str]], Iterator[Finding]], ...] = (
    both_onnxruntimes,
    both_opencvs,
    faulty_torch,
    faulty_onnx,
    faulty_cudnn,
)
