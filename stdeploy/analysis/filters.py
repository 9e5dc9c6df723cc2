"""Section 2.1 of the paper: what a spatio-temporal layer does in time, and a stage of them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from stdeploy.analysis.filter_projection import entropy
from stdeploy.analysis.kernels import Kernel
from stdeploy.analysis.temporal_svd import (
    Array,
    PrimaryFilters,
    chunks,
    primary_filters,
    temporal_axes,
)
from stdeploy.hardware import cpu_count

_MOST_AT_ONCE = 4  # layers; each takes some hundred megabytes while it is looked at


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
            cell) to 1; see `temporal_svd.entropy`. With few filters it cannot reach 1.
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
    def first_axes(self) -> tuple[float, float, float]:
        """Shares of average, first and second differential; t = 2 has no second: 0."""
        average, first, second = np.append(self.energy_per_axis, 0.0)[:3]
        return float(average), float(first), float(second)

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


def energy_per_tap(weight: NDArray[np.floating]) -> Array:
    """Share of the squared weights of a layer in each frame, (t,).

    Args:
        weight: (C_out, C_in, t, h, w).
    """
    total: Array = np.zeros(weight.shape[2])
    for _, filters in chunks(weight):
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
    for _, filters in chunks(weight):
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


def analyse_all(
    kernels: Sequence[Kernel], progress: Callable[[int, int], None] = lambda *_: None
) -> list[LayerFilters]:
    """`analyse` every layer of a network, a few at a time.

    Threads suffice: NumPy lets others run while it computes.

    Args:
        kernels: of the layers.
        progress: is told how many are done, and of how many.
    """
    layers = []
    with ThreadPoolExecutor(min(len(kernels), cpu_count(), _MOST_AT_ONCE)) as pool:
        for layer in pool.map(lambda each: analyse(each.name, each.stage, each.weight), kernels):
            layers.append(layer)
            progress(len(layers), len(kernels))
    return layers


def by_stage(layers: list[LayerFilters]) -> list[StageFilters]:
    """Means over the layers of each stage, in the order of the network."""
    stages: dict[str, list[LayerFilters]] = {}
    for layer in layers:
        stages.setdefault(layer.stage, []).append(layer)
    return [_stage(name, members) for name, members in stages.items()]


def _stage(name: str, layers: list[LayerFilters]) -> StageFilters:
    average, first, second = np.mean([layer.first_axes for layer in layers], axis=0)
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


def _shares(energies: Array) -> Array:
    total = float(energies.sum())
    return energies / total if total > 0 else np.full_like(energies, 1.0 / len(energies))
