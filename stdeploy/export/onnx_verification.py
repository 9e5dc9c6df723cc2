"""An .onnx file against the fused network that it was made from: its numbers, then its answers."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from stdeploy.artifacts.card import ModelCard, ParityRow, read_card
from stdeploy.artifacts.files import ONNX_SUFFIX, StrPath, as_path, existing
from stdeploy.artifacts.golden import check_golden
from stdeploy.artifacts.parity import RUNTIME_TOLERANCE, Difference
from stdeploy.artifacts.spec import Form, Precision
from stdeploy.backends.base import Runtime
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.datasets.loader import NamedVideos
from stdeploy.errors import ArtifactError, ParityError, check_count
from stdeploy.export.calibration import CalibrationClips, named_videos, read_calibration
from stdeploy.export.kernels import check_kernels
from stdeploy.export.layers import NetworkLayers, layers_of
from stdeploy.export.onnx_layers import layers_of_file
from stdeploy.export.verification import (
    Proof,
    Reference,
    check,
    check_verifiable,
    prove_file,
    prover,
    thresholds,
)
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import logits_of
from stdeploy.models.planar import planar_form


def verify_onnx(
    onnx_file: StrPath,
    fused: StrPath,
    *,
    calibrate: StrPath | NamedVideos | None = None,
    max_clips: int = 32,
    allow: Mapping[str, float] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    tell: Callable[[str], None] = lambda _text: None,
) -> tuple[ParityRow, ...]:
    """Verify an .onnx file once more, against the fused network that it was made from.

    What `export_onnx` asks for before it writes a file: kernels, biases, windows and normalisation
    are its parent's but for the rounding of its precision, see `stdeploy.export.kernels`, and its
    answers pass the gate. Opening a file asks for less: its content digest and its golden clip.

    Args:
        onnx_file: of any precision.
        fused: the .fused.safetensors file that it was made from.
        calibrate: real videos to compare answers on, beside five synthetic clips; all of them
            judge. See `export_onnx`.
        max_clips: most clips of them, at least 1.
        allow: thresholds of the gate to use instead of those in parity.py, by name.
        progress: is told what is done, how much of it and of how much.
        tell: is told which videos are of no use.

    Returns:
        Every comparison, all of them passed.

    Raises:
        ArtifactError: a file cannot be used, or they hold different networks.
        ParityError: the file holds other numbers than its parent, and which, or answers otherwise.
        SpecError: an unknown threshold.
        DatasetError: no video gives a clip that shows something.
        BackendError: this processor cannot verify the precision.
        MissingExtraError: ONNX Runtime or, for bf16, OpenVINO is not installed.
    """
    onnx_file = existing(as_path(onnx_file, "an .onnx file"))
    if onnx_file.suffix != ONNX_SUFFIX:
        raise ArtifactError(f"{str(onnx_file)!r}: an .onnx file is wanted")
    card = read_card(onnx_file)
    card.check_whole_clips("verifying")
    if card.input != "uint8-nthwc":
        raise ArtifactError(
            f"{str(onnx_file)!r} takes {card.input}; it was compared with {card.lineage.parent!r}, "
            "which is the file to verify"
        )
    check_verifiable(card.precision)
    allowed = thresholds(card.precision, allow or {})
    fused = existing(as_path(fused, "a fused network"))
    model, parent_card = load_model(fused)
    if (card.model, card.clip.frames_shape) != (parent_card.model, parent_card.clip.frames_shape):
        raise ArtifactError(
            f"{str(onnx_file)!r} holds another network, or takes other clips, than {str(fused)!r}; "
            f"its card says that it was made from {card.lineage.parent!r}"
        )
    clips = None
    check_count("max_clips", max_clips)
    if calibrate is not None:
        clips = read_calibration(named_videos(calibrate), card.clip, max_clips=max_clips)
        for text in clips.notes:
            tell(text)
    parent = Parent.of(model, parent_card, fused, clips, progress, form=card.form)
    precision = "" if card.precision == "fp32" else f" --precision {card.precision}"
    remedy = f"export it again: stdeploy export {shlex.quote(str(fused))}{precision}"
    return parent.verify(
        onnx_file, card, allowed, progress, source=repr(onnx_file.name), outcome=remedy
    ).rows


@dataclasses.dataclass(frozen=True)
class Parent:
    """The fused network that a file is verified against.

    Attributes:
        layers: its numbers; None of a graph whose layers are none that can be compared.
        reference: clips, and its answers to them.
    """

    layers: NetworkLayers | None
    reference: Reference

    @classmethod
    def of(
        cls,
        model: ActionModel,
        card: ModelCard,
        fused: Path,
        clips: CalibrationClips | None,
        progress: Progress,
        *,
        form: Form = "conv3d",
    ) -> "Parent":
        """Take down the numbers of a network and its answers, which have to be its card's.

        Args:
            model: fused, float32.
            card: of it.
            fused: its file.
            clips: real ones, if there are any.
            progress: is told what is done, how much of it and of how much.
            form: of the file that is verified; the numbers are those of this form.
        """
        reference = Reference.of(
            lambda frames: logits_of(model, card.clip, frames),
            card,
            clips.frames if clips else None,
            progress,
            for_ranges=len(clips.for_ranges) if clips and clips.record.held_out else 0,
        )
        check_golden(
            card.golden.logits,
            reference.logits[0],
            magnitude=card.golden.magnitude,
            tolerance=RUNTIME_TOLERANCE["fp32"],
            source=f"{fused.name!r} on torch",
        )
        if form == "planar":
            model = planar_form(model, card.clip.num_frames)
        return cls(layers_of(model, card.clip), reference)

    @classmethod
    def of_graph(
        cls,
        runtime: Runtime,
        artifact: Path,
        card: ModelCard,
        clips: CalibrationClips | None,
        progress: Progress,
    ) -> "Parent":
        """The same of a network that is a graph alone: one of another project.

        Args:
            runtime: runs it in float32, and has answered the golden clip.
            artifact: the .onnx file.
            card: its card.
            clips: real ones, if there are any.
            progress: is told what is done, how much of it and of how much.
        """
        reference = Reference.of(
            lambda frames: runtime.run(frames).astype(np.float64),
            card,
            clips.frames if clips else None,
            progress,
            for_ranges=len(clips.for_ranges) if clips and clips.record.held_out else 0,
        )
        try:
            layers = layers_of_file(artifact)
        except ParityError:
            layers = None
        return cls(layers, reference)

    def verify(
        self,
        path: Path,
        card: ModelCard,
        allowed: Difference,
        progress: Progress,
        *,
        source: str,
        outcome: str,
        may_allow: bool = False,
    ) -> Proof:
        """Compare a file: first its numbers, then its answers.

        Args:
            path: the file.
            card: its card.
            allowed: from `stdeploy.export.verification.thresholds`.
            progress: is told what is done, how much of it and of how much.
            source: what is verified, as the subject of a sentence.
            outcome: what follows from a failure.
            may_allow: name the options that allow such answers.

        Raises:
            ParityError: it deviates.
        """
        kernels = self.check_kernels(path, card.precision, source=source, outcome=outcome)
        proof = prove_file(path, card, self.reference, allowed, prover(card.precision), progress)
        check(proof, source=source, outcome=outcome, may_allow=may_allow)
        return dataclasses.replace(proof, rows=(*proof.rows, *kernels))

    def check_kernels(
        self, path: Path, precision: Precision, *, source: str, outcome: str
    ) -> tuple[ParityRow, ...]:
        """Compare the numbers of a file alone, see `stdeploy.export.kernels.check_kernels`."""
        if self.layers is None:
            return ()
        return (check_kernels(path, self.layers, precision, source=source, outcome=outcome),)
