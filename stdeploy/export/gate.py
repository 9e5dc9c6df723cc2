"""The gate: what an artifact must show, against its parent, before it gets its name."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from stdeploy.card import ModelCard, ParityRow
from stdeploy.engine.plan import Progress
from stdeploy.errors import ParityError, SpecError
from stdeploy.golden import golden_clip
from stdeploy.parity import (
    GATES,
    RUNTIME_TOLERANCE,
    Difference,
    difference,
    relative_error,
    scale_of,
)
from stdeploy.runtime.base import Runtime
from stdeploy.spec import Precision

BATCHES = (1, 2, 5)

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
    """

    synthetic: NDArray[np.uint8] = dataclasses.field(repr=False)
    real: NDArray[np.uint8] = dataclasses.field(repr=False)
    logits: NDArray[np.float64] = dataclasses.field(repr=False)
    magnitude: float

    @classmethod
    def of(
        cls,
        answer: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
        card: ModelCard,
        real: NDArray[np.uint8] | None,
        progress: Progress,
    ) -> "Reference":
        """Ask the parent.

        Args:
            answer: the parent, from uint8 (1, T, H, W, 3) to logits (1, K).
            card: of the parent.
            real: calibration clips, if there are any.
            progress: is told what is done, how much of it and of how much.
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
        return cls(synthetic, real, np.concatenate(logits), card.golden.magnitude)

    def gate_clips(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
        """The golden clip and the calibration clips, (1, T, H, W, 3), with logits (1, K).

        Without calibration clips, all the synthetic ones.
        """
        count = len(self.synthetic)
        for number in range(1 if len(self.real) else count):
            yield self.synthetic[number][None], self.logits[number][None]
        for number in range(len(self.real)):
            yield self.real[number][None], self.logits[count + number][None]


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
    alone = reference.logits[: max(batches)]
    detail = "against the parent"
    if runtime.precision != "fp32":
        # What rounding does is for the measures below; here a batch has to be its clips.
        alone = np.concatenate([runtime.run(clip[None]) for clip in reference.synthetic])
        detail = "against one clip at a time"
    rows = []
    for batch in batches:
        scale = scale_of(alone[:batch], reference.magnitude)
        error = relative_error(alone[:batch], runtime.run(reference.synthetic[:batch]), scale)
        # Another batch size may get other kernels, which round elsewhere.
        tolerance = RUNTIME_TOLERANCE[runtime.precision]
        rows.append(_row(runtime, f"batch {batch}", error, tolerance, detail))
        progress("comparing batches", len(rows), len(batches))
    clips = sum(1 for _ in reference.gate_clips())
    expected, actual = [], []
    for frames, parent in reference.gate_clips():
        expected.append(parent)
        actual.append(runtime.run(frames))
        progress("comparing clips", len(actual), clips)
    parents = np.concatenate(expected)
    scale = scale_of(parents, reference.magnitude)
    measured = difference(parents, np.concatenate(actual), scale)
    kind = f"{len(reference.real)} real clips and the golden clip"
    detail = kind if len(reference.real) else f"{len(actual)} synthetic clips"
    rows += [
        _row(runtime, title, getattr(measured, name), getattr(allowed, name), detail)
        for name, title in _TITLES.items()
    ]
    return Proof(tuple(rows), tuple(float(value) for value in actual[0][0]))


def check(proof: Proof, *, source: str, hint: str = "") -> None:
    """Refuse an artifact that did not pass.

    Args:
        proof: from `prove`.
        source: what was tried, as the subject of a sentence.
        hint: what could be done about it.

    Raises:
        ParityError: it names the worst comparison.
    """
    if not proof.failed:
        return

    def excess(row: ParityRow) -> float:
        return row.error / row.tolerance if row.tolerance else float("inf")

    worst = max(proof.failed, key=excess)
    raise ParityError(
        f"{source} differs from its parent: {worst.check} {worst.error:.1e}, allowed "
        f"{worst.tolerance:.1e} ({worst.detail}); nothing was written{hint}"
    )


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
