"""Pictures of the analysis: figures 1 and 4 of the paper."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stdeploy.analysis.filter_projection import Projection, density, lambert
from stdeploy.analysis.filters import LayerFilters
from stdeploy.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, drawn, marker_key

if TYPE_CHECKING:  # it needs torch, which takes seconds to load
    from stdeploy.analysis.receptive_field import ReceptiveField

_EXTRA = "analysis"
_COLUMNS = 4  # so that names of layers can be read on a phone
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#c94f7c", "#8a7a3d", GREY)
_CENTRE = "#ff4fd8"
_NAME = 26  # letters of a name that stand above one map
_DASHES = 6.0  # from one to the next, in widths of the line


def draw_filters(
    layers: Sequence[LayerFilters], path: Path, *, projection: Projection = "orthographic"
) -> None:
    """Draw figure 1: a disc for each layer, a row (or more) for each stage.

    Args:
        layers: shallow to deep.
        path: ends in .png or .svg.
        projection: see `density`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = _rows(layers)
    columns = max(3, max(len(row) for row in rows))
    size = (1.55 * columns, 1.95 * len(rows) + 0.5)
    with drawn(
        path, extra=_EXTRA, size=size, nrows=len(rows), ncols=columns, squeeze=False
    ) as grid:
        for place, axes in np.ndenumerate(grid):
            row, column = place
            if column < len(rows[row]):
                _disc(axes, rows[row][column], projection)
            else:
                axes.set_axis_off()
        marker_key(
            grid[0][0].figure,
            {
                "o": ("average", "white"),
                "s": ("1st differential", "white"),
                "D": ("2nd differential", "white"),
                "^": ("centre frame", _CENTRE),
            },
            title="numbers: energy in each frame, %. Opposite points of a rim are the same filter.",
        )


def draw_receptive_fields(fields: "Mapping[str, ReceptiveField]", path: Path) -> None:
    """Draw figure 4: maps over X-Y and X-T for each model, and the curves over time in one.

    Args:
        fields: by the name of the model.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    names = [f"{kind}{number}" for kind in "st" for number in range(len(fields))]
    count = len(fields)
    # As wide as two maps at least, or the legend does not fit.
    blanks = ["."] * max(0, 2 - count)
    mosaic = [names[:count] + blanks, names[count:] + blanks, ["time"] * (count + len(blanks))]
    size = (2.1 * max(count, 2) + 0.8, 6.4)
    heights = {"height_ratios": [1.0, 0.8, 1.1]}
    with drawn(path, extra=_EXTRA, size=size, mosaic=mosaic, **heights) as axes:
        for number, (name, field) in enumerate(fields.items()):
            _map_of_space(axes[f"s{number}"], name, field, first=number == 0)
            _map_of_time(axes[f"t{number}"], field, first=number == 0)
        _curves(axes["time"], fields)


def _rows(layers: Sequence[LayerFilters]) -> list[list[LayerFilters]]:
    """A row for each stage; of a stage with many layers, several."""
    rows: list[list[LayerFilters]] = []
    for layer in layers:
        if not rows or rows[-1][-1].stage != layer.stage or len(rows[-1]) == _COLUMNS:
            rows.append([])
        rows[-1].append(layer)
    return rows


def _disc(axes: Any, layer: LayerFilters, projection: Projection) -> None:
    picture = density(layer.primary, projection=projection)
    axes.imshow(
        np.sqrt(picture),  # of densities, so that thin ones are seen
        origin="lower",
        extent=(-1, 1, -1, 1),
        cmap="viridis",
        vmin=0.0,
        interpolation="bilinear",
    )
    turn = np.linspace(0, 2 * np.pi, 181)
    axes.plot(np.cos(turn), np.sin(turn), color=GREY, linewidth=0.8)
    for marker, places in _markers(layer.length, projection).items():
        colour = _CENTRE if marker == "^" else "white"
        axes.plot(
            *zip(*places, strict=True),
            marker,
            color=colour,
            markeredgecolor="black",
            markeredgewidth=0.5,
            markersize=5,
            linestyle="none",
            clip_on=False,
        )
    taps = " ".join(f"{100 * share:.0f}" for share in layer.energy_per_tap)
    axes.set_title(f"{layer.name}\n{taps}", fontsize=8)
    axes.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _markers(length: int, projection: Projection) -> dict[str, list[tuple[float, float]]]:
    """Where the axes of figure 1 are on the disc, and the centre filter."""
    markers = {"o": [(0.0, 1.0), (0.0, -1.0)], "s": [(1.0, 0.0), (-1.0, 0.0)], "D": [(0.0, 0.0)]}
    if length % 2:
        # The centre frame has no 1st differential; of its other two coordinates, the unit vector.
        average, second = 1.0, np.sqrt(2.0)
        x, y = np.array([0.0]), np.array([average / np.hypot(average, second)])
        if projection == "lambert":
            x, y = lambert(x, y)
        markers["^"] = [(float(x[0]), float(y[0]))]
    return markers


def _map_of_space(axes: Any, name: str, field: "ReceptiveField", *, first: bool) -> None:
    space = field.over_space
    axes.imshow(space, cmap="viridis", interpolation="nearest")
    down, across = field.spread_px
    title = [*_lines(name), f"X-Y, sd {across:.0f} x {down:.0f} px"]
    axes.set_title("\n".join(title), fontsize=7)
    axes.set_xlabel("x, px", fontsize=7)
    if first:
        axes.set_ylabel("y, px", fontsize=7)
    axes.tick_params(labelsize=6)


def _map_of_time(axes: Any, field: "ReceptiveField", *, first: bool) -> None:
    axes.imshow(field.over_x_and_time, cmap="viridis", aspect="auto", interpolation="nearest")
    axes.set_title("X-T", fontsize=7)
    axes.set_xlabel("x, px", fontsize=7)
    if first:
        axes.set_ylabel("frame", fontsize=7)
    axes.tick_params(labelsize=6)


def _curves(axes: Any, fields: "Mapping[str, ReceptiveField]") -> None:
    dotted = False
    colours = _cycled(len(fields))
    for number, ((name, field), colour) in enumerate(zip(fields.items(), colours, strict=True)):
        curve = field.over_time
        # From the frame of the unit: the last one, of a network that looks back only.
        offset = np.arange(len(curve)) - (len(curve) - 1 if field.causal else len(curve) // 2)
        seen = field.theoretical[0]
        limits = (0.5 - seen, 0.5) if field.causal else (-0.5 * seen, 0.5 * seen)
        figures = (
            f"sd {field.spread_frames:.2f} frames, {field.spread_seconds:.2f} s; "
            f"could see {seen} frames{' back' if field.causal else ''}"
        )
        label = f"{name}:{' ' if len(name) <= _NAME else chr(10)}{figures}"
        # Each has longer gaps than the one before: that of a file and of what was made from it lie
        # on each other.
        gap = _DASHES * number / len(fields)
        dash = (0, (_DASHES - gap, gap)) if gap else "-"
        axes.plot(
            offset, curve, color=colour, linestyle=dash, marker="o", markersize=2, label=label
        )
        for limit in limits:
            if offset[0] <= limit <= offset[-1]:  # in a short clip it sees to both ends
                axes.axvline(limit, color=colour, linestyle=":", linewidth=0.8)
                dotted = True
    meaning = " (dotted: could see)" if dotted else ""
    axes.set_xlabel(f"frame of the clip, from that of the unit{meaning}", fontsize=8)
    axes.set_ylabel("share of the gradient", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.2)
    axes.legend(
        frameon=False, labelcolor=GREY, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.25)
    )


def _lines(name: str) -> list[str]:
    """A name of a file in lines that fit above a map, broken at its dots, hyphens and slashes."""
    lines = [""]
    for piece in re.split(r"(?=\.)|(?<=[-_/])", name):
        if lines[-1] and len(lines[-1] + piece) > _NAME:
            lines.append("")
        lines[-1] += piece
    return lines


def _cycled(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]
