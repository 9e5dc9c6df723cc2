"""Eq. (1) of the paper: the primary temporal filters inside spatio-temporal ones.

Every filter W^{c,d} of t x h x w, unfolded to t rows, is taken apart as W = U Lambda V^T. The
columns of U are its primary temporal filters, unit vectors of t numbers, the singular values their
weights. They are looked at in the coordinates of `temporal_axes`.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

_CHUNK = 1 << 16  # filters at a time: 65,536 of 3 x 3 x 3 in float64 take 14 MB


@dataclasses.dataclass(frozen=True)
class PrimaryFilters:
    """Eq. (1) for all N = C D filters of a layer.

    Attributes:
        directions: u_i, (N, r, t), unit length, r = min(t, h w); the sign is that of `upright`.
        weights: lambda_i, (N, r), descending, not negative.
    """

    directions: Array32
    weights: Array32


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
    for chunk, filters in chunks(weight):
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


def chunks(weight: NDArray[np.floating]) -> Iterator[tuple[slice, Array]]:
    """Filters as float64 (n, t, h w), some at a time."""
    outputs, inputs, length, height, width = weight.shape
    filters = weight.reshape(outputs * inputs, length, height * width)
    for start in range(0, len(filters), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield part, filters[part].astype(np.float64)
