"""The look of our pictures: for light and dark pages, written whole or not at all."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stdeploy.artifacts.files import checked_output, whole_file
from stdeploy.errors import ArtifactError
from stdeploy.optional_packages import require

GREY = "#888888"
BLUE, GREEN, ORANGE, PURPLE = "#4c8bf5", "#2ca58d", "#e8833a", "#9b6bd6"
_DPI = 150


def checked_picture(path: Path) -> Path:
    """A name that a picture may have.

    Raises:
        ArtifactError: it ends in neither .png nor .svg, or there is no such folder.
    """
    if path.suffix not in (".png", ".svg"):
        raise ArtifactError(f"cannot write {str(path)!r}: the name has to end in .png or .svg")
    return checked_output(path, path.suffix)


@contextlib.contextmanager
def drawn(path: Path, *, extra: str, size: tuple[float, float], **grid: Any) -> Iterator[Any]:
    """Give a figure to draw in; style it and write it when the caller is done.

    Args:
        path: ends in .png or .svg.
        extra: of stdeploy that brings matplotlib to the caller.
        size: width and height in inches.
        grid: arguments of matplotlib's `subplots`, or with `mosaic` of its `subplot_mosaic`.

    Yields:
        What those give as axes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", extra=extra, purpose="drawing a picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")  # not pyplot, which keeps global state
    FigureCanvasAgg(figure)
    yield figure.subplot_mosaic(**grid) if "mosaic" in grid else figure.subplots(**grid)
    for axes in figure.axes:
        _style(axes)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], transparent=True, dpi=_DPI)


def marker_key(figure: Any, markers: Mapping[str, tuple[str, str]], *, title: str) -> None:
    """Say below a picture what its markers stand for.

    Args:
        figure: of the picture.
        markers: meaning and colour of each, by matplotlib's sign for it.
        title: a line above them.
    """
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            marker=marker,
            linestyle="none",
            markersize=5,
            color=colour,
            markeredgecolor="black",
            label=label,
        )
        for marker, (label, colour) in markers.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        labelcolor=GREY,
        fontsize=7,
        title=title,
        title_fontproperties={"size": 7},
    ).get_title().set_color(GREY)


def _style(axes: Any) -> None:
    axes.tick_params(colors=GREY)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    axes.title.set_color(GREY)
    if not axes.images:  # a picture in a picture keeps its frame
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
    for spine in axes.spines.values():
        spine.set_color(GREY)
