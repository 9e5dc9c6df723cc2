import math

import numpy as np
import pytest

from stdeploy.analysis.filter_projection import density, entropy, lambert, upper_half_sphere
from stdeploy.analysis.filters import (
    analyse,
    by_stage,
    centre_of,
    energy_per_axis,
    energy_per_tap,
    flatness,
    spread,
)
from stdeploy.analysis.temporal_svd import PrimaryFilters, primary_filters, temporal_axes, upright
from stdeploy.layers.temporal import temporal_basis

ROOT2, ROOT3, ROOT6 = math.sqrt(2), math.sqrt(3), math.sqrt(6)


def random_weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def repeated(temporal: list[float]) -> np.ndarray:
    """A layer whose filters all have one temporal pattern and some spatial one."""
    spatial = random_weight(4, 2, 1, 3, 3)
    return spatial * np.array(temporal).reshape(1, 1, -1, 1, 1)


def test_axes_of_three_frames_are_those_of_figure_1() -> None:
    expected = [
        [1 / ROOT3, 1 / ROOT3, 1 / ROOT3],
        [-1 / ROOT2, 0, 1 / ROOT2],
        [-1 / ROOT6, 2 / ROOT6, -1 / ROOT6],
    ]
    np.testing.assert_allclose(temporal_axes(3), expected, atol=1e-12)


@pytest.mark.parametrize("length", [2, 3, 5, 7])
def test_axes_are_the_basis_that_filters_are_trained_in(length: int) -> None:
    axes = temporal_axes(length)
    np.testing.assert_allclose(axes @ axes.T, np.eye(length), atol=1e-12)
    basis = temporal_basis(length, 1.0).numpy()
    np.testing.assert_allclose(np.abs(axes), np.abs(basis.T), atol=1e-12)


@pytest.mark.parametrize(
    "shape", [(5, 4, 3, 3, 3), (3, 2, 7, 7, 7), (6, 2, 5, 3, 3), (2, 3, 2, 2, 2)]
)
def test_primary_filters_are_the_singular_value_decomposition(shape: tuple[int, ...]) -> None:
    weight = random_weight(*shape)
    found = primary_filters(weight)
    for number, one in enumerate(weight.reshape(-1, shape[2], shape[3] * shape[4])):
        u, values, _ = np.linalg.svd(one.astype(np.float64), full_matrices=False)
        np.testing.assert_allclose(found.weights[number], values, rtol=1e-5)
        agreement = np.abs(np.sum(found.directions[number] * u.T, axis=1))
        np.testing.assert_allclose(agreement, 1.0, atol=1e-5)


def test_filters_of_one_pixel_have_one_primary_filter() -> None:
    weight = random_weight(4, 3, 5, 1, 1)
    found = primary_filters(weight)
    assert found.directions.shape == (12, 1, 5)
    flat = weight.reshape(12, 5)
    np.testing.assert_allclose(found.weights[:, 0], np.linalg.norm(flat, axis=1), rtol=1e-5)
    expected = upright(flat / np.linalg.norm(flat, axis=1, keepdims=True))
    np.testing.assert_allclose(found.directions[:, 0], expected, atol=1e-5)


def test_nothing_depends_on_the_sign_of_filters() -> None:
    weight = random_weight(6, 5, 3, 3, 3)
    signs = np.where(np.random.default_rng(1).random((6, 5, 1, 1, 1)) < 0.5, -1, 1)
    one, other = analyse("a", "a", weight), analyse("a", "a", weight * signs)
    np.testing.assert_allclose(one.primary.directions, other.primary.directions, atol=1e-5)
    np.testing.assert_allclose(one.energy_per_axis, other.energy_per_axis)
    assert one.entropy == pytest.approx(other.entropy)


def test_signs_follow_the_second_differential_then_the_average_then_the_first() -> None:
    axes = temporal_axes(3)
    tilted = -(0.9 * axes[0] + 0.1 * axes[2]) / math.hypot(0.9, 0.1)
    found = upright(np.stack([-axes[2], -axes[0], -axes[1], tilted]))
    np.testing.assert_allclose(found, [axes[2], axes[0], axes[1], -tilted], atol=1e-12)


def test_shares_do_not_depend_on_the_order_of_equal_singular_values() -> None:
    # Orthogonal rows of one length: every direction is a singular one, in any order.
    rows, _ = np.linalg.qr(random_weight(9, 9))
    weight = rows[:3].reshape(1, 1, 3, 3, 3)
    np.testing.assert_allclose(energy_per_axis(weight), [1 / 3] * 3, atol=1e-7)
    np.testing.assert_allclose(primary_filters(weight).weights, [[1, 1, 1]], atol=1e-6)
    turned = weight.reshape(3, 9) @ np.linalg.qr(random_weight(9, 9, seed=2))[0]
    np.testing.assert_allclose(
        energy_per_axis(turned.reshape(1, 1, 3, 3, 3)), [1 / 3] * 3, atol=1e-6
    )


@pytest.mark.parametrize(
    ("temporal", "taps", "axes"),
    [
        ([0, 1, 0], [0, 1, 0], [1 / 3, 0, 2 / 3]),
        ([1, 1, 1], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0]),
        ([-1, 0, 1], [1 / 2, 0, 1 / 2], [0, 1, 0]),
        ([-1, 2, -1], [1 / 6, 2 / 3, 1 / 6], [0, 0, 1]),
        ([0, 0, 1], [0, 0, 1], [1 / 3, 1 / 2, 1 / 6]),
    ],
)
def test_shares_of_plain_filters(
    temporal: list[float], taps: list[float], axes: list[float]
) -> None:
    weight = repeated(temporal)
    np.testing.assert_allclose(energy_per_tap(weight), taps, atol=1e-7)
    np.testing.assert_allclose(energy_per_axis(weight), axes, atol=1e-7)


def test_energy_of_axes_is_that_of_the_primary_filters() -> None:
    weight = random_weight(7, 3, 5, 3, 3)
    primary = primary_filters(weight)
    along = (primary.directions @ temporal_axes(5).T) * primary.weights[..., None]
    expected = (along**2).sum(axis=(0, 1))
    np.testing.assert_allclose(energy_per_axis(weight), expected / expected.sum(), rtol=1e-5)


def test_longer_filters_keep_what_three_coordinates_hold() -> None:
    axes = temporal_axes(5)
    half = (axes[0] + axes[4]) / ROOT2  # only the average is among the first three
    primary = PrimaryFilters(
        half.reshape(1, 1, 5).astype(np.float32), np.array([[2.0]], np.float32)
    )
    x, y, weights, held = upper_half_sphere(primary)
    np.testing.assert_allclose([x[0], y[0]], [0, 1], atol=1e-6)
    np.testing.assert_allclose([weights[0], held], [ROOT2, 1 / ROOT2], rtol=1e-6)


def test_lambert_keeps_areas() -> None:
    # The cap around the pole down to height z has the share 1 - z of the half sphere.
    z = np.linspace(0.01, 1, 50)
    x, y = lambert(np.sqrt(1 - z**2) * np.cos(1.0), np.sqrt(1 - z**2) * np.sin(1.0))
    np.testing.assert_allclose(x**2 + y**2, 1 - z, atol=1e-12)


def test_entropy_is_0_for_one_kind_of_filter_and_near_1_for_all_kinds() -> None:
    # Of one cell, not two: the average lies on the rim, where u and -u are one filter.
    centre = PrimaryFilters(np.full((50, 1, 3), [0.1, 0.9, 0.0], np.float32), np.ones((50, 1)))
    assert entropy(centre) == pytest.approx(0.0, abs=1e-12)
    anywhere = np.random.default_rng(0).normal(size=(200_000, 1, 3))
    anywhere /= np.linalg.norm(anywhere, axis=2, keepdims=True)
    everything = PrimaryFilters(upright(anywhere).astype(np.float32), np.ones((200_000, 1)))
    assert entropy(everything) > 0.999


@pytest.mark.parametrize(
    ("temporal", "projection", "row", "column"),
    [
        ([-1, 2, -1], "lambert", 0.0, 0.0),
        ([0, 1, 0], "orthographic", 1 / ROOT3, 0.0),
        ([0, 1, 0], "lambert", 1 / ROOT3 / math.sqrt(1 + ROOT2 / ROOT3), 0.0),
        # Its 2nd differential is negative, so its opposite is drawn.
        ([0, 0.1, 1], "orthographic", -1.1 / ROOT3 / math.sqrt(1.01), -1 / ROOT2 / math.sqrt(1.01)),
    ],
)
def test_density_is_where_the_filters_are(
    temporal: list[float], projection: str, row: float, column: float
) -> None:
    picture = density(primary_filters(repeated(temporal)), projection=projection, cells=80)  # type: ignore[arg-type]
    assert np.nanmean(picture) == pytest.approx(1.0)
    highest = np.unravel_index(np.nanargmax(picture), picture.shape)
    np.testing.assert_allclose((np.array(highest) + 0.5) / 40 - 1, (row, column), atol=0.04)


def test_density_is_orthographic_as_in_figure_1() -> None:
    primary = primary_filters(random_weight(4, 4, 3, 3, 3))
    default, paper = density(primary), density(primary, projection="orthographic")
    np.testing.assert_array_equal(default, paper)
    assert not np.allclose(default, density(primary, projection="lambert"), equal_nan=True)


def test_density_is_nan_outside_of_the_disc() -> None:
    picture = density(primary_filters(random_weight(4, 4, 3, 3, 3)), cells=40)
    assert np.isnan(picture[0, 0])
    assert np.isfinite(picture[20, 20])


def test_a_layer_of_zeros_is_no_error() -> None:
    layer = analyse("a", "a", np.zeros((2, 2, 3, 3, 3), np.float32))
    assert layer.entropy == 0.0
    np.testing.assert_allclose(layer.energy_per_tap, [1 / 3] * 3)


def test_small_measures() -> None:
    assert spread(np.array([0.0, 1.0, 0.0])) == 0.0
    assert spread(np.array([0.5, 0.0, 0.5])) == 1.0
    assert centre_of(np.array([0.2, 0.5, 0.3])) == 0.5
    assert centre_of(np.array([0.5, 0.5])) is None
    assert flatness(np.array([0.25, 0.25, 0.25, 0.25])) == pytest.approx(1.0)


def test_stages_count_their_layers_alike() -> None:
    layers = [
        analyse("conv2.0", "conv2", repeated([0, 1, 0])),
        analyse("conv2.1", "conv2", 100 * repeated([1, 1, 1])),
        analyse("conv3.0", "conv3", repeated([1, 1, 1, 1, 1])),
        analyse("conv4.0", "conv4", repeated([1, 1])),
    ]
    second, third, fourth = by_stage(layers)
    assert (second.stage, second.layers, second.length) == ("conv2", 2, 3)
    assert second.average == pytest.approx((1 / 3 + 1) / 2)
    assert second.centre == pytest.approx((1 + 1 / 3) / 2)
    assert second.peak == pytest.approx((1 + 1 / 3) / 2)
    assert second.flatness == pytest.approx(0.5)
    assert (third.length, third.centre) == (5, pytest.approx(0.2))
    assert fourth.centre is None
    assert fourth.second_differential == 0.0
