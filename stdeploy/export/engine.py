"""TensorRT engines from verified .onnx files, proven on the GPU where there is one."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import (
    ONNX_SUFFIX,
    checked_output,
    engine_path,
    existing,
    unfinished_folder,
)
from stdeploy.backends.base import Backend, RuntimeOptions
from stdeploy.backends.engine_files import move_engine, timing_path, write_engine, write_sidecar
from stdeploy.backends.loader import open_backend
from stdeploy.backends.tensorrt import TensorRtRuntime
from stdeploy.backends.tensorrt_distribution import (
    Distribution,
    import_distribution,
    usable_distributions,
)
from stdeploy.backends.tensorrt_plan import BuildOptions, Progress, check_targets
from stdeploy.errors import ArtifactError, BackendError, SpecError
from stdeploy.export.gate import BATCHES, Reference, check, prove, thresholds
from stdeploy.hardware import gpus

__all__ = ["BuildOptions", "BuiltEngine", "build_engine"]


@dataclasses.dataclass(frozen=True)
class BuiltEngine:
    """An engine that was written.

    Attributes:
        path: of the engine; its sidecar lies beside it.
        sidecar: what that says.
        notes: what the user should know.
    """

    path: Path
    sidecar: EngineSidecar
    notes: tuple[str, ...]


def build_engine(
    onnx_file: Path,
    options: BuildOptions,
    progress: Progress = lambda _what, _done, _total: None,
    *,
    clips: NDArray[np.uint8] | None = None,
    allow: Mapping[str, float] | None = None,
) -> BuiltEngine:
    """Build an engine beside an .onnx file, and prove it where a GPU can run it.

    Args:
        onnx_file: a verified file.
        options: batches, targets, compatibility.
        progress: is told what is done, how much of it and of how much.
        clips: uint8 (N, T, H, W, 3), real clips to prove the engine on, beside synthetic ones.
        allow: thresholds of the gate to use instead of those in parity.py, by name.

    Raises:
        ArtifactError: TensorRT cannot parse the file.
        ParityError: the engine answers differently; it is not kept.
        BackendError: no TensorRT here, no GPU and no target, or the build failed.
        SpecError: options that this TensorRT does not have.
    """
    if existing(onnx_file).suffix != ONNX_SUFFIX:
        raise ArtifactError(f"{str(onnx_file)!r}: engines are built from .onnx files")
    card = read_card(onnx_file)
    options = checked_options(options)
    distribution = _distribution(onnx_file, options)
    host = "-".join(options.targets) if options.targets else gpus()[0].slug
    path = engine_path(onnx_file, host, card.precision)
    checked_output(path, ".engine")
    notes: tuple[str, ...] = ()
    # An engine and its sidecar belong together: both are made, and proven, in a folder beside.
    with unfinished_folder(path.parent) as folder:
        unproven = folder / path.name
        sidecar = write_engine(
            onnx_file,
            card,
            unproven,
            distribution,
            options,
            timing_cache=timing_path(path),
            progress=progress,
        )
        if gpus() and gpus()[0].target in sidecar.targets:
            sidecar = _proven(
                onnx_file, card, unproven, sidecar, options, clips, allow or {}, progress
            )
        else:
            there = ", ".join(sidecar.targets)
            notes = (
                f"built for {there} and not run, because no such GPU is here; it answers its "
                "golden clip when it is first opened",
            )
        move_engine(unproven, path)
    return BuiltEngine(path, sidecar, notes)


def checked_options(options: BuildOptions) -> BuildOptions:
    """Options with their targets in one spelling; what cannot be is refused before any work.

    Raises:
        SpecError: a target that TensorRT-RTX does not build for, or impossible batches.
        BackendError: targets, and TensorRT-RTX is not installed.
    """
    best, largest = options.batches
    if not 1 <= best <= largest:
        raise SpecError(f"batches {best},{largest}: need 1 <= best <= largest")
    targets = tuple(dict.fromkeys(target.strip().lower() for target in options.targets))
    if targets:
        check_targets(targets, import_distribution("tensorrt_rtx"))
    return dataclasses.replace(options, targets=targets)


def _distribution(onnx_file: Path, options: BuildOptions) -> Distribution:
    """The TensorRT to use, or what to run where."""
    named = shlex.quote(str(onnx_file))
    written = f"{str(onnx_file)!r} is written and verified, but no engine is built"
    if options.targets:
        return import_distribution("tensorrt_rtx")
    distributions = list(usable_distributions())
    if not distributions:
        raise BackendError(
            f"{written}: TensorRT is not installed here; on the GPU host run: pip install "
            f"'stdeploy[trt]' and: stdeploy export {named} --trt"
        )
    if not gpus():
        ahead = (
            "or build ahead of time: --target sm86,sm89,sm120"
            if any(distribution.name == "tensorrt_rtx" for distribution in distributions)
            else "or install 'stdeploy[rtx]', which builds for named GPUs without one"
        )
        raise BackendError(
            f"{written}: there is no NVIDIA GPU here; on the GPU host run: stdeploy export "
            f"{named} --trt, {ahead}"
        )
    return distributions[0]


def _proven(
    onnx_file: Path,
    card: ModelCard,
    path: Path,
    sidecar: EngineSidecar,
    options: BuildOptions,
    clips: NDArray[np.uint8] | None,
    allow: Mapping[str, float],
    progress: Progress,
) -> EngineSidecar:
    """Compare the engine with its .onnx file on the CPU, and write what was measured."""
    backend: Backend = "openvino" if card.precision == "bf16" else "onnxruntime"
    cpu = RuntimeOptions(backend=backend, device="cpu", emulate=True)
    with open_backend(onnx_file, card, cpu) as parent:
        reference = Reference.of(
            lambda frames: parent.run(frames).astype("float64"), card, clips, progress
        )
    batches = tuple(batch for batch in BATCHES if batch <= options.batches[1])
    gpu = RuntimeOptions(backend="tensorrt", device="cuda")
    with TensorRtRuntime.open(path, card, gpu) as runtime:
        allowed = thresholds(card.precision, allow)
        proof = prove(runtime, reference, allowed, batches=batches, progress=progress)
    check(proof, source=f"the engine of {onnx_file.name!r}")
    sidecar = sidecar.model_copy(
        update={"card": sidecar.card.model_copy(update={"parity": proof.rows})}
    )
    write_sidecar(path, sidecar)
    return sidecar
