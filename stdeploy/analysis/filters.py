"""Section 2.1 of the paper: the temporal filters inside spatio-temporal ones, as arithmetic.

Every filter W^{c,d} of t x h x w, unfolded to t rows, is taken apart by eq. (1),
W = U Lambda V^T. The columns of U are its primary temporal filters, unit vectors of t numbers,
the singular values their weights. They are looked at in the coordinates of `temporal_axes`.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Projection = Literal["lambert", "orthographic"]

_CHUNK = 1 << 16  # filters at a time: 65,536 of 3 x 3 x 3 in float64 take 14 MB
_RINGS = 6  # of the cells of `entropy`


@dataclasses.dataclass(frozen=True)
class PrimaryFilters:
    """Eq. (1) for all N = C D filters of a layer.

    Attributes:
        directions: u_i, (N, r, t), unit length, r = min(t, h w); the sign is that of `upright`.
        weights: lambda_i, (N, r), descending, not negative.
    """

    directions: Array32
    weights: Array32


@dataclasses.dataclass(frozen=True)
class LayerFilters:
    """What a spatio-temporal layer does in time.

    Attributes:
        name: of the layer in its network.
        stage: group of layers that it belongs to, such as "conv3".
        shape: of its weight, (C_out, C_in, t, h, w).
        energy_per_tap: share of the squared weights in each frame, (t,), earliest first; sums
            to 1.
        energy_per_axis: share in each of `temporal_axes`, (t,); sums to 1. The first three are
            average, first and second differential.
        entropy: how evenly the primary filters cover the half sphere of figure 1, 0 (all in one
            cell) to 1; see `entropy`. With few filters it cannot reach 1.
        primary: eq. (1).
    """

    name: str
    stage: str
    shape: tuple[int, ...]
    energy_per_tap: Array
    energy_per_axis: Array
    entropy: float
    primary: PrimaryFilters

    @property
    def length(self) -> int:
        """Temporal length, t."""
        return self.shape[2]

    @property
    def centre(self) -> float | None:
        """Share of the energy in the centre frame; None where an even t has no centre."""
        return centre_of(self.energy_per_tap)

    @property
    def peak(self) -> float:
        """Share of the energy in the frame that has most, centre or not."""
        return float(self.energy_per_tap.max())

    @property
    def flatness(self) -> float:
        """See `flatness`, of the frames of the filter."""
        return flatness(self.energy_per_tap)

    @property
    def spread_frames(self) -> float:
        """Standard deviation of the energy over the frames of the filter, in frames."""
        return spread(self.energy_per_tap)


@dataclasses.dataclass(frozen=True)
class StageFilters:
    """The layers of a stage, each counted alike.

    Attributes:
        stage: such as "conv3".
        layers: how many spatio-temporal layers it has.
        length: t of its longest filters.
        average: mean share of energy in the average.
        first_differential: likewise.
        second_differential: likewise.
        centre: mean share in the centre frame; None where a layer has no centre.
        peak: mean share in the frame that has most.
        flatness: mean of `flatness` of the layers.
        entropy: mean of the layers.
        spread_frames: mean of the layers, in frames of the stage's input.
    """

    stage: str
    layers: int
    length: int
    average: float
    first_differential: float
    second_differential: float
    centre: float | None
    peak: float
    flatness: float
    entropy: float
    spread_frames: float


def temporal_axes(length: int) -> Array:
    """The orthonormal axes that figure 1 is drawn in, for any temporal length.

    They are the cosines of the DCT-II. For t = 3 they are the paper's three: the average
    [1, 1, 1], the 1st differential [-1, 0, 1] and the 2nd [-1, 2, -1], each of unit length. For
    longer filters the same three are the slowest components, and others follow.

    Args:
        length: t, at least 2.

    Returns:
        (t, t); row k is axis k.
    """
    frame = np.arange(length) + 0.5
    order = np.arange(length)[:, None]
    axes = np.cos(math.pi * frame * order / length) * math.sqrt(2.0 / length)
    axes[0] = 1.0 / math.sqrt(length)
    axes[1:3] *= -1.0  # cosines begin high, the paper's differentials low
    return axes


def primary_filters(weight: NDArray[np.floating]) -> PrimaryFilters:
    """Eq. (1) for every filter of a layer.

    U and Lambda are taken from the eigenvectors of W W^T, which is t x t and small. Where two
    singular values are equal, any rotation of their directions would do.

    Args:
        weight: (C_out, C_in, t, h, w).
    """
    outputs, inputs, length, height, width = weight.shape
    rank = min(length, height * width)
    count = outputs * inputs
    directions = np.empty((count, rank, length), np.float32)
    weights = np.empty((count, rank), np.float32)
    for chunk, filters in _chunks(weight):
        squared, vectors = np.linalg.eigh(filters @ filters.transpose(0, 2, 1))
        # Ascending in NumPy; rounding may take a zero a little below.
        weights[chunk] = np.sqrt(np.maximum(squared[:, ::-1][:, :rank], 0.0))
        directions[chunk] = upright(vectors[:, :, ::-1].transpose(0, 2, 1)[:, :rank])
    return PrimaryFilters(directions, weights)


def upright(directions: Array) -> Array:
    """Choose between u and -u, which eq. (1) cannot tell apart.

    The coordinate on the 2nd differential is made positive, so that the centre filter
    [0, 1, 0] is itself and figure 1 shows one half of the sphere; where it is 0, that on the
    average, then that on the 1st differential.

    Args:
        directions: (..., t).

    Returns:
        The same, each multiplied by 1 or -1.
    """
    axes = temporal_axes(directions.shape[-1])
    signs = np.zeros(directions.shape[:-1])
    for axis in (2, 0, 1):
        if axis < len(axes):
            coordinate = directions @ axes[axis]
            undecided = (signs == 0) & (np.abs(coordinate) > 1e-12)
            signs = np.where(undecided, np.sign(coordinate), signs)
    signs[signs == 0] = 1.0
    return np.asarray(directions * signs[..., None])


def on_the_half_sphere(primary: PrimaryFilters) -> tuple[Array, Array, Array, float]:
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
    primary: PrimaryFilters, *, projection: Projection = "lambert", cells: int = 72
) -> Array:
    """Figure 1: how densely primary filters lie on the half sphere, by their weights.

    The average is above and below (opposite points of the rim are the same filter), the 1st
    differential right and left, the 2nd in the centre.

    Args:
        primary: eq. (1) of a layer.
        projection: "lambert" keeps areas; "orthographic" is the plain projection on the plane of
            average and 1st differential, which crowds the rim.
        cells: of the picture, on each side.

    Returns:
        (cells, cells), the lowest row first; its mean over the disc is 1, NaN is outside.
    """
    x, y, weights, _ = on_the_half_sphere(primary)
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
    x, y, weights, _ = on_the_half_sphere(primary)
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


def energy_per_tap(weight: NDArray[np.floating]) -> Array:
    """Share of the squared weights of a layer in each frame, (t,).

    Args:
        weight: (C_out, C_in, t, h, w).
    """
    total: Array = np.zeros(weight.shape[2])
    for _, filters in _chunks(weight):
        total += np.einsum("nts,nts->t", filters, filters)
    return _shares(total)


def energy_per_axis(weight: NDArray[np.floating]) -> Array:
    """Share of the squared weights of a layer in each of `temporal_axes`, (t,).

    It is the sum over i of (lambda_i times the coordinate of u_i)^2, which neither signs nor
    the order of eq. (1) can change.

    Args:
        weight: (C_out, C_in, t, h, w).
    """
    axes = temporal_axes(weight.shape[2])
    total: Array = np.zeros(len(axes))
    for _, filters in _chunks(weight):
        along = np.matmul(axes, filters)
        total += np.einsum("nks,nks->k", along, along)
    return _shares(total)


def spread(shares: Array) -> float:
    """Standard deviation of a distribution over 0, 1, 2, ...; a filter's in frames."""
    place = np.arange(len(shares))
    mean = float(shares @ place)
    return math.sqrt(max(float(shares @ (place - mean) ** 2), 0.0))


def centre_of(shares: Array) -> float | None:
    """The middle of an odd number of shares; None of an even number."""
    return float(shares[len(shares) // 2]) if len(shares) % 2 else None


def flatness(shares: Array) -> float:
    """How near the energy of a filter is to the same in every frame: its entropy over log t.

    >>> flatness(np.array([0.0, 1.0, 0.0])), flatness(np.array([1.0, 1.0, 1.0]) / 3)
    (0.0, 1.0)

    Args:
        shares: of the frames, (t,), t at least 2; sum to 1.
    """
    some = shares[shares > 0]
    return abs(float(-(some * np.log(some)).sum() / math.log(len(shares))))


def analyse(name: str, stage: str, weight: NDArray[np.floating]) -> LayerFilters:
    """Everything about one layer.

    Args:
        name: of the layer.
        stage: that it belongs to.
        weight: (C_out, C_in, t, h, w), t at least 2.
    """
    primary = primary_filters(weight)
    return LayerFilters(
        name=name,
        stage=stage,
        shape=tuple(weight.shape),
        energy_per_tap=energy_per_tap(weight),
        energy_per_axis=energy_per_axis(weight),
        entropy=entropy(primary),
        primary=primary,
    )


def by_stage(layers: list[LayerFilters]) -> list[StageFilters]:
    """Means over the layers of each stage, in the order of the network."""
    stages: dict[str, list[LayerFilters]] = {}
    for layer in layers:
        stages.setdefault(layer.stage, []).append(layer)
    return [_stage(name, members) for name, members in stages.items()]


def _stage(name: str, layers: list[LayerFilters]) -> StageFilters:
    axes = [np.append(layer.energy_per_axis, 0.0)[:3] for layer in layers]  # t = 2 has no 3rd
    average, first, second = np.mean(axes, axis=0)
    centres = [layer.centre for layer in layers]
    known = [centre for centre in centres if centre is not None]
    return StageFilters(
        stage=name,
        layers=len(layers),
        length=max(layer.length for layer in layers),
        average=float(average),
        first_differential=float(first),
        second_differential=float(second),
        centre=float(np.mean(known)) if len(known) == len(centres) else None,
        peak=float(np.mean([layer.peak for layer in layers])),
        flatness=float(np.mean([layer.flatness for layer in layers])),
        entropy=float(np.mean([layer.entropy for layer in layers])),
        spread_frames=float(np.mean([layer.spread_frames for layer in layers])),
    )


def _blurred(cells: Array) -> Array:
    """A Gaussian of about a cell, so that few filters do not look like noise."""
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / 1.2) ** 2)
    kernel /= kernel.sum()
    along = np.apply_along_axis(np.convolve, 0, cells, kernel, mode="same")
    return np.asarray(np.apply_along_axis(np.convolve, 1, along, kernel, mode="same"))


def _chunks(weight: NDArray[np.floating]) -> Iterator[tuple[slice, Array]]:
    """Filters as float64 (n, t, h w), some at a time."""
    outputs, inputs, length, height, width = weight.shape
    filters = weight.reshape(outputs * inputs, length, height * width)
    for start in range(0, len(filters), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield part, filters[part].astype(np.float64)


def _shares(energies: Array) -> Array:
    total = float(energies.sum())
    return energies / total if total > 0 else np.full_like(energies, 1.0 / len(energies))
