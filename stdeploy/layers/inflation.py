"""Inflation: temporal filters that start from a 2D network, with norms that fit them.

V is the inflated tensor of a 2D filter w: tau copies of w / tau. The paper applies it to W~
(section 3.2) and leaves open how, so there are three readings, all of eq. (6):

    "coefficients"  W~ = V                         W = [mu / eta, U_perp] V
    "orthonormal"   W~ = [mu, U_perp]^T V          W = V / eta
    "filter"        W~ = [mu / eta, U_perp]^-1 V   W = V, the classic inflation of I3D

Each of them makes a filter whose frames are multiples of w: frame t is k_t w.

For a causal filter all of this holds as it is: on a still video all frames are the newest one, so
which of them w goes to decides about motion alone. The last two spread it evenly, and are the same
there. The first gathers it in one frame, the oldest of a causal filter: it is mirrored in time, so
that the network begins as the 2D one that looks at the newest frame, in all branches alike.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from stdeploy.errors import SpecError
from stdeploy.layers.temporal import (
    TemporalBranch,
    TemporalFilter,
    coefficients_from_filter,
    filter_from_coefficients,
)

Inflation = Literal["coefficients", "orthonormal", "filter"]

# Sums over time are taken for 0 below this: those of eta = inf are rounding alone.
_NO_GAIN = 1e-12


@dataclasses.dataclass(frozen=True)
class Norm2d:
    """The batch norm after a 2D convolution, as (C_out,) each.

    Attributes:
        weight: gamma.
        bias: beta.
        mean: running mean.
        variance: running variance.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor


def inflate(
    weight: Tensor, tau: int, eta: float, reading: Inflation, *, causal: bool = False
) -> Tensor:
    """Coefficients W~ of a filter of length tau that starts from a 2D filter w.

    "coefficients" takes the inflated tensor V for W~ itself, row by row. Most of the filter then
    lies in the first frame, where all cosines of the basis are positive: with eta = 1, 96 % of
    its energy for tau = 3 and 91 % for tau = 5.
    "orthonormal" takes the coefficients of V with respect to [mu, U_perp], without the 1 / eta:
    w / sqrt(tau) for the average, 0 for the rest. The filter is V / eta; with eta = inf it is 0.
    "filter" solves eq. (6) for the filter V: eta w / sqrt(tau) for the average, 0 for the rest.

    Args:
        weight: w, (C_out, C_in, kH, kW).
        tau: temporal length of the result, odd.
        eta: regularisation of the average, 1..inf.
        reading: "coefficients", "orthonormal" or "filter". They are the same for tau = 1, the
            last two for eta = 1.
        causal: of the filter; "coefficients" is mirrored in time then, which changes the sign of
            every second row of W~, those of odd cosines.

    Returns:
        W~, (C_out, C_in, tau, kH, kW).

    Raises:
        SpecError: "filter" was asked for with eta = inf and tau > 1.
    """
    inflated = weight.unsqueeze(2).repeat(1, 1, tau, 1, 1) / tau
    if reading == "coefficients" or tau == 1:
        if causal:
            inflated[:, :, 1::2] *= -1.0
        return inflated
    if reading == "orthonormal":
        return coefficients_from_filter(inflated, 1.0)
    if math.isinf(eta):
        raise SpecError(
            "inflation 'filter' makes filters that are all average, which eta = inf excludes; use "
            "a finite eta, or inflation 'coefficients' or 'orthonormal'"
        )
    return coefficients_from_filter(inflated, eta)


def temporal_factors(tau: int, eta: float, reading: Inflation, *, causal: bool = False) -> Tensor:
    """The factors k of an inflated filter: its frame t is k_t times the 2D filter.

    >>> temporal_factors(3, 2.0, "orthonormal")
    tensor([0.1667, 0.1667, 0.1667], dtype=torch.float64)

    Args:
        tau: temporal length, odd.
        eta: regularisation of the average, 1..inf.
        reading: see `inflate`.
        causal: likewise.

    Returns:
        (tau,), float64.

    Raises:
        SpecError: "filter" was asked for with eta = inf and tau > 1.
    """
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    return filter_from_coefficients(inflate(one, tau, eta, reading, causal=causal), eta).flatten()


def magnification(factors: Sequence[Tensor], *, causal: bool = False) -> float:
    """How much more motion the sum of inflated branches lets through than the 2D filter.

    With norms that fit a still video, branch tau has the factors k / g, g = sum_t k_t. The sum of
    all, each with its share, answers to independent frames with the variance of the 2D output
    times the sum of its squared factors. Above 1, every layer would magnify what is not still,
    also the zeros at the ends of a clip, and many layers by orders of magnitude.

    Args:
        factors: k of each branch; see `temporal_factors`. Those that sum to 0 are passed over.
        causal: branches end at the same frame, instead of having the same centre.

    Returns:
        That sum, or 1 where it is less.
    """
    length = max(len(each) for each in factors)
    total = torch.zeros(length, dtype=torch.float64)
    for each in factors:
        gain, missing = float(each.sum()), length - len(each)
        before = missing if causal else missing // 2
        if abs(gain) >= _NO_GAIN:
            total[before : before + len(each)] += each / gain / len(factors)
    return max(1.0, float(total.square().sum()))


def inflated_statistics(
    mean: Tensor, variance: Tensor, factors: Tensor, eps: float, magnified: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Running statistics of the norm after an inflated filter, from those of the 2D norm.

    On a still video the filter answers with g = sum_t k_t times what the 2D filter answers, so

        mean' = g mean;  var' = g^2 (var + eps) - eps, at least 0

    with which the norm gives what the 2D norm gives: eps is added to var' again. Where that would
    magnify motion, g^2 is multiplied by as much. Where g is 0 (eta = inf) a still video says
    nothing about the variance; it is then that of independent frames, var sum_t k_t^2.

    Args:
        mean: of the 2D norm, (C_out,).
        variance: likewise.
        factors: k, (tau,); see `temporal_factors`.
        eps: added to the variance, by the 2D norm as by ours.
        magnified: see `magnification`; for tau > 1.

    Returns:
        mean' and var', (C_out,), float64.
    """
    gain = float(factors.sum())
    if abs(gain) < _NO_GAIN:
        return 0.0 * mean.double(), variance.double() * factors.square().sum()
    square = gain**2 * (magnified if len(factors) > 1 else 1.0)
    return mean.double() * gain, (square * (variance.double() + eps) - eps).clamp(min=0.0)


@torch.no_grad()
def inflate_filter(layer: TemporalFilter, weight: Tensor, norm: Norm2d, reading: Inflation) -> None:
    """Start every branch of a filter from one 2D convolution and its norm, in place.

    Each branch gets the inflated kernel (`inflate`), statistics that fit it
    (`inflated_statistics`), and an equal share of gamma and beta. So the sum of the branches is
    the 2D output on a still video, away from the ends of the clip, unless

    - eta is inf: the branch of one frame gives its share, all others give theirs of beta alone,
    - "coefficients" would magnify motion: single branches with eta > 1, several with eta = 4 (of a
      causal filter with eta > 1 too, because all of them gather in the newest frame), or
    - g^2 (var + eps) is less than eps, in channels that are nearly constant.

    NOTE: with eta = inf, "orthonormal" leaves the kernel and the statistics of branches longer
    than one frame as they are, at their random start: V / eta is 0, and a branch of zeros has no
    variance, so that its norm would multiply the first gradients by 1 / sqrt(eps).

    Args:
        layer: untrained.
        weight: (C_out, C_in, kH, kW).
        norm: after that convolution.
        reading: see `inflate`.

    Raises:
        SpecError: a shape does not fit, or "filter" was asked for with eta = inf.
    """
    branches = layer.typed_branches()
    causal = layer.causal
    factors = [
        temporal_factors(b.coefficients.shape[2], b.eta, reading, causal=causal) for b in branches
    ]
    magnified = magnification(factors, causal=causal)
    for branch, its_factors in zip(branches, factors, strict=True):
        _check_shapes(branch, weight, norm)
        branch.norm.weight.copy_(norm.weight.double() / len(branches))
        branch.norm.bias.copy_(norm.bias.double() / len(branches))
        tau, eta = len(its_factors), branch.eta
        if reading == "orthonormal" and math.isinf(eta) and tau > 1:
            continue
        branch.coefficients.copy_(inflate(weight, tau, eta, reading, causal=causal))
        statistics = inflated_statistics(
            norm.mean, norm.variance, its_factors, branch.norm.eps, magnified
        )
        mean, variance = branch.norm.running_mean, branch.norm.running_var
        assert mean is not None
        assert variance is not None
        mean.copy_(statistics[0])
        variance.copy_(statistics[1])


def _check_shapes(branch: TemporalBranch, weight: Tensor, norm: Norm2d) -> None:
    coefficients = branch.coefficients
    expected = (*coefficients.shape[:2], *coefficients.shape[3:])
    if tuple(weight.shape) != expected:
        raise SpecError(f"2D filter of shape {tuple(weight.shape)} does not fit; needed {expected}")
    for field in dataclasses.fields(norm):
        shape = tuple(getattr(norm, field.name).shape)
        if shape != expected[:1]:
            raise SpecError(
                f"2D norm's {field.name} of {shape} does not fit; needed {expected[:1]}"
            )
