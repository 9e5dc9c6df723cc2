"""Figure 1 of the paper: where primary temporal filters lie on the half sphere of three axes."""

import math
from typing import Literal

import numpy as np

from stdeploy.analysis.temporal_svd import Array, PrimaryFilters, temporal_axes

Projection = Literal["orthographic", "lambert"]

_RINGS = 6  # of the cells of `entropy`


def upper_half_sphere(primary: PrimaryFilters) -> tuple[Array, Array, Array, float]:
    """Coordinates of figure 1: 1st differential (x), average (y), 2nd differential (z >= 0).

    For t > 3 a direction has more coordinates than these: the three are brought to unit length,
    and the weight is multiplied by the length that they had.

    Args:
        primary: eq. (1) of a layer.

    Returns:
        x, y and weights of the points, (N r,) each, z follows from x^2 + y^2 + z^2 = 1; and the
        share of the weight that these three coordinates hold, 1 for t = 3.
    """
    axes = temporal_axes(primary.directions.shape[-1])[:3]
    points = primary.directions.reshape(-1, axes.shape[1]).astype(np.float64) @ axes.T
    weights = primary.weights.reshape(-1).astype(np.float64)
    lengths = np.linalg.norm(points, axis=1)
    points /= np.maximum(lengths, 1e-12)[:, None]
    total = float(weights.sum())
    held = float(weights @ lengths) / total if total > 0 else 0.0
    return points[:, 1], points[:, 0], weights * lengths, held


def lambert(x: Array, y: Array) -> tuple[Array, Array]:
    """Lambert's projection of the half sphere z >= 0 on the unit disc, which keeps areas.

    The pole (the 2nd differential) comes to the centre, the equator to the rim. So equal numbers
    of filters on equal areas of the sphere have equal density in the picture.

    Args:
        x: (N,).
        y: (N,); z = sqrt(1 - x^2 - y^2).

    Returns:
        x and y on the disc.
    """
    z = np.sqrt(np.maximum(1.0 - x**2 - y**2, 0.0))
    scale = 1.0 / np.sqrt(1.0 + z)
    return x * scale, y * scale


def density(
    primary: PrimaryFilters, *, projection: Projection = "orthographic", cells: int = 72
) -> Array:
    """Figure 1: how densely primary filters lie on the half sphere, by their weights.

    The average is above and below (opposite points of the rim are the same filter), the 1st
    differential right and left, the 2nd in the centre.

    Args:
        primary: eq. (1) of a layer.
        projection: "orthographic" is the paper's, on the plane of average and 1st differential:
            x and y of a point are its coordinates on the two, and the rim is crowded; "lambert"
            keeps areas.
        cells: of the picture, on each side.

    Returns:
        (cells, cells), the lowest row first; its mean over the disc is 1, NaN is outside.
    """
    x, y, weights, _ = upper_half_sphere(primary)
    if projection == "lambert":
        x, y = lambert(x, y)
    edges = np.linspace(-1.0, 1.0, cells + 1)
    counted, _, _ = np.histogram2d(y, x, bins=(edges, edges), weights=weights)
    middle = (edges[1:] + edges[:-1]) / 2
    disc = np.hypot(middle[:, None], middle[None, :]) <= 1.0
    # Rim cells are partly outside: what falls there belongs to the disc, and is weighed by area.
    smooth = _blurred(counted) / np.maximum(_blurred(disc.astype(np.float64)), 0.1)
    smooth[~disc] = np.nan
    mean = float(np.nanmean(smooth))
    return np.asarray(smooth / mean if mean > 0 else smooth)


def entropy(primary: PrimaryFilters) -> float:
    """How evenly primary filters cover the half sphere, by their weights.

    Shannon's entropy of the weights in 144 cells of equal area (rings of the Lambert disc, each
    cut in sectors), divided by its largest value, log 144.

    Args:
        primary: eq. (1) of a layer.

    Returns:
        0 to 1.
    """
    x, y, weights, _ = upper_half_sphere(primary)
    if not weights.sum() > 0:
        return 0.0
    x, y = lambert(x, y)
    ring = np.minimum((np.hypot(x, y) * _RINGS).astype(int), _RINGS - 1)
    sectors = 4 * (2 * ring + 1)  # the area of ring r grows like 2 r + 1
    turn = np.arctan2(y, x) / (2 * math.pi) + 0.5
    sector = np.minimum((turn * sectors).astype(int), sectors - 1)
    cells = 4 * _RINGS**2
    cell = 4 * ring**2 + sector
    shares = np.bincount(cell, weights=weights, minlength=cells) / weights.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum() / math.log(cells))


def _blurred(cells: Array) -> Array:
    """A Gaussian of about a cell, so that few filters do not look like noise."""
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / 1.2) ** 2)
    kernel /= kernel.sum()
    along = np.apply_along_axis(np.convolve, 0, cells, kernel, mode="same")
    return np.asarray(np.apply_along_axis(np.convolve, 1, along, kernel, mode="same"))
