"""The paper's comparisons on the order task: arms, contrasts declared beforehand, statistics.

Pure arithmetic; `order_runs.py` trains the arms. All arms of a seed see the same clips in the same
order and start from the same 2D network, so what differs is compared in pairs.
"""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.errors import SpecError
from stdeploy.layers.inflation import Inflation

_LENGTHS = {
    "2D": (1, 1, 1, 1, 1),
    "original": (3, 3, 3, 3, 3),
    "b": (1, 1, 3, 3, 3),
    "b1": (1, 1, 3, 3, 5),
}
LEARNT_LOSS = 0.3  # of the training clips; arms above it have not learnt what they could
WANTED_POINTS = 1.0  # the effects of the paper are 0.65 to 1.3 points
_POWER_QUANTILE = 0.8416  # of the normal distribution at 0.8
# Quantiles of Student's t at 0.975, by degrees of freedom from 1.
_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179),
    *(2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064),
    *(2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL_975 = 1.960


@dataclasses.dataclass(frozen=True)
class Arm:
    """One network and its training.

    Attributes:
        name: as the tables and the contrasts call it.
        lengths: name of t1..t5: "2D", "original", "b" or "b1".
        branches: "single" or "multi".
        eta: of eq. (6).
        inflation: how it starts from the 2D network.
        augmented: whether it is trained with several sampling rates and ego-motion.
    """

    name: str
    lengths: Literal["2D", "original", "b", "b1"]
    branches: Literal["single", "multi"] = "single"
    eta: float = 1.0
    inflation: Inflation = "coefficients"
    augmented: bool = False

    def spec(self, num_classes: int, width: float) -> ModelSpec:
        """The network."""
        return ModelSpec(
            architecture="plain",
            num_classes=num_classes,
            temporal_lengths=_LENGTHS[self.lengths],
            branches=self.branches,
            eta=self.eta,
            width=width,
        )


ARMS: tuple[Arm, ...] = (
    Arm("2D", "2D"),
    Arm("original", "original", inflation="filter"),  # as its authors started it
    Arm("b", "b"),
    Arm("b1", "b1"),
    *(Arm(f"multi eta {eta:g}", "b1", "multi", eta) for eta in (1.0, 2.0, 4.0, math.inf)),
    Arm("single eta 2", "b1", eta=2.0),
    Arm("original, augmented", "original", inflation="filter", augmented=True),
    Arm("b1, augmented", "b1", augmented=True),
    Arm("multi eta 2, augmented", "b1", "multi", 2.0, augmented=True),
    # The other readings of inflation.
    Arm("original, coefficients", "original", inflation="coefficients"),
    Arm("original, orthonormal", "original", inflation="orthonormal"),
    Arm("b1, orthonormal", "b1", inflation="orthonormal"),
    Arm("b1, filter", "b1", inflation="filter"),
    Arm("multi eta 2, orthonormal", "b1", "multi", 2.0, inflation="orthonormal"),
    Arm("multi eta 2, filter", "b1", "multi", 2.0, inflation="filter"),
)


# What the argument needs: a start without time, the lengths, the branches, the augmentation, and
# of each kind of network the other readings of inflation.
_IN_SMALL = (
    *("2D", "original", "b", "b1", "multi eta 1", "multi eta 2"),
    *("b1, augmented", "multi eta 2, augmented"),
    *("original, coefficients", "b1, filter", "multi eta 2, orthonormal"),
)


def arms_of(size: Literal["small", "full"]) -> tuple[Arm, ...]:
    """The arms of an experiment."""
    return ARMS if size == "full" else tuple(arm for arm in ARMS if arm.name in _IN_SMALL)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A difference that was declared before anything was run.

    Attributes:
        name: what it asks.
        weights: of the accuracies of arms; they sum to 0.
        paper_points: the same difference in the paper, in points of accuracy.
    """

    name: str
    weights: Mapping[str, float]
    paper_points: float


CONTRASTS: tuple[Contrast, ...] = (
    Contrast("t5 = 5 (b1 - b)", {"b1": 1, "b": -1}, 68.83 - 68.07),
    Contrast(
        "regularisation (multi eta 2 - eta 1)",
        {"multi eta 2": 1, "multi eta 1": -1},
        68.82 - 68.17,
    ),
    Contrast("branches (multi eta 2 - b1)", {"multi eta 2": 1, "b1": -1}, 68.82 - 68.83),
    Contrast(
        "augmentation x branches",
        {"multi eta 2, augmented": 1, "multi eta 2": -1, "b1, augmented": -1, "b1": 1},
        (69.98 - 68.82) - (68.74 - 68.83),
    ),
)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference over paired seeds.

    Attributes:
        mean: in points of accuracy.
        half_width: of the interval that holds the true difference in 95 of 100 experiments.
        needed_seeds: with how many an effect of `WANTED_POINTS` would be found with power 0.8.
    """

    mean: float
    half_width: float
    needed_seeds: int


def interval(contrast: Contrast, accuracies: Mapping[str, Sequence[float]]) -> Interval:
    """What a contrast comes to, by Student's t over the seeds.

    Args:
        contrast: which.
        accuracies: of each arm, a value a seed in the same order, in per cent.

    Raises:
        SpecError: fewer than two seeds, or arms with different numbers of them.
    """
    columns = [(weight, accuracies[name]) for name, weight in contrast.weights.items()]
    seeds = len(columns[0][1])
    if seeds < 2 or any(len(values) != seeds for _, values in columns):
        raise SpecError("a contrast needs two seeds at least, and the same ones in all its arms")
    differences = [
        sum(weight * values[seed] for weight, values in columns) for seed in range(seeds)
    ]
    deviation = statistics.stdev(differences)
    return Interval(
        statistics.fmean(differences),
        student_t(seeds - 1) * deviation / math.sqrt(seeds),
        needed_seeds(deviation),
    )


def student_t(freedom: int) -> float:
    """The quantile of Student's t at 0.975.

    Beyond the table by its expansion around the normal one (Abramowitz and Stegun, 26.7.5), which
    is right to 1e-3 there.

    Args:
        freedom: degrees of freedom, from 1.
    """
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    z = _NORMAL_975
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def needed_seeds(deviation: float, points: float = WANTED_POINTS) -> int:
    """How many paired seeds find an effect with power 0.8 at the level 0.05, two-sided.

    n >= ((t(n - 1) + z) s / d)^2, the smallest n that fulfils it.

    Args:
        deviation: s, of the difference over seeds, in points.
        points: d, the effect.
    """
    for seeds in itertools.count(2):
        quantiles = student_t(seeds - 1) + _POWER_QUANTILE
        if seeds >= (quantiles * deviation / points) ** 2:
            return seeds
    raise AssertionError
