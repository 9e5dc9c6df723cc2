"""What the regulariser does (section 3.2): where the energy of filters lies, epoch by epoch."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stdeploy.analysis.filters import centre_of, energy_per_axis, energy_per_tap, flatness
from stdeploy.analysis.kernels import kernel_of, stage_of
from stdeploy.artifacts.files import whole_file

if TYPE_CHECKING:  # the table is read without torch
    from stdeploy.models.base import ActionModel


@dataclasses.dataclass(frozen=True)
class FilterShares:
    """One spatio-temporal layer after an epoch.

    Attributes:
        epoch: 0 before the first step.
        layer: its name.
        stage: such as "conv3".
        average: share of the energy in the average, 0..1.
        first_differential: likewise.
        second_differential: likewise.
        centre: share in the centre frame.
        flatness: 0 where one frame has all, 1 where every frame has the same.
    """

    epoch: int
    layer: str
    stage: str
    average: float
    first_differential: float
    second_differential: float
    centre: float
    flatness: float


def filter_shares(model: "ActionModel", epoch: int) -> list[FilterShares]:
    """Measure every layer that is longer than one frame.

    Args:
        model: with branches, in evaluation mode.
        epoch: how many are done.
    """
    from stdeploy.fusion import filters_of

    rows = []
    for name, layer in filters_of(model):
        if layer.kernel_size[0] == 1:
            continue
        kernel = kernel_of(layer)
        taps = energy_per_tap(kernel)
        average, first, second = (float(share) for share in energy_per_axis(kernel)[:3])
        rows.append(
            FilterShares(
                epoch=epoch,
                layer=name,
                stage=stage_of(name),
                average=average,
                first_differential=first,
                second_differential=second,
                centre=float(centre_of(taps) or 0.0),
                flatness=flatness(taps),
            )
        )
    return rows


def mean_of_stages(rows: Sequence[FilterShares]) -> dict[str, dict[str, float]]:
    """Means over the layers of each stage, by the name of the measure."""
    names = [f.name for f in dataclasses.fields(FilterShares) if f.type is float]
    stages = dict.fromkeys(row.stage for row in rows)
    return {
        stage: {
            name: float(np.mean([getattr(row, name) for row in rows if row.stage == stage]))
            for name in names
        }
        for stage in stages
    }


def read_shares(path: Path) -> list[FilterShares]:
    """Read what `write_shares` wrote; nothing where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [_row(fields) for fields in csv.DictReader(file)]


def write_shares(path: Path, rows: Sequence[FilterShares]) -> None:
    """Write a .csv file with a line for every layer and epoch."""
    names = [field.name for field in dataclasses.fields(FilterShares)]
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)


def _row(fields: dict[str, str]) -> FilterShares:
    kinds = {field.name: field.type for field in dataclasses.fields(FilterShares)}
    values = {name: kinds[name](text) for name, text in fields.items()}  # type: ignore[operator]
    return FilterShares(**values)
