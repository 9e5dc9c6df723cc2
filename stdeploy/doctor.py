"""What works on this host, what does not, why, and what to do about it."""

import dataclasses
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Iterator
from typing import Any, Literal

from stdeploy import __version__
from stdeploy.engine.flavour import FlavourName, import_flavour
from stdeploy.errors import BackendError, pip_install
from stdeploy.hardware import (
    cpu_count,
    cpu_features,
    cpu_name,
    driver_cuda_version,
    gpus,
    memory_bytes,
)
from stdeploy.runtime.choice import RULE
from stdeploy.runtime.onnxruntime import preload_cuda

Status = Literal["works", "absent", "problem", "fact"]

_PACKAGES = (
    *("numpy", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "torch"),
    *("tensorrt", "tensorrt-rtx", "cuda-bindings", "fvcore", "safetensors"),
    *("opencv-python-headless", "opencv-python"),
)
# Instructions that decide how fast a precision is on a CPU.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
# TensorRT 10.16 and 11 and ONNX Runtime 1.28 and newer are built for CUDA 13.
_CUDA = (13, 0)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what it is about.
        status: "works", "absent" (not installed, or no such hardware), "problem" or "fact".
        text: what was found.
        remedy: what to do; empty where nothing has to be done.
    """

    topic: str
    status: Status
    text: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at this host; every backend is really loaded, so this takes some seconds."""
    yield from _host()
    yield from _backends()
    yield from _known_bad()
    yield Finding("auto", "fact", RULE)


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


def _backends() -> Iterator[Finding]:
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "torch": _torch,
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
        "tensorrt": lambda: _tensorrt("tensorrt"),
        "tensorrt_rtx": lambda: _tensorrt("tensorrt_rtx"),
    }
    for topic, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # a broken installation raises anything
            reason = " ".join(str(error).split())[:200]
            text = f"is installed but broken: {type(error).__name__}: {reason}"
            yield Finding(topic, "problem", text, f"reinstall {topic}")


def _missing(module: str, topic: str, extra: str) -> Finding | None:
    if importlib.util.find_spec(module) is not None:
        return None
    return Finding(topic, "absent", "not installed", pip_install(extra))


def _torch() -> Iterator[Finding]:
    missing = _missing("torch", "torch", "train")
    if missing:
        yield missing
        return
    import torch

    yield Finding("torch, cpu", "works", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        text = f"CUDA {torch.version.cuda}, cuDNN {cudnn}, {torch.cuda.get_device_name()}"
        yield Finding("torch, cuda", "works", text)
    elif gpus():
        built = torch.version.cuda
        yield Finding(
            "torch, cuda",
            "problem",
            f"built for CUDA {built}, but sees no GPU" if built else "this torch is built for CPUs",
            "install torch for CUDA: https://pytorch.org/get-started/locally",
        )


def _onnxruntime() -> Iterator[Finding]:
    missing = _missing("onnxruntime", "onnxruntime", "cpu")
    if missing:
        yield missing
        return
    import onnxruntime

    yield Finding("onnxruntime, cpu", "works", onnxruntime.__version__)
    built_for_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if not built_for_gpu:
        if gpus():
            yield Finding(
                "onnxruntime, cuda",
                "problem",
                "there is a GPU, but this onnxruntime is built for CPUs",
                f"pip uninstall onnxruntime, then {pip_install('gpu')}",
            )
        return
    used = _providers_in_use(onnxruntime)
    if "CUDAExecutionProvider" in used:
        yield Finding("onnxruntime, cuda", "works", f"providers in use: {', '.join(used)}")
    else:
        # What it lists is what it was built for; only a session shows what it uses.
        yield Finding(
            "onnxruntime, cuda",
            "problem" if gpus() else "absent",
            "CUDAExecutionProvider is listed, but a session falls back to the CPU",
            "install the CUDA 13 and cuDNN 9 libraries: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            if gpus()
            else "",
        )


def _providers_in_use(onnxruntime: Any) -> list[str]:
    """The providers of a session that asks for CUDA."""
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("x", "y")]
    relu = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([relu], "relu", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    preload_cuda(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CUDAExecutionProvider"]
    )
    return list(session.get_providers())


def _openvino() -> Iterator[Finding]:
    missing = _missing("openvino", "openvino, cpu", "openvino")
    if missing:
        yield missing
        return
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    kinds = ["fp32", *(["bf16"] if "BF16" in capabilities else []), "int8"]
    text = f"{openvino.__version__.partition('-')[0]}; {', '.join(kinds)}"
    yield Finding("openvino, cpu", "works", text)


def _tensorrt(name: FlavourName) -> Iterator[Finding]:
    yield _tensorrt_finding(name)


def _tensorrt_finding(name: FlavourName) -> Finding:
    try:
        flavour = import_flavour(name)
    except BackendError as error:
        if importlib.util.find_spec(name) is None:
            extra = "trt" if name == "tensorrt" else "rtx"
            return Finding(name, "absent", "not installed", pip_install(extra))
        return Finding(name, "problem", str(error), "reinstall it with all its parts")
    if not gpus():
        ahead = ": builds for --target sm86,sm89,sm120" if name == "tensorrt_rtx" else ""
        return Finding(name, "absent", f"{flavour.version} is here, but no GPU{ahead}")
    if "cuda-bindings" not in versions():
        return Finding(
            name, "problem", "cuda-bindings is not installed", "pip install cuda-bindings"
        )
    target = gpus()[0].target
    if name == "tensorrt_rtx" and target.upper() not in flavour.api.ComputeCapability.__members__:
        text = f"{flavour.version}; {target} is not among the GPUs that it names"
        return Finding(name, "fact", text, "if it refuses this GPU, use TensorRT")
    return Finding(name, "works", flavour.version)


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
