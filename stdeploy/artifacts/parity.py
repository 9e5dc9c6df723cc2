"""How far two outputs may differ: the measures of error, and the one table of tolerances."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import Arithmetic, Precision

Logits = NDArray[np.floating]

# Folding only reorders exact arithmetic: what is left is rounding.
FUSION_TOLERANCE: dict[Arithmetic, float] = {"fp64": 1e-10, "fp32": 1e-5}

# The planar form adds the same products up in another order.
PLANAR_TOLERANCE: dict[Arithmetic, float] = {"fp64": 1e-12, "fp32": 1e-5}

# So does the streaming form.
STREAM_TOLERANCE: dict[Arithmetic, float] = {"fp64": 1e-12, "fp32": 1e-5}

# The same artifact on another runtime: sums in another order, other algorithms for a
# convolution, and in low precision other places where results are rounded.
RUNTIME_TOLERANCE: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 1e-2,
    "bf16": 5e-2,
    "int8": 1e-1,
}


# Logits are taken to be no smaller than this share of the terms that the classifier adds up: of
# the Kinetics network they are .45 of them, of one with two classes .3. Where two classes come to
# nearly nothing by chance, rounding that changes no other answer would look like another answer.
_LEAST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Difference:
    """How the logits of an artifact differ from its parent's, over N clips.

    Attributes:
        max_error: max |parent - artifact| / scale, where the scale is max |parent|, or see
            `scale_of`.
        mean_error: mean |parent - artifact| / scale.
        top1_changed: share of the clips whose best class changed, 0..1.
        kl_nats: mean over the clips of KL(softmax parent || softmax artifact), in nats.
    """

    max_error: float
    mean_error: float
    top1_changed: float
    kl_nats: float


# What an artifact of each precision may differ from the float32 network that it was made from.
# Each number can be overridden: stdeploy export --allow kl_nats=0.1
GATES: dict[Precision, Difference] = {
    "fp32": Difference(max_error=1e-4, mean_error=1e-4, top1_changed=0.0, kl_nats=1e-4),
    "fp16": Difference(max_error=2e-2, mean_error=5e-3, top1_changed=0.01, kl_nats=5e-3),
    "bf16": Difference(max_error=5e-2, mean_error=2e-2, top1_changed=0.02, kl_nats=2e-2),
    "int8": Difference(max_error=2e-1, mean_error=4e-2, top1_changed=0.02, kl_nats=5e-2),
}


def scale_of(expected: Logits, magnitude: float) -> float:
    """What differences between logits are measured by: the largest of them, unless they cancel.

    Args:
        expected: of the parent.
        magnitude: of what the classifier adds up, see `stdeploy.artifacts.card.GoldenClip`; 0 if
            unknown.

    >>> scale_of(np.array([2.0, -3.0]), 10.0), scale_of(np.array([0.01, -0.01]), 10.0)
    (3.0, 2.0)
    """
    return max(float(np.abs(expected).max()), _LEAST_SHARE * magnitude)


def relative_error(expected: Logits, actual: Logits, scale: float | None = None) -> float:
    """Max |expected - actual| / scale; infinite where a number is not finite.

    Args:
        expected: of the parent.
        actual: of the artifact, of the same shape.
        scale: > 0, what the difference is measured by; None takes max |expected|.
    """
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("inf")
    scale = scale or float(np.abs(expected).max()) or 1.0
    return float(np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max()) / scale


def difference(expected: Logits, actual: Logits, scale: float | None = None) -> Difference:
    """Compare logits (N, K) of a parent with those of an artifact made from it.

    Args:
        expected: of the parent.
        actual: of the artifact.
        scale: > 0, what differences are measured by; None takes max |expected|.
    """
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return Difference(*[float("inf")] * 4)
    scale = scale or float(np.abs(expected).max()) or 1.0
    log_p, log_q = _log_softmax(expected), _log_softmax(actual)
    return Difference(
        max_error=relative_error(expected, actual, scale),
        mean_error=float(np.abs(expected - actual).mean()) / scale,
        top1_changed=float((expected.argmax(axis=1) != actual.argmax(axis=1)).mean()),
        # Rounding may take the divergence of equal distributions a little below 0.
        kl_nats=max(0.0, float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())),
    )


# Bits of the significand, the hidden one included, and the exponent of the smallest step.
_FORMATS = {"fp16": (11, -24), "bf16": (8, -133)}

# int8 weights reach from -127 to 127, or where they take 7 bits from -64 to 64.
_FEWEST_STEPS = 64
# Rounding w / step takes place in float32, where a quotient of up to 127 is off by 2**-18 at most.
_OF_A_STEP = 0.5 + 2.0**-17
# Below 127 of the smallest normal float32 there is no normal step, and 0 is stored.
_NO_STEP = 127 * 2.0**-126


def rounding_bound(exact: NDArray[np.floating], precision: Precision) -> NDArray[np.float64]:
    """How far numbers may be from those that they were rounded from, one by one.

    Half a unit in the last place: for 2**e <= |x| < 2**(e + 1) and p bits of significand
    2**(e - p), and no less than half of the smallest step, which subnormal numbers have (Higham,
    Accuracy and Stability of Numerical Algorithms, 2.1).

    Args:
        exact: float32, of any shape.
        precision: "fp16" (p = 11) or "bf16" (p = 8); "fp32" keeps float32 as it is, and gives 0.

    Returns:
        Of the same shape; 0 for 0, which every format has.

    >>> rounding_bound(np.array([1.5, 2.0], np.float32), "fp16") * 2**11
    array([1., 2.])
    """
    if precision not in _FORMATS:
        return np.zeros(exact.shape)
    bits, least = _FORMATS[precision]
    _, exponent = np.frexp(exact)  # |x| = m 2**exponent, 1/2 <= m < 1
    bound = np.ldexp(0.5, np.maximum(exponent - bits, least))
    return np.where(exact == 0, 0.0, bound)


def quantisation_bound(
    exact: NDArray[np.floating], step: NDArray[np.floating]
) -> NDArray[np.float64]:
    """How far symmetrically quantised weights may be from those that they were made from.

    Half a step. A step is no larger than the largest weight of its channel over 64, which is the
    step of 7-bit weights; those of 8 bits have one of it over 127. A larger one counts as that:
    otherwise one that is large enough would explain any weight.

    Args:
        exact: float32 (C_out, ...).
        step: what one step is worth, (C_out,) or one for all.

    Returns:
        (C_out, 1, ...), to be compared with numbers of the shape of `exact`.

    >>> quantisation_bound(np.array([[0.0, 12.8]]), np.array([0.1])).round(3)
    array([[0.05]])
    """
    largest = np.abs(exact.astype(np.float64)).reshape(len(exact), -1).max(axis=1)
    steps = np.broadcast_to(step.astype(np.float64).reshape(-1), largest.shape)
    allowed = np.minimum(steps, largest / _FEWEST_STEPS * (1 + 2.0**-22))
    bound = np.where(largest < _NO_STEP, largest, _OF_A_STEP * allowed)
    return np.asarray(bound.reshape(-1, *[1] * (exact.ndim - 1)))


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
