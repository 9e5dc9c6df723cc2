"""Pictures of training: the curve of a run, confusions, the paper's tables."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stdeploy.inference.evaluation import Evaluation
from stdeploy.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, drawn
from stdeploy.train.ablation import LENGTHS, Cell, Spread, Variant
from stdeploy.train.filter_shares import FilterShares, mean_of_stages

if TYPE_CHECKING:  # they need torch, which takes seconds to load
    from stdeploy.train.order_experiment import Arm
    from stdeploy.train.order_runs import ArmResult

_STAGE_COLOURS = (BLUE, GREEN, ORANGE, PURPLE, GREY)
# More than a panel has arms; the last ones are told apart from the first by their lightness.
_ARM_COLOURS = (*_STAGE_COLOURS, "#c2405c", "#d4a72c", "#57b8d9")
_INFLATION = "inflation"
_TABLE_COLOURS = {"2": BLUE, "3": GREEN, "4a": ORANGE, "4b": ORANGE, "4c": PURPLE}


def draw_curve(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss and accuracies over the epochs.

    Args:
        rows: of metrics.csv.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    epochs = [row["epoch"] for row in rows]
    with drawn(path, extra="train", size=(7, 5), nrows=2, sharex=True) as (upper, lower):
        upper.plot(epochs, [row["loss"] for row in rows], color=ORANGE, marker="o", markersize=3)
        upper.set_ylabel("training loss")
        for name, label, colour in (
            ("accuracy", "training clips", BLUE),
            ("validation_top1", "validation, top-1", GREEN),
        ):
            if name in rows[0]:
                values = [100 * row[name] for row in rows]
                lower.plot(epochs, values, color=colour, marker="o", markersize=3, label=label)
        lower.set_ylabel("accuracy, %")
        lower.set_xlabel("epoch")
        lower.set_ylim(0, 100)
        lower.locator_params(axis="x", integer=True)
        lower.legend(frameon=False, labelcolor=GREY)
        upper.grid(alpha=0.2)
        lower.grid(alpha=0.2)


def draw_filter_shares(rows: Sequence[FilterShares], path: Path) -> None:
    """Draw how the filters of each stage spread over their frames, epoch by epoch.

    Args:
        rows: of filters.csv.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    epochs = sorted({row.epoch for row in rows})
    means = [mean_of_stages([row for row in rows if row.epoch == epoch]) for epoch in epochs]
    with drawn(path, extra="train", size=(7, 5), nrows=2, sharex=True) as (upper, lower):
        for stage, colour in zip(means[0], cycle(_STAGE_COLOURS), strict=False):
            for axes, name in ((upper, "centre"), (lower, "average")):
                values = [100 * each[stage][name] for each in means]
                axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=stage)
        upper.set_ylabel("centre frame, % of energy")
        lower.set_ylabel("average, % of energy")
        lower.set_xlabel("epoch")
        lower.locator_params(axis="x", integer=True)
        upper.legend(frameon=False, labelcolor=GREY)
        upper.grid(alpha=0.2)
        lower.grid(alpha=0.2)


def draw_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draw the confusion of the classes, each row in shares of its videos.

    Args:
        evaluation: to draw.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    count = len(evaluation.labels)
    videos = evaluation.confusion.sum(axis=1, keepdims=True)
    shares = evaluation.confusion / np.maximum(videos, 1)
    side = float(np.clip(2.5 + 0.3 * count, 4.0, 24.0))
    with drawn(path, extra="train", size=(side + 1.0, side)) as axes:
        image = axes.imshow(shares, cmap="viridis", vmin=0.0, vmax=1.0)
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.7)
        bar.set_label("share of the videos of a class")
        if count <= 60:  # more names than that cannot be read
            axes.set_xticks(range(count), evaluation.labels, rotation=90)
            axes.set_yticks(range(count), evaluation.labels)
        if count <= 12:
            for row, column in np.ndindex(shares.shape):
                number = str(evaluation.confusion[row, column])
                colour = "w" if shares[row, column] < 0.6 else "k"
                axes.text(column, row, number, ha="center", va="center", color=colour)
        axes.set_xlabel("best label")
        axes.set_ylabel("class")


def draw_tables(found: Sequence[Cell], results: Mapping[Variant, Spread], path: Path) -> None:
    """Draw the rows of the paper's tables: every seed a dot, their mean a line, the paper beside.

    Args:
        found: from `ablation.cells`.
        results: of the variants that have been run; the others are left out.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = [cell for cell in found if cell.variant in results]
    size = (9.0, 1.4 + 0.34 * len(rows))
    with drawn(path, extra="train", size=size, ncols=2, sharey=True) as (here, paper):
        for place, cell in enumerate(rows):
            colour, spread = _TABLE_COLOURS[cell.table], results[cell.variant]
            # No bars: the axes do not begin at 0.
            here.scatter(spread.mean, place, color=colour, marker="|", s=260, linewidths=2)
            here.scatter(spread.values, [place] * len(spread.values), color=colour, s=16)
            paper.scatter(cell.paper, place, color=colour, marker="D", s=24)
        here.set_yticks(range(len(rows)), [_name(cell) for cell in rows])
        here.invert_yaxis()
        here.set_xlabel("top-1 here, %; a dot for each seed")
        paper.set_xlabel("top-1 in the paper, mini-SSv2, %")
        for axes, values in (
            (here, [value for cell in rows for value in results[cell.variant].values]),
            (paper, [cell.paper for cell in rows]),
        ):
            low, high = min(values, default=0.0), max(values, default=100.0)
            room = max(2.0, 0.15 * (high - low))
            axes.set_xlim(max(0.0, low - room), min(100.0, high + room))
            axes.grid(alpha=0.2)


def draw_gaps(results: "Mapping[Arm, ArmResult]", path: Path) -> None:
    """Draw the accuracy of arms of the order experiment by the gap between the events.

    A panel for each question; augmented arms have dashed lines.

    Args:
        results: of arms that are done; mean over the seeds, with the range of them.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels = _panels(results)
    with drawn(path, extra="train", size=(4.2 * len(panels), 4.2), ncols=len(panels)) as grid:
        for axes, (title, arms) in zip(np.atleast_1d(grid), panels.items(), strict=True):
            for arm, colour in zip(arms, cycle(_ARM_COLOURS), strict=False):
                gaps = list(results[arm].by_gap)
                values = [results[arm].by_gap[gap] for gap in gaps]
                means = [float(np.mean(each)) for each in values]
                axes.plot(
                    gaps, means, _line_of(arm), color=colour, markersize=3, label=_label(arm, title)
                )
                low, high = [min(each) for each in values], [max(each) for each in values]
                axes.fill_between(gaps, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("frames from one event to the next")
            axes.set_ylabel("accuracy, %")
            axes.grid(alpha=0.2)
            axes.legend(frameon=False, labelcolor=GREY, fontsize=8)


def draw_learning(results: "Mapping[Arm, ArmResult]", path: Path) -> None:
    """Draw how arms of the order experiment learn: loss and accuracy over the steps.

    A column for each question; augmented arms have dashed lines.

    Args:
        results: of arms that are done; mean over the seeds.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels = _panels(results)
    size = (4.2 * len(panels), 6.0)
    with drawn(
        path, extra="train", size=size, nrows=2, ncols=len(panels), sharex=True, squeeze=False
    ) as grid:
        for column, (title, arms) in enumerate(panels.items()):
            upper, lower = grid[0][column], grid[1][column]
            for arm, colour in zip(arms, cycle(_ARM_COLOURS), strict=False):
                steps = [step for step, _, _ in results[arm].curve]
                for axes, place in ((upper, 1), (lower, 2)):
                    means = [float(np.mean(row[place])) for row in results[arm].curve]
                    line = _line_of(arm)
                    axes.plot(
                        steps, means, line, color=colour, markersize=3, label=_label(arm, title)
                    )
            upper.set_title(title, fontsize=10)
            upper.set_ylabel("training loss")
            lower.set_ylabel("accuracy, %")
            lower.set_xlabel("steps")
            lower.legend(frameon=False, labelcolor=GREY, fontsize=8)
            upper.grid(alpha=0.2)
            lower.grid(alpha=0.2)


def _panels(arms: "Iterable[Arm]") -> "dict[str, list[Arm]]":
    """The arms that answer each question, in their order; an arm may answer several."""
    every = list(arms)
    plain = [arm for arm in every if "," not in arm.name]
    singles = [arm for arm in plain if arm.branches == "single" and arm.eta == 1]
    of_b1 = [arm for arm in every if arm.lengths == "b1" and (arm in plain or arm.augmented)]
    read_otherwise = {
        (arm.lengths, arm.branches, arm.eta) for arm in every if arm not in plain + of_b1
    }
    inflated = [
        arm
        for arm in every
        if not arm.augmented and (arm.lengths, arm.branches, arm.eta) in read_otherwise
    ]
    panels = {
        "temporal lengths": singles,
        "branches and augmentation": of_b1,
        _INFLATION: inflated,
    }
    return {title: found for title, found in panels.items() if found} or {"": every}


def _label(arm: "Arm", title: str) -> str:
    """The name of an arm; where inflation is asked about, with its reading."""
    unnamed = title == _INFLATION and not arm.name.endswith(arm.inflation)
    return f"{arm.name}, {arm.inflation}" if unnamed else arm.name


def _line_of(arm: "Arm") -> str:
    return "--o" if arm.augmented else "-o"


def _name(cell: Cell) -> str:
    if cell.table == "2":
        return f"2: {cell.row} ({'-'.join(map(str, LENGTHS[cell.row]))})"
    what = {"3": "eta", "4a": "r", "4b": "sigma", "4c": "augmentation"}[cell.table]
    return f"{cell.table}: {cell.column}, {what} {cell.row}"
