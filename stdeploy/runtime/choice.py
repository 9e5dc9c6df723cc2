"""What `--backend auto` means: the rule, and the memory of what was measured."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from stdeploy.errors import ArtifactError, BackendError
from stdeploy.files import cache_folder, sha256_of, whole_file
from stdeploy.hardware import cpu_count, cpu_name, gpus
from stdeploy.runtime.base import Backend, RuntimeOptions
from stdeploy.spec import Precision

RULE = (
    ".engine: tensorrt. .onnx: onnxruntime on the GPU where there is an NVIDIA GPU and "
    "onnxruntime-gpu; otherwise the faster of onnxruntime and openvino on this CPU, each "
    "verified and timed when a file is first opened, and remembered. .pt and .safetensors: "
    "torch, on the GPU where it sees one."
)

# Suffix of an artifact -> backends that run it.
BACKENDS: Mapping[str, tuple[Backend, ...]] = MappingProxyType(
    {
        ".onnx": ("onnxruntime", "openvino"),
        ".engine": ("tensorrt",),
        ".safetensors": ("torch",),
        ".pt": ("torch",),
    }
)
# What a backend runs an .onnx file in.
_PRECISIONS: dict[Backend, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
_MEMORY = "choices.json"


def backends_for(artifact: Path) -> tuple[Backend, ...]:
    """The backends that run files of a kind.

    Raises:
        ArtifactError: none does.
    """
    if artifact.suffix not in BACKENDS:
        raise ArtifactError(
            f"{str(artifact)!r}: no backend runs {artifact.suffix or 'such'} files; "
            f"give one of {', '.join(BACKENDS)}"
        )
    return BACKENDS[artifact.suffix]


def candidates(
    artifact: Path, precision: Precision, options: RuntimeOptions
) -> tuple[RuntimeOptions, ...]:
    """The backends that options allow for an artifact, with their devices settled.

    Args:
        artifact: a .onnx, .engine, .safetensors or .pt file.
        precision: of the artifact.
        options: what is asked for.

    Returns:
        One, or the two that are to be timed against each other on this CPU.

    Raises:
        ArtifactError: no backend runs such files, or not the one that was asked for.
    """
    possible = backends_for(artifact)
    if options.backend != "auto":
        if options.backend not in possible:
            raise ArtifactError(
                f"{options.backend} does not run {artifact.suffix} files; for "
                f"{str(artifact)!r} choose {' or '.join(possible)}"
            )
        return (_settled(options, options.backend),)
    if len(possible) == 1:
        return (_settled(options, possible[0]),)
    asked = options.precision or precision
    gpu_can = asked in _PRECISIONS["onnxruntime"]  # its CUDA provider has no bf16 either
    if options.device == "cuda" or (options.device == "auto" and gpu_can and onnxruntime_has_gpu()):
        return (dataclasses.replace(options, backend="onnxruntime", device="cuda"),)
    able = [
        backend
        for backend in possible
        if importlib.util.find_spec(backend) and asked in _PRECISIONS[backend]
    ]
    # With none installed, or none able, the first says what is missing.
    chosen = able or [backend for backend in possible if asked in _PRECISIONS[backend]][:1]
    return tuple(
        dataclasses.replace(options, backend=backend, device="cpu")
        for backend in chosen or possible[:1]
    )


@functools.cache
def onnxruntime_has_gpu() -> bool:
    """Whether onnxruntime-gpu and an NVIDIA GPU are both here."""
    if not gpus() or not importlib.util.find_spec("onnxruntime"):
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def remembered(artifact: Path, options: RuntimeOptions) -> Backend | None:
    """The backend that was faster when this artifact was first opened here, if it was timed."""
    choice = _memory().get(_key(artifact, options))
    return next((backend for backend in BACKENDS[".onnx"] if backend == choice), None)


def remember(artifact: Path, options: RuntimeOptions, seconds: Mapping[Backend, float]) -> None:
    """Keep which backend was faster; a cache folder that cannot be written to is no error."""
    fastest = min(seconds, key=lambda backend: seconds[backend])
    try:
        path = cache_folder() / _MEMORY
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {**_memory(), _key(artifact, options): fastest}
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=0))
    except (OSError, ArtifactError):
        pass


def _settled(options: RuntimeOptions, backend: Backend) -> RuntimeOptions:
    """Options with the backend, and the device that "auto" stands for."""
    device = options.device
    if device == "auto":
        device = "cuda" if _can_use_gpu(backend) else "cpu"
    if device == "cpu" and backend == "tensorrt":
        raise BackendError("tensorrt runs on NVIDIA GPUs only; give an .onnx file for the CPU")
    return dataclasses.replace(options, backend=backend, device=device)


def _can_use_gpu(backend: Backend) -> bool:
    if backend == "onnxruntime":
        return onnxruntime_has_gpu()
    if backend == "torch" and gpus():
        import torch

        return torch.cuda.is_available()
    return backend == "tensorrt"


def _memory() -> dict[str, str]:
    try:
        content = json.loads((cache_folder() / _MEMORY).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(artifact: Path, options: RuntimeOptions) -> str:
    """Whatever the faster backend depends on."""
    versions = [f"{name} {_version(name)}" for name in ("onnxruntime", "openvino")]
    parts = [sha256_of(artifact), cpu_name(), cpu_count(), options.threads, options.precision]
    return hashlib.sha256(repr([*parts, *versions]).encode()).hexdigest()


def _version(package: str) -> str:
    for name in (package, f"{package}-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "-"
