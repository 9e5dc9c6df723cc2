"""Packages of AOTInductor from fused networks: compiled for this host, and proven on it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import torch

from stdeploy.artifacts.aot_sidecar import AotSidecar
from stdeploy.artifacts.card import ParityRow
from stdeploy.artifacts.files import (
    AOT_SUFFIX,
    FUSED_SUFFIX,
    StrPath,
    aot_path,
    as_path,
    checked_output,
    existing,
    unfinished_folder,
)
from stdeploy.artifacts.sidecar import move_with_sidecar
from stdeploy.artifacts.spec import Form, Precision
from stdeploy.backends.aot_package import host_of, write_package
from stdeploy.backends.aotinductor import AotInductorRuntime
from stdeploy.backends.base import Device, DeviceType, RuntimeOptions
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.datasets.loader import NamedVideos
from stdeploy.errors import ArtifactError, SpecError, check_choice, check_count
from stdeploy.export.calibration import real_clips
from stdeploy.export.onnx import FORMS
from stdeploy.export.planar_verification import proven_planar
from stdeploy.export.verification import Reference, check, prove, thresholds
from stdeploy.hardware import gpus
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import logits_of


@dataclasses.dataclass(frozen=True)
class BuiltPackage:
    """A package that was written.

    Attributes:
        path: of the package; its sidecar lies beside it.
        sidecar: what that says.
    """

    path: Path
    sidecar: AotSidecar

    @property
    def parity(self) -> tuple[ParityRow, ...]:
        """Every comparison with the fused network, all of them passed."""
        return self.sidecar.card.parity


def build_package(
    fused: StrPath,
    *,
    precision: Precision = "fp32",
    form: Form = "conv3d",
    device: Device = "auto",
    batch: int = 1,
    autotune: bool = False,
    calibrate: StrPath | NamedVideos | None = None,
    max_clips: int = 32,
    allow: Mapping[str, float] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> BuiltPackage:
    """Compile a fused network ahead of time, for the GPU or the processor of this host.

    A host with the same kind of GPU and the same torch opens the package without compiling.

    Args:
        fused: a .fused.safetensors file.
        precision: arithmetic of the convolutions: fp32, fp16 or bf16.
        form: "planar" has 2D convolutions of stacked frames, see `stdeploy.models.planar`.
        device: "auto" takes the GPU where torch sees one.
        batch: clips that kernels are chosen for; a package takes any number.
        autotune: time every kernel there is, which takes minutes.
        calibrate: real videos to compare on, beside synthetic clips; see `export_onnx`.
        max_clips: most clips of them.
        allow: thresholds of the gate to use instead of those in parity.py, by name.
        progress: is told what is done, how much of it and of how much.
        tell: is told which videos are of no use.

    Raises:
        ArtifactError: the file is no fused network.
        SpecError: no such precision, form or threshold.
        BackendError: no such device here, or torch cannot compile.
        ParityError: the package answers differently; nothing is written.
    """
    fused = existing(as_path(fused, "a fused network"))
    if not fused.name.endswith(FUSED_SUFFIX):
        raise ArtifactError(
            f"{str(fused)!r}: a *{FUSED_SUFFIX} file is wanted, which stdeploy fuse writes; torch "
            "compiles no graph"
        )
    target = _settled(precision, form, device)
    check_count("batch", batch)
    host = gpus()[0].slug if target == "cuda" else "cpu"
    path = checked_output(aot_path(fused, host, precision, form), AOT_SUFFIX)
    allowed = thresholds(precision, allow or {})
    model, card = load_model(fused)
    clips = real_clips(calibrate, card.clip, max_clips=max_clips, tell=tell)
    reference = Reference.of(
        lambda frames: logits_of(model, card.clip, frames), card, clips, progress
    )
    lineage = card.lineage.of_child(fused, torch=torch.__version__)
    card = card.model_copy(
        update={"precision": precision, "form": form, "lineage": lineage, "parity": ()}
    )
    if form == "planar":
        rows, model = proven_planar(model, card, fused)
        card = card.model_copy(update={"parity": rows})
    progress("compiling", 0, 1)
    with unfinished_folder(path.parent) as folder:
        unproven = folder / path.name
        sidecar = write_package(
            fused, model, card, unproven, device=target, batch=batch, autotune=autotune
        )
        how = RuntimeOptions(backend="aotinductor", device=target)
        with AotInductorRuntime.open(unproven, sidecar.card, how) as runtime:
            proof = prove(runtime, reference, allowed, progress=progress)
        check(proof, source=f"the package of {fused.name!r}", may_allow=precision != "fp32")
        golden = card.golden.model_copy(
            update={"verified": None if precision == "fp32" else proof.golden}
        )
        card = card.model_copy(update={"golden": golden, "parity": (*card.parity, *proof.rows)})
        sidecar = sidecar.model_copy(update={"card": card})
        sidecar.write(unproven)
        move_with_sidecar(unproven, path)
    return BuiltPackage(path, sidecar)


def _settled(precision: Precision, form: Form, device: Device) -> DeviceType:
    """The device that is compiled for; refuses what cannot be before anything is read."""
    check_choice("precision", precision, get_args(Precision))
    check_choice("form", form, FORMS)
    check_choice("device", device, get_args(Device))
    if precision not in AotInductorRuntime.precisions:
        raise SpecError(f"torch compiles no {precision}; choose fp32, fp16 or bf16")
    target: DeviceType = "cpu" if device == "cpu" else "cuda"
    if device == "auto" and not AotInductorRuntime.sees_gpu():
        target = "cpu"
    if precision == "fp16" and target == "cpu":
        raise SpecError("torch computes fp16 convolutions on a CPU minutes a clip; choose bf16")
    host_of(target)
    return target
