"""The analysis as plain data, ready for JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stdeploy.analysis.filters import LayerFilters, StageFilters
from stdeploy.analysis.length_advice import Advice

if TYPE_CHECKING:  # it needs torch, which takes seconds to load
    from stdeploy.analysis.receptive_field import ReceptiveField

_DIGITS = 6


def filters_record(
    artifact: Path,
    layers: Sequence[LayerFilters],
    stages: Sequence[StageFilters],
    advice: Sequence[Advice],
) -> dict[str, Any]:
    """Figure 1 in numbers: every layer, every stage, and the temporal lengths they ask for."""
    return {
        "artifact": str(artifact),
        "layers": [_layer(layer) for layer in layers],
        "stages": [
            {name: _rounded(value) for name, value in vars(stage).items()} for stage in stages
        ],
        "recommended": {each.stage: each.recommended for each in advice},
    }


def field_record(artifact: Path, field: "ReceptiveField") -> dict[str, Any]:
    """Figure 4 in numbers: the marginal over time, and the spreads."""
    down, across = field.spread_px
    return {
        "artifact": str(artifact),
        "clips": field.clips,
        "over_time": _numbers(field.over_time),
        "spread_frames": _rounded(field.spread_frames),
        "spread_seconds": _rounded(field.spread_seconds),
        "spread_x_px": _rounded(across),
        "spread_y_px": _rounded(down),
        "theoretical_frames": field.theoretical[0],
        "theoretical_px": field.theoretical[1],
        "causal": field.causal,
    }


def _layer(layer: LayerFilters) -> dict[str, Any]:
    average, first, second = layer.first_axes
    return {
        "name": layer.name,
        "stage": layer.stage,
        "shape": list(layer.shape),
        "energy_per_tap": _numbers(layer.energy_per_tap),
        "average": _rounded(average),
        "first_differential": _rounded(first),
        "second_differential": _rounded(second),
        "centre": _rounded(layer.centre),
        "peak": _rounded(layer.peak),
        "flatness": _rounded(layer.flatness),
        "entropy": _rounded(layer.entropy),
        "spread_frames": _rounded(layer.spread_frames),
    }


def _numbers(values: NDArray[np.floating]) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]


def _rounded(value: Any) -> Any:
    return round(value, _DIGITS) if isinstance(value, float) else value
