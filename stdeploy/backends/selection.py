"""What `--backend auto` means: the rule, and the memory of what was measured."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import (
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
    TORCH_PROGRAM_SUFFIX,
    cache_folder,
    sha256_of,
    whole_file,
)
from stdeploy.backends.base import BACKENDS, SWITCHES, Backend, RuntimeOptions, runtime_class
from stdeploy.errors import ArtifactError
from stdeploy.hardware import cpu_count, cpu_name, gpus

_MEMORY = "choices.json"
_OF_OTHER_PROGRAMS = {OPENVINO_SUFFIX: "OpenVINO", TORCH_PROGRAM_SUFFIX: "torch.export.load"}


def rule() -> str:
    """What "auto" means, in words; backends of .onnx files are those of the registry."""
    classes = {backend: runtime_class(backend) for backend in _running(Path(ONNX_SUFFIX))}
    timed = [b for b, found in classes.items() if found.automatic and "cpu" in found.devices]
    asked_for = [b for b, found in classes.items() if not found.automatic]
    by_name = f" By name only: {', '.join(asked_for)}." if asked_for else ""
    return (
        ".engine: tensorrt. .aot.pt2: aotinductor. .onnx: onnxruntime on the GPU where there is an "
        f"NVIDIA GPU and onnxruntime-gpu; otherwise the faster of {' and '.join(timed)} on this "
        "CPU. .pt and .safetensors: torch, on the GPU where it sees one, and there in the fastest "
        "form: planar or not, with CUDA graphs or not. What there is to choose from is verified "
        f"and timed when a file is first opened, and remembered.{by_name}"
    )


def backends_for(artifact: Path) -> tuple[Backend, ...]:
    """The backends that run files of a kind.

    Raises:
        ArtifactError: none does.
    """
    possible = _running(artifact)
    if not possible and artifact.suffix in _OF_OTHER_PROGRAMS:
        raise ArtifactError(
            f"{str(artifact)!r} is for {_OF_OTHER_PROGRAMS[artifact.suffix]} to run; name the "
            ".onnx file that was written with it"
        )
    if not possible:
        known = dict.fromkeys(suffix for one in BACKENDS.values() for suffix in one.runs)
        raise ArtifactError(
            f"{str(artifact)!r}: no backend runs {artifact.suffix or 'such'} files; "
            f"give one of {', '.join(known)}"
        )
    return possible


def candidates(
    artifact: Path, card: ModelCard, options: RuntimeOptions
) -> tuple[RuntimeOptions, ...]:
    """The ways to run an artifact that options allow, with backend and device settled.

    Args:
        artifact: a .onnx, .engine, .aot.pt2, .safetensors or .pt file.
        card: of the artifact.
        options: what is asked for.

    Returns:
        One, or those that are to be timed against each other.

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
        return (_settled(artifact, options, options.backend),)
    return tuple(
        way
        for settled in _automatic(artifact, possible, card, options)
        for way in runtime_class(settled.backend).automatic_ways(card, settled)
    )


def _automatic(
    artifact: Path, possible: tuple[Backend, ...], card: ModelCard, options: RuntimeOptions
) -> tuple[RuntimeOptions, ...]:
    """What "auto" stands for: one backend on the GPU, or all that can on the CPU."""
    classes = {backend: runtime_class(backend) for backend in possible}
    automatic = [backend for backend in possible if classes[backend].automatic] or list(possible)
    if len(automatic) == 1:
        return (_settled(artifact, options, automatic[0]),)
    asked = options.precision or card.precision
    able = [backend for backend in automatic if asked in classes[backend].precisions]
    on_gpu = [backend for backend in able if classes[backend].sees_gpu()]
    if options.device == "cuda":
        # Where none can, the first that might says what is missing.
        on_gpu = on_gpu or [b for b in automatic if "cuda" in classes[b].devices] or automatic
    if on_gpu and options.device != "cpu":
        return (dataclasses.replace(options, backend=on_gpu[0], device="cuda"),)
    on_cpu = [backend for backend in able if "cpu" in classes[backend].devices]
    # With none installed, or none able, the first says what is missing.
    chosen = [backend for backend in on_cpu if classes[backend].installed()] or on_cpu[:1]
    return tuple(
        dataclasses.replace(options, backend=backend, device="cpu")
        for backend in chosen or automatic[:1]
    )


def in_words(way: RuntimeOptions) -> str:
    """What tells the ways to run one artifact apart: "onnxruntime", "torch planar cuda_graphs"."""
    return " ".join([way.backend, *(name for name in SWITCHES if getattr(way, name))])


def remembered(
    artifact: Path, options: RuntimeOptions, possible: tuple[RuntimeOptions, ...]
) -> RuntimeOptions | None:
    """The way that was fastest when this artifact was first opened here, if they were timed."""
    choice = _memory().get(_key(artifact, options))
    return next((way for way in possible if in_words(way) == choice), None)


def remember(
    artifact: Path, options: RuntimeOptions, seconds: Mapping[RuntimeOptions, float]
) -> None:
    """Keep which way was fastest; a cache folder that cannot be written to is no error."""
    fastest = in_words(min(seconds, key=lambda way: seconds[way]))
    try:
        path = cache_folder() / _MEMORY
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {**_memory(), _key(artifact, options): fastest}
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=0))
    except (OSError, ArtifactError):
        pass


def _settled(artifact: Path, options: RuntimeOptions, backend: Backend) -> RuntimeOptions:
    """Options with the backend, and the device that "auto" stands for."""
    device = options.device
    if device == "auto":
        device = runtime_class(backend).automatic_device(artifact)
    return dataclasses.replace(options, backend=backend, device=device)


def _running(artifact: Path) -> tuple[Backend, ...]:
    """The backends that run files whose names end so."""
    name = artifact.name
    return tuple(cast(Backend, each) for each, one in BACKENDS.items() if name.endswith(one.runs))


def _memory() -> dict[str, str]:
    try:
        content = json.loads((cache_folder() / _MEMORY).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(artifact: Path, options: RuntimeOptions) -> str:
    """Whatever the fastest way depends on."""
    libraries = [runtime_class(backend).library for backend in backends_for(artifact)]
    versions = [f"{name} {_version(name)}" for name in libraries]
    parts = [sha256_of(artifact), cpu_name(), cpu_count(), options.threads, options.precision]
    if options.device != "cpu" and gpus():
        parts += [gpus()[0].name, *(name for name in SWITCHES if getattr(options, name))]
    return hashlib.sha256(repr([*parts, *versions]).encode()).hexdigest()


def _version(package: str) -> str:
    for name in (package, f"{package}-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "-"
