"""The paper's Tables 2, 3 and 4 as grids over a recipe: which settings, and what came out.

Pure arithmetic; the runs are started by `stdeploy ablate`.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import SpecError

Table = Literal["2", "3", "4a", "4b", "4c"]
Size = Literal["small", "full"]

# t1..t5 of Table 2, by the name of the row.
LENGTHS: Mapping[str, tuple[int, int, int, int, int]] = {
    "orig.": (3, 3, 3, 3, 3),
    "a": (1, 3, 3, 3, 3),
    "b": (1, 1, 3, 3, 3),
    "c": (1, 1, 1, 3, 3),
    "d": (1, 1, 1, 1, 3),
    "2D": (1, 1, 1, 1, 1),
    "e": (3, 1, 1, 1, 1),
    "f": (3, 3, 1, 1, 1),
    "g": (3, 3, 3, 1, 1),
    "h": (3, 3, 3, 3, 1),
    "b1": (1, 1, 3, 3, 5),
    "b2": (1, 1, 3, 5, 5),
    "b3": (1, 1, 5, 5, 5),
    "c1": (1, 1, 1, 3, 5),
    "c2": (1, 1, 1, 5, 5),
}
# Accuracy in the paper, per cent on mini-SSv2.
_PAPER_2 = {
    "orig.": 67.54,
    "a": 67.71,
    "b": 68.07,
    "c": 66.53,
    "d": 63.20,
    "2D": 38.39,
    "e": 59.70,
    "f": 62.37,
    "g": 64.08,
    "h": 66.51,
    "b1": 68.83,
    "b2": 67.62,
    "b3": 67.58,
    "c1": 67.80,
    "c2": 67.18,
}
_PAPER_3 = {
    "1": (68.83, 68.17),
    "2": (67.51, 68.82),
    "4": (62.90, 68.54),
    "inf": (54.83, 67.79),
}
_PAPER_4A = {
    "1": (68.62, 68.84),
    "2": (68.83, 68.82),
    "4": (65.73, 67.06),
    "Unif[1,4]": (68.81, 69.69),
}
_PAPER_4B = {"0": (68.83, 68.82), "1": (68.74, 69.00), "2": (67.93, 69.19), "4": (68.52, 68.81)}
_PAPER_4C = {"none": (67.54, 68.83, 68.82), "both": (67.70, 68.74, 69.98)}


@dataclasses.dataclass(frozen=True)
class Variant:
    """Settings of one network and its training.

    Attributes:
        lengths: t1..t5.
        branches: "single" or "multi".
        eta: of eq. (6).
        strides: sampling rates of eq. (8), relative to the recipe's own, which counts as 2.
        sigma: of eq. (9), in pixels a frame, for 32 frames of 224 px.
    """

    lengths: tuple[int, int, int, int, int]
    branches: Literal["single", "multi"] = "single"
    eta: float = 1.0
    strides: tuple[int, ...] = (2,)
    sigma: float = 0.0

    @property
    def name(self) -> str:
        """Short and unique, for a folder."""
        lengths = "".join(map(str, self.lengths))
        strides = "".join(map(str, self.strides))
        return f"{self.branches}-t{lengths}-eta{self.eta:g}-r{strides}-sigma{self.sigma:g}"

    def settings(self, clip: ClipSpec) -> list[str]:
        """What to set in a recipe.

        The paper's rates and pixels belong to r = 2 and to 32 frames of 224 px. A recipe with
        another stride gets the same speeds, and one with other clips an ego-motion that moves the
        crop over the same share of the picture by the end of a clip.

        Args:
            clip: of the recipe.

        Raises:
            SpecError: the recipe's stride cannot be halved where the table needs that.
        """
        scaled = [stride * clip.frame_stride for stride in self.strides]
        if any(stride % 2 for stride in scaled):
            raise SpecError(
                f"the tables need rates of {'/'.join(map(str, self.strides))} halves of the "
                f"recipe's frame_stride {clip.frame_stride}; give it an even one"
            )
        strides = [stride // 2 for stride in scaled]
        sigma = self.sigma * clip.crop_px / 224 * 32 / clip.num_frames
        eta = "inf" if self.eta == float("inf") else f"{self.eta:g}"
        return [
            f"model.temporal_lengths={list(self.lengths)}",
            f"model.branches={self.branches}",
            f"model.eta={eta if eta == 'inf' else float(eta)}",
            # One rate is also that of the evaluation, as in the paper; of several, the middle is.
            *([f"clip.frame_stride={strides[0]}"] if len(strides) == 1 else []),
            f"augmentation.frame_strides={strides if len(strides) > 1 else []}",
            f"augmentation.ego_motion_sigma_px={sigma}",
        ]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A place in one of the tables.

    Attributes:
        table: which.
        row: its name there.
        column: likewise.
        variant: what is trained for it.
        paper: its accuracy in the paper, per cent.
    """

    table: Table
    row: str
    column: str
    variant: Variant
    paper: float


# What the rows of a table tell apart.
_ROWS: Mapping[Table, str] = {
    "2": "network",
    "3": "eta",
    "4a": "sampling rates",
    "4b": "ego-motion, sigma",
    "4c": "augmentation",
}
_B1 = LENGTHS["b1"]
_UNIF = (1, 2, 3, 4)
_KINDS: dict[str, tuple[Literal["single", "multi"], float]] = {
    "single filter": ("single", 1.0),
    "multi-filter": ("multi", 2.0),
}


def cells(tables: Iterable[str], size: Size) -> list[Cell]:
    """The places of some tables.

    "small" keeps what the paper's argument needs: no temporal filters, the original, shallow
    layers without, t5 = 5, branches with eta 1 and 2, and both augmentations.

    Args:
        tables: of "2", "3", "4a", "4b", "4c"; "4" is all three.
        size: "small" or "full".

    Raises:
        SpecError: no such table, or the small size leaves nothing of it.
    """
    named = list(tables)
    wanted = [part for name in named for part in (("4a", "4b", "4c") if name == "4" else (name,))]
    unknown = [name for name in wanted if name not in ("2", "3", "4a", "4b", "4c")]
    if unknown:
        raise SpecError(f"there is no table {unknown[0]!r} to repeat; choose of 2, 3 and 4")
    found = [cell for cell in _all_cells() if cell.table in wanted]
    kept = [cell for cell in found if size == "full" or _in_small(cell)]
    empty = [name for name in named if name not in {"4", *(cell.table for cell in kept)}]
    if empty:
        raise SpecError(f"the small size has no row of table {empty[0]}; add --size full")
    return kept


def _in_small(cell: Cell) -> bool:
    return (
        (cell.table == "2" and cell.row in ("2D", "orig.", "b", "b1"))
        or (cell.table == "3" and cell.column == "multi-branch" and cell.row in ("1", "2"))
        or (cell.table == "4c" and cell.column != "original")
    )


def _all_cells() -> Iterable[Cell]:
    for row, lengths in LENGTHS.items():
        yield Cell("2", row, "accuracy", Variant(lengths), _PAPER_2[row])
    for row, figures in _PAPER_3.items():
        for branches, paper in zip(("single", "multi"), figures, strict=True):
            kind: Literal["single", "multi"] = "multi" if branches == "multi" else "single"
            column = "multi-branch" if kind == "multi" else "single filter"
            yield Cell("3", row, column, Variant(_B1, kind, float(row)), paper)
    for row, figures in _PAPER_4A.items():
        strides = _UNIF if row.startswith("Unif") else (int(row),)
        for (column, (branches, eta)), paper in zip(_KINDS.items(), figures, strict=True):
            yield Cell("4a", row, column, Variant(_B1, branches, eta, strides), paper)
    for row, figures in _PAPER_4B.items():
        for (column, (branches, eta)), paper in zip(_KINDS.items(), figures, strict=True):
            yield Cell("4b", row, column, Variant(_B1, branches, eta, sigma=float(row)), paper)
    for row, (original, single, multi) in _PAPER_4C.items():
        strides, sigma = (_UNIF, 2.0) if row == "both" else ((2,), 0.0)
        plain = Variant(LENGTHS["orig."], strides=strides, sigma=sigma)
        yield Cell("4c", row, "original", plain, original)
        for (column, (branches, eta)), paper in zip(_KINDS.items(), (single, multi), strict=True):
            yield Cell("4c", row, column, Variant(_B1, branches, eta, strides, sigma), paper)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Accuracies of several seeds, per cent.

    Attributes:
        values: one a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the seeds; None of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if self.deviation is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {self.deviation:.1f}"


def to_markdown(found: Sequence[Cell], results: Mapping[Variant, Spread]) -> str:
    """The tables with mean and spread, and the paper's figure beside.

    Args:
        found: from `cells`.
        results: of the variants that have been run.
    """
    lines: list[str] = []
    for table in dict.fromkeys(cell.table for cell in found):
        inside = [cell for cell in found if cell.table == table]
        columns = list(dict.fromkeys(cell.column for cell in inside))
        head = [f"{column}, % | paper, mini-SSv2" for column in columns]
        lines += [f"**Table {table}**", "", f"| {_ROWS[table]} | {' | '.join(head)} |"]
        lines += ["| --- |" + " ---: | ---: |" * len(columns)]
        for row in dict.fromkeys(cell.row for cell in inside):
            texts = []
            for column in columns:
                cell = next((c for c in inside if (c.row, c.column) == (row, column)), None)
                spread = results.get(cell.variant) if cell else None
                texts.append(f"{spread or ''} | {f'{cell.paper:.2f}' if cell else ''}")
            name = f"{row} ({'-'.join(map(str, LENGTHS[row]))})" if table == "2" else row
            lines.append(f"| {name} | {' | '.join(texts)} |")
        lines.append("")
    return "\n".join(lines)
