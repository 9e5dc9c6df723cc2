"""Filters and norms that start from a 2D convolution and its norm."""

import math
from typing import get_args

import pytest
import torch
from torch.nn import functional

from stdeploy.errors import SpecError
from stdeploy.layers.inflation import (
    Inflation,
    Norm2d,
    inflate,
    inflate_filter,
    inflated_statistics,
    magnification,
    temporal_factors,
)
from stdeploy.layers.temporal import (
    Branches,
    TemporalFilter,
    branch_lengths,
    filter_from_coefficients,
    temporal_basis,
)
from stdeploy.train.recipe import Start

READINGS: tuple[Inflation, ...] = get_args(Inflation)
R2, R3, R5, R6 = (math.sqrt(number) for number in (2, 3, 5, 6))


def random_norm(channels: int, seed: int = 0) -> Norm2d:
    generator = torch.Generator().manual_seed(seed)
    weight, bias, mean, variance = torch.rand(4, channels, generator=generator)
    return Norm2d(weight=weight + 0.5, bias=bias - 0.5, mean=mean - 0.5, variance=variance + 0.5)


def test_a_recipe_can_ask_for_every_reading() -> None:
    assert get_args(Start.model_fields["inflation"].annotation) == READINGS


def test_inflating_the_filter_repeats_it_over_time() -> None:
    weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    kernel = filter_from_coefficients(inflate(weight, 3, 2.0, "filter"), 2.0)
    for frame in range(3):
        torch.testing.assert_close(kernel[:, :, frame], weight / 3)


def test_inflating_the_coefficients_repeats_them() -> None:
    weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    coefficients = inflate(weight, 3, 2.0, "coefficients")
    for order in range(3):
        assert torch.equal(coefficients[:, :, order], weight / 3)


@pytest.mark.parametrize("eta", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("tau", [3, 5])
def test_orthonormal_inflation_is_the_classic_filter_without_one_over_eta(
    tau: int, eta: float
) -> None:
    weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    coefficients = inflate(weight, tau, eta, "orthonormal")
    inflated = (weight / tau)[:, :, None].expand(-1, -1, tau, -1, -1)
    expected = torch.einsum("ts,oithw->oishw", temporal_basis(tau, 1.0), inflated)
    torch.testing.assert_close(coefficients, expected)
    torch.testing.assert_close(coefficients[:, :, 0], weight / math.sqrt(tau))
    assert float(coefficients[:, :, 1:].abs().max()) < 1e-15
    torch.testing.assert_close(filter_from_coefficients(coefficients, eta), inflated / eta)


@pytest.mark.parametrize("tau", [3, 5])
def test_orthonormal_and_classic_inflation_are_one_without_regularisation(tau: int) -> None:
    weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    orthonormal, classic = (inflate(weight, tau, 1.0, r) for r in ("orthonormal", "filter"))
    torch.testing.assert_close(orthonormal, classic)


@pytest.mark.parametrize(
    ("tau", "eta", "reading", "expected"),
    [
        (3, 2.0, "filter", [1 / 3, 1 / 3, 1 / 3]),
        (3, 2.0, "orthonormal", [1 / 6, 1 / 6, 1 / 6]),
        (3, math.inf, "orthonormal", [0.0, 0.0, 0.0]),
        (
            3,
            2.0,
            "coefficients",
            [
                (1 / (2 * R3) + 1 / R2 + 1 / R6) / 3,
                (1 / (2 * R3) - 2 / R6) / 3,
                (1 / (2 * R3) - 1 / R2 + 1 / R6) / 3,
            ],
        ),
        (1, math.inf, "filter", [1.0]),
    ],
)
def test_an_inflated_filter_is_the_2d_one_times_a_factor_in_each_frame(
    tau: int, eta: float, reading: Inflation, expected: list[float]
) -> None:
    factors = temporal_factors(tau, eta, reading)
    torch.testing.assert_close(factors, torch.tensor(expected, dtype=torch.float64))
    weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    kernel = filter_from_coefficients(inflate(weight, tau, eta, reading), eta)
    torch.testing.assert_close(kernel, torch.einsum("t,oihw->oithw", factors, weight))


@pytest.mark.parametrize(
    ("tau", "eta", "gain"),
    [(3, 1.0, 1 / R3), (3, 2.0, 1 / (2 * R3)), (5, 2.0, 1 / (2 * R5)), (5, math.inf, 0.0)],
)
def test_a_still_video_sees_the_average_of_inflated_coefficients(
    tau: int, eta: float, gain: float
) -> None:
    assert float(temporal_factors(tau, eta, "coefficients").sum()) == pytest.approx(gain, abs=1e-15)


@pytest.mark.parametrize(("tau", "share"), [(3, 0.955), (5, 0.905)])
def test_inflated_coefficients_put_most_energy_into_the_first_frame(tau: int, share: float) -> None:
    energy = temporal_factors(tau, 1.0, "coefficients").square()
    assert float(energy[0] / energy.sum()) == pytest.approx(share, abs=5e-4)


def test_inflating_the_filter_with_infinite_eta_is_refused() -> None:
    with pytest.raises(SpecError, match="eta = inf excludes; use a finite eta, or inflation 'coe"):
        inflate(torch.randn(4, 2, 3, 3), 3, math.inf, "filter")


def test_inflating_a_layer_of_one_frame_is_the_2d_layer() -> None:
    for reading in READINGS:
        layer = TemporalFilter(2, 4, (1, 3, 3), eta=math.inf)
        weight, norm = torch.randn(4, 2, 3, 3), random_norm(4)
        inflate_filter(layer, weight, norm, reading)
        assert torch.equal(layer.branches[0].kernel()[:, :, 0], weight)
        torch.testing.assert_close(layer.branches[0].norm.running_mean, norm.mean)
        torch.testing.assert_close(layer.branches[0].norm.running_var, norm.variance)


def test_inflating_with_a_wrong_shape_is_refused() -> None:
    layer = TemporalFilter(2, 4, (3, 3, 3))
    with pytest.raises(SpecError, match=r"\(4, 2, 5, 5\) does not fit; needed \(4, 2, 3, 3\)"):
        inflate_filter(layer, torch.randn(4, 2, 5, 5), random_norm(4), "filter")
    with pytest.raises(SpecError, match=r"norm's weight of \(1,\) does not fit; needed \(4,\)"):
        inflate_filter(layer, torch.randn(4, 2, 3, 3), random_norm(1), "filter")


@pytest.mark.parametrize("branches", ["single", "multi"])
@pytest.mark.parametrize("eta", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_still_video_gets_the_2d_output_unless_motion_would_be_magnified(
    reading: Inflation, eta: float, branches: Branches, causal: bool
) -> None:
    layer = TemporalFilter(2, 4, (5, 3, 3), branches=branches, eta=eta, causal=causal)
    layer.double().eval()
    weight, norm = torch.randn(4, 2, 3, 3, dtype=torch.float64), random_norm(4)
    norm = Norm2d(
        norm.weight.double(), norm.bias.double(), norm.mean.double(), norm.variance.double()
    )
    # A small variance, beside which eps counts; with eta = 4 it must be above 80 eps.
    norm.variance[0] = 1e-3
    inflate_filter(layer, weight, norm, reading)
    picture = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    expected = functional.batch_norm(
        functional.conv2d(picture, weight, padding=1),
        norm.mean,
        norm.variance,
        norm.weight,
        norm.bias,
    )
    with torch.no_grad():
        out = layer(picture[:, :, None].expand(-1, -1, 7, -1, -1))
    lengths = branch_lengths(5, branches)
    factors = [temporal_factors(tau, eta, reading, causal=causal) for tau in lengths]
    magnified = magnification(factors, causal=causal)
    # Branches of a causal filter gather in one frame, those of a centred one in several.
    spread = (branches, eta, causal) == ("multi", 2.0, False)
    exact = reading != "coefficients" or eta == 1.0 or spread
    assert (abs(magnified - 1.0) < 1e-12) == exact
    # What is left of gamma: all of a branch of one frame, less of the others.
    left = sum(1.0 if tau == 1 else magnified**-0.5 for tau in lengths) / len(lengths)
    beta = norm.bias[None, :, None, None]
    expected = beta + (expected - beta) * left
    # Where no branch sees zeros: in the middle, or at the end.
    frame = 6 if causal else 3
    torch.testing.assert_close(out[:, :, frame], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tau", [1, 3, 5])
def test_coefficients_of_a_causal_filter_gather_in_its_newest_frame(tau: int) -> None:
    factors = temporal_factors(tau, 2.0, "coefficients", causal=True)
    assert torch.allclose(factors, temporal_factors(tau, 2.0, "coefficients").flip(0))
    assert factors.abs().argmax() == tau - 1


@pytest.mark.parametrize("tau", [3, 5])
@pytest.mark.parametrize("eta", [1.0, 2.0, 4.0])
def test_no_reading_lets_more_of_independent_frames_through_than_the_2d_filter(
    tau: int, eta: float
) -> None:
    """A single filter's norm divides by at least the deviation that such frames have."""
    one = torch.ones(1, dtype=torch.float64)
    for reading in READINGS:
        factors = temporal_factors(tau, eta, reading)
        magnified = magnification([factors])
        if reading == "coefficients":
            assert magnified == pytest.approx((eta**2 * (tau - 1) + 1) / tau)
        _, variance = inflated_statistics(one, one, factors, 0.0, magnified)
        assert float(factors.square().sum() / variance) < 1.0 + 1e-12


def test_a_variance_below_what_eps_allows_becomes_0() -> None:
    mean, variance = torch.tensor([3.0, 3.0]), torch.tensor([1e-9, 1.0])
    means, variances = inflated_statistics(mean, variance, torch.full((3,), 1 / 6), 1e-5)
    torch.testing.assert_close(means, torch.tensor([1.5, 1.5], dtype=torch.float64))
    expected = torch.tensor([0.0, 0.25 - 0.75e-5], dtype=torch.float64)
    torch.testing.assert_close(variances, expected)


def test_without_average_the_variance_is_that_of_independent_frames() -> None:
    layer = TemporalFilter(2, 4, (5, 3, 3), eta=math.inf).eval()
    weight, norm = torch.randn(4, 2, 3, 3), random_norm(4)
    video = torch.randn(1, 2, 400, 12, 12) + 1.0
    seen = functional.conv2d(video[0].transpose(0, 1), weight)
    norm = Norm2d(norm.weight, norm.bias, seen.mean((0, 2, 3)), seen.var((0, 2, 3)))
    inflate_filter(layer, weight, norm, "coefficients")
    with torch.no_grad():
        out = functional.conv3d(video, layer.branches[0].kernel())
        still = layer(video[:, :, :1].expand(-1, -1, 7, -1, -1))[:, :, 3]
    variance = out.var((0, 2, 3, 4))
    torch.testing.assert_close(layer.branches[0].norm.running_var, variance, rtol=0.05, atol=0)
    expected = norm.bias[None, :, None, None].expand_as(still)
    torch.testing.assert_close(still, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("branches", ["single", "multi"])
def test_orthonormal_inflation_without_average_leaves_a_random_start_that_trains(
    branches: str,
) -> None:
    layer = TemporalFilter(2, 4, (3, 3, 3), branches=branches, eta=math.inf)
    before = layer.branches[-1].coefficients.detach().clone()
    weight, norm = torch.randn(4, 2, 3, 3), random_norm(4)
    inflate_filter(layer, weight, norm, "orthonormal")
    last = layer.branches[-1]
    assert torch.equal(last.coefficients, before)
    share = 1 / len(layer.branches)
    torch.testing.assert_close(last.norm.weight, norm.weight * share)
    torch.testing.assert_close(last.norm.bias, norm.bias * share)
    assert float(last.norm.running_mean.abs().max()) == 0.0
    if branches == "multi":
        assert torch.equal(layer.branches[0].coefficients[:, :, 0], weight)
    (layer.train()(torch.randn(2, 2, 6, 8, 8)) ** 2).mean().backward()
    gradient = last.coefficients.grad
    assert float(gradient[:, :, 0].abs().max()) == 0.0  # of the average, which eta excludes
    assert 1e-6 < float(gradient[:, :, 1:].abs().max()) < 10.0
