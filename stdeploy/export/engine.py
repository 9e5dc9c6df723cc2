"""TensorRT engines from verified .onnx files, proven on the GPU where there is one."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import (
    ONNX_SUFFIX,
    StrPath,
    as_path,
    checked_output,
    engine_path,
    existing,
    unfinished_folder,
)
from stdeploy.artifacts.sidecar import move_with_sidecar
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.engine_files import timing_path, write_engine
from stdeploy.backends.tensorrt import TensorRtRuntime
from stdeploy.backends.tensorrt_builder import (
    BuildOptions,
    Distribution,
    Progress,
    check_targets,
    import_distribution,
    usable_distributions,
)
from stdeploy.datasets.loader import NamedVideos
from stdeploy.errors import ArtifactError, BackendError, SpecError
from stdeploy.export.calibration import real_clips
from stdeploy.export.verification import BATCHES, check, prove, reference_of_file, thresholds
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
    onnx_file: StrPath,
    options: BuildOptions | None = None,
    *,
    batches: tuple[int, int] = (1, 8),
    targets: Sequence[str] = (),
    workspace_gib: float = 4.0,
    hardware_compatible: bool = False,
    version_compatible: bool = False,
    calibrate: StrPath | NamedVideos | None = None,
    max_clips: int = 32,
    allow: Mapping[str, float] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> BuiltEngine:
    """Build an engine beside an .onnx file, and prove it where a GPU can run it.

    Args:
        onnx_file: a verified file.
        options: the five that follow in one object, for several engines; they then do not count.
        batches: the batch to be fastest at, and the largest one; the smallest is always 1.
        targets: compute capabilities to build for without a GPU, such as ("sm86", "sm89");
            TensorRT-RTX only. None of them: the GPU of this host.
        workspace_gib: memory that a tactic may take.
        hardware_compatible: run on any GPU from Ampere on; TensorRT only.
        version_compatible: run with newer TensorRT; TensorRT only.
        calibrate: real videos to prove the engine on, beside synthetic clips; see `export_onnx`.
        max_clips: most clips of them.
        allow: thresholds of the gate to use instead of those in parity.py, by name.
        progress: is told what is done, how much of it and of how much.
        tell: is told which videos are of no use.

    Raises:
        ArtifactError: TensorRT cannot parse the file.
        ParityError: the engine answers differently; it is not kept.
        BackendError: no TensorRT here, no GPU and no target, or the build failed.
        SpecError: options that this TensorRT does not have.
    """
    onnx_file = existing(as_path(onnx_file, "an .onnx file"))
    if onnx_file.suffix != ONNX_SUFFIX:
        raise ArtifactError(f"{str(onnx_file)!r}: engines are built from .onnx files")
    card = read_card(onnx_file)
    card.check_whole_clips("an engine")
    options = checked_options(
        options
        or BuildOptions(
            batches=batches,
            targets=tuple(targets),
            workspace_gib=workspace_gib,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
        )
    )
    distribution = _distribution(onnx_file, options)
    host = "-".join(options.targets) if options.targets else gpus()[0].slug
    path = checked_output(engine_path(onnx_file, host, card.precision), ".engine")
    clips = real_clips(calibrate, card.clip, max_clips=max_clips, tell=tell)
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
            notes = (
                f"built for {', '.join(sidecar.targets)} and not run, because no such GPU is "
                "here; it answers its golden clip when it is first opened",
            )
        move_with_sidecar(unproven, path)
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
    reference = reference_of_file(onnx_file, card, clips, progress)
    batches = tuple(batch for batch in BATCHES if batch <= options.batches[1])
    gpu = RuntimeOptions(backend="tensorrt", device="cuda")
    with TensorRtRuntime.open(path, card, gpu) as runtime:
        allowed = thresholds(card.precision, allow)
        proof = prove(runtime, reference, allowed, batches=batches, progress=progress)
    check(proof, source=f"the engine of {onnx_file.name!r}")
    sidecar = sidecar.with_parity(*proof.rows)
    sidecar.write(path)
    return sidecar
