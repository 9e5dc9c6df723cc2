"""What an artifact must show, against its parent, before it gets its name: the gate."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ModelCard, ParityRow
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import (
    GATES,
    RUNTIME_TOLERANCE,
    Difference,
    difference,
    relative_error,
    scale_of,
)
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import Backend, Runtime, RuntimeOptions
from stdeploy.backends.loader import open_backend, open_runtime
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.errors import BackendError, ParityError, SpecError
from stdeploy.hardware import cpu_emulates_bf16
from stdeploy.optional_packages import require

BATCHES = (1, 2, 5)

# Who proves a precision here. ONNX Runtime has no bf16 convolution on a CPU; OpenVINO
# emulates it where the processor has none.
_PROVERS: dict[Precision, Backend] = {
    "fp32": "onnxruntime",
    "fp16": "onnxruntime",
    "bf16": "openvino",
    "int8": "onnxruntime",
}

_TITLES = {
    "max_error": "largest logit error",
    "mean_error": "mean logit error",
    "top1_changed": "top-1 changed",
    "kl_nats": "KL of the probabilities, nats",
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """Clips, and what the parent says to them.

    Attributes:
        synthetic: uint8 (5, T, H, W, 3), the golden clip first.
        real: uint8 (N, T, H, W, 3), the calibration clips; N may be 0.
        logits: float64 (5 + N, K).
        magnitude: of the card's golden clip.
        for_ranges: how many of the real clips, the first ones, set the ranges of int8.
    """

    synthetic: NDArray[np.uint8] = dataclasses.field(repr=False)
    real: NDArray[np.uint8] = dataclasses.field(repr=False)
    logits: NDArray[np.float64] = dataclasses.field(repr=False)
    magnitude: float
    for_ranges: int = 0

    @classmethod
    def of(
        cls,
        answer: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
        card: ModelCard,
        real: NDArray[np.uint8] | None,
        progress: Progress,
        *,
        for_ranges: int = 0,
    ) -> "Reference":
        """Ask the parent.

        Args:
            answer: the parent, from uint8 (1, T, H, W, 3) to logits (1, K).
            card: of the parent.
            real: calibration clips, if there are any.
            progress: is told what is done, how much of it and of how much.
            for_ranges: how many of the calibration clips, the first ones, set the ranges of int8.
        """
        shape = card.clip.frames_shape
        seeds = range(card.golden.seed, card.golden.seed + max(BATCHES))
        synthetic = np.stack([golden_clip(seed, shape) for seed in seeds])
        real = np.empty((0, *shape), dtype=np.uint8) if real is None else real
        total, logits = len(synthetic) + len(real), []
        # One at a time: a network of torch takes some GB for each clip.
        for done, frames in enumerate([*synthetic, *real], start=1):
            logits.append(answer(frames[None]))
            progress("asking the fused network", done, total)
        magnitude = card.golden.magnitude
        return cls(synthetic, real, np.concatenate(logits), magnitude, for_ranges)

    def groups(self) -> dict[str, slice]:
        """Clips that are judged apart, so that none hides behind others, by what they are.

        The slices are those of `logits`.
        """
        synthetic, real, seen = len(self.synthetic), len(self.real), self.for_ranges
        groups = {f"{synthetic} synthetic clips": slice(0, synthetic)}
        if seen:
            groups[f"{_real(seen)} of the ranges"] = slice(synthetic, synthetic + seen)
        if real > seen:
            others = _real(real - seen) + (" held out" if seen else "")
            groups[others] = slice(synthetic + seen, synthetic + real)
        return groups


@dataclasses.dataclass(frozen=True)
class Proof:
    """What an artifact showed.

    Attributes:
        rows: every comparison.
        golden: its logits for the golden clip.
    """

    rows: tuple[ParityRow, ...]
    golden: tuple[float, ...]

    @property
    def failed(self) -> list[ParityRow]:
        """The comparisons that were over their thresholds."""
        return [row for row in self.rows if not row.passed]


def thresholds(precision: Precision, overrides: Mapping[str, float]) -> Difference:
    """The thresholds of a precision, with those that the user gave.

    Raises:
        SpecError: no such threshold, or a number that is none.
    """
    for name, value in overrides.items():
        if name not in _TITLES:
            raise SpecError(f"no threshold {name!r}; there are {', '.join(_TITLES)}")
        if not value >= 0:
            raise SpecError(f"threshold {name} = {value:g}: give 0 or more")
    return dataclasses.replace(GATES[precision], **overrides)


def prove(
    runtime: Runtime,
    reference: Reference,
    allowed: Difference,
    *,
    batches: tuple[int, ...] = BATCHES,
    progress: Progress = lambda _what, _done, _total: None,
) -> Proof:
    """Compare an opened artifact with its parent, at several batch sizes and on every clip.

    Args:
        runtime: runs the artifact.
        reference: clips and the parent's answers.
        allowed: from `thresholds`.
        batches: batch sizes to try, each at most 5.
        progress: is told what is done, how much of it and of how much.
    """
    clips = [*reference.synthetic, *reference.real]
    answers = []
    for clip in clips:
        answers.append(runtime.run(clip[None]))
        progress("comparing clips", len(answers), len(clips))
    actual = np.concatenate(answers)
    alone: NDArray[np.floating] = reference.logits
    detail = "against the parent"
    if runtime.precision != "fp32":
        # What rounding does is for the measures below; here a batch has to be its clips.
        alone, detail = actual, "against one clip at a time"
    rows = []
    for batch in batches:
        scale = scale_of(alone[:batch], reference.magnitude)
        error = relative_error(alone[:batch], runtime.run(reference.synthetic[:batch]), scale)
        # Another batch size may get other kernels, which round elsewhere.
        tolerance = RUNTIME_TOLERANCE[runtime.precision]
        rows.append(_row(runtime, f"batch {batch}", error, tolerance, detail))
        progress("comparing batches", len(rows), len(batches))
    for name, (value, detail) in _measured(reference, actual).items():
        rows.append(_row(runtime, _TITLES[name], value, getattr(allowed, name), detail))
    return Proof(tuple(rows), tuple(float(value) for value in actual[0]))


def _measured(reference: Reference, actual: NDArray[np.floating]) -> dict[str, tuple[float, str]]:
    """Each measure with the clips that it is of: those of the worst group, or all of them.

    A mean over all clips would let many that are easy, or that set the ranges, hide the others.
    Changed classes are counted over all, because of a few clips one is a large share.
    """
    scale = scale_of(reference.logits, reference.magnitude)
    groups = reference.groups()
    by_group = {
        what: difference(reference.logits[part], actual[part], scale)
        for what, part in groups.items()
    }
    measured = {}
    for name in _TITLES:
        worst = max(groups, key=lambda what: getattr(by_group[what], name))
        measured[name] = (getattr(by_group[worst], name), worst)
    whole = difference(reference.logits, actual, scale)
    everything = f"{len(actual)} clips" if len(groups) > 1 else next(iter(groups))
    return measured | {"top1_changed": (whole.top1_changed, everything)}


def check_verifiable(precision: Precision) -> None:
    """Refuse a precision that cannot be verified here, before any work.

    Raises:
        BackendError: this processor cannot run it.
        MissingExtraError: what runs it is not installed.
    """
    require("onnxruntime", extra="cpu", purpose="verifying an ONNX file")
    if _PROVERS[precision] == "openvino":
        require("openvino", extra="openvino", purpose=f"verifying a {precision} file")
        if not cpu_emulates_bf16():
            raise BackendError(
                "a bf16 file is verified by OpenVINO, for which this processor lacks AVX-512; "
                "export on a host that has it, or with --precision fp16"
            )


def prove_file(
    path: Path,
    card: ModelCard,
    reference: Reference,
    allowed: Difference,
    options: RuntimeOptions,
    progress: Progress,
) -> Proof:
    """Run a file, and compare its answers with its parent's."""
    with open_backend(path, card, options) as runtime:
        return prove(runtime, reference, allowed, progress=progress)


def reference_of_file(
    onnx_file: Path,
    card: ModelCard,
    clips: NDArray[np.uint8] | None,
    progress: Progress,
) -> Reference:
    """What a verified file answers on the CPU, for what is made from it.

    Args:
        onnx_file: of any precision.
        card: its card.
        clips: uint8 (N, T, H, W, 3), beside the synthetic ones.
        progress: is told what is done, how much of it and of how much.
    """
    with open_runtime(onnx_file, card, prover(card.precision)) as runtime:
        return Reference.of(
            lambda frames: runtime.run(frames).astype(np.float64), card, clips, progress
        )


def prover(precision: Precision) -> RuntimeOptions:
    """What runs a file of a precision to verify it."""
    return RuntimeOptions(backend=_PROVERS[precision], device="cpu", emulate=True)


def wider_thresholds(failed: Sequence[ParityRow]) -> str:
    """The options that allow what failed comparisons found: "--allow kl_nats=0.082".

    Args:
        failed: comparisons of an artifact with its parent.

    Returns:
        "" where one of them has a threshold that no option sets, or is not a number.
    """
    wider: dict[str, float] = {}
    for row in failed:
        name = next((name for name, title in _TITLES.items() if row.check.endswith(title)), None)
        if name is None or not 0 < row.error < math.inf:
            return ""
        wider[name] = max(row.error, wider.get(name, 0.0))
    return " ".join(f"--allow {name}={_rounded_up(error)}" for name, error in wider.items())


def _rounded_up(error: float) -> str:
    """Two digits, no less than the number itself.

    >>> _rounded_up(2 / 37)
    '0.055'
    """
    step = 10.0 ** (math.floor(math.log10(error)) - 1)
    return f"{math.ceil(error / step) * step:.2g}"


def check(
    proof: Proof, *, source: str, outcome: str = "nothing was written", may_allow: bool = False
) -> None:
    """Refuse an artifact that did not pass.

    Args:
        proof: from `prove`.
        source: what was tried, as the subject of a sentence.
        outcome: what follows from that.
        may_allow: name the options that allow what was found.

    Raises:
        ParityError: it names the worst comparison.
    """
    if not proof.failed:
        return

    def excess(row: ParityRow) -> float:
        return row.error / row.tolerance if row.tolerance else float("inf")

    worst = max(proof.failed, key=excess)
    wider = wider_thresholds(proof.failed) if may_allow else ""
    raise ParityError(
        f"{source} differs from its parent: {worst.check} {worst.error:.1e}, allowed "
        f"{worst.tolerance:.1e} ({worst.detail}); {outcome}"
        f"{f'; to allow that: {wider}' if wider else ''}"
    )


def _real(count: int) -> str:
    return f"{count} real clip{'s' if count != 1 else ''}"


def _row(
    runtime: Runtime, check_name: str, error: float, tolerance: float, detail: str
) -> ParityRow:
    return ParityRow(
        check=f"{runtime.name}, {check_name}",
        precision=runtime.precision,
        error=error,
        tolerance=tolerance,
        detail=detail,
    )
