"""A benchmark as tables: text, Markdown, JSON and a picture."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from stdeploy.artifacts.files import whole_file
from stdeploy.bench.measure import Report, Row
from stdeploy.plotting.style import BLUE, GREEN, GREY, ORANGE, PURPLE, drawn

COLUMNS = (
    "case",
    "batch",
    "clips/s",
    "x unfused",
    "p50 ms",
    "p95",
    "p99",
    "runs",
    "load s",
    "memory GB",
    "GPU GB",
    "error",
    "% of peak",
)
# What a narrow terminal goes without, first to last; the files have them all.
_LEAST_IMPORTANT = ("runs", "p99", "memory GB", "load s", "p95", "error", "batch")
_COMMAND = re.compile(r"stdeploy classify .+")
_GAP = 2  # characters between columns
# On white and on black alike.
_COLOURS, _OTHER = {"fp32": BLUE, "fp16": GREEN, "bf16": PURPLE}, ORANGE


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, one cell a column of COLUMNS."""
    if row.failed is not None:
        return (row.name, str(row.batch), "failed", *[""] * (len(COLUMNS) - 3))
    p50, p95, p99 = row.latency_ms
    return (
        row.name,
        str(row.batch),
        f"{row.clips_per_second:.3g}",
        "" if row.speedup is None else f"{row.speedup:.2f}",
        f"{p50:.4g}",
        f"{p95:.4g}",
        f"{p99:.4g}",
        str(row.runs),
        f"{row.load_seconds:.1f}",
        f"{row.peak_bytes / 1e9:.2f}",
        "" if row.gpu_bytes is None else f"{row.gpu_bytes / 1e9:.2f}",
        "" if row.error is None else f"{row.error:.1e}",
        "" if row.peak_share is None else f"{row.peak_share:.0%}",
    )


def shown(table: Sequence[Sequence[str]], width: int) -> tuple[int, ...]:
    """Which columns to print: none that is empty, and the more important ones if not all fit.

    Args:
        table: rows of cells, one a column of COLUMNS.
        width: of the terminal, in characters.
    """
    columns = list(zip(COLUMNS, *table, strict=True))
    kept = [number for number, (_, *texts) in enumerate(columns) if any(texts)]
    for name in _LEAST_IMPORTANT:
        if sum(max(map(len, columns[number])) + _GAP for number in kept) <= width:
            break
        kept = [number for number in kept if COLUMNS[number] != name]
    return tuple(kept)


def summary(report: Report) -> Iterator[str]:
    """What columns mean, failures, the winners and their commands, and the peaks."""
    if any(row.speedup is not None for row in report.rows):
        yield "x unfused: times the clips/s of the unfused network on torch in fp32"
    if any(row.peak_share is not None for row in report.rows):
        yield "% of peak: share of what the fastest matrix product here did in the same rounds"
    for row in report.rows:
        if row.failed is not None:
            yield f"{row.name}, batch {row.batch}, failed: {row.failed}"
    precisions = dict.fromkeys(row.precision for row in report.rows)
    for precision in precisions:
        best = report.winner(precision)
        if best is not None:
            yield (
                f"fastest in {precision}: {best.name}, batch {best.batch}, "
                f"{best.clips_per_second:.3g} clips/s: {best.command}"
            )
    best = report.winner()
    if best is not None:
        yield f"fastest of all: {best.name}, batch {best.batch}: {best.command}"
    for kind, peak in sorted(report.peaks.items()):
        yield f"peak, a matrix product on {kind}: " + (
            f"{peak / 1e12:.3g} Tops/s"
            if peak is not None
            else "cannot be told, nor shares of it: a network did more, so other work slowed the "
            "product; measure again when the machine has nothing else to do"
        )


def to_json(report: Report) -> str:
    """All figures, for programs."""
    return json.dumps(dataclasses.asdict(report), indent=1)


def to_markdown(report: Report) -> str:
    """The table, the winners and the machine, for a file in a repository."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    lines = [
        f"## {report.network}",
        "",
        f"{report.date}, {machine}, {report.rounds} rounds.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"| --- |{' ---: |' * (len(COLUMNS) - 1)}",
        *(f"| {' | '.join(cells(row))} |" for row in report.rows),
        "",
        *("- " + _COMMAND.sub(r"`\g<0>`", line) for line in summary(report)),
    ]
    return "\n".join(lines) + "\n"


def write_text(text: str, path: Path) -> None:
    """Write a report whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


def draw(report: Report, path: Path) -> None:
    """Draw clips per second as bars, for light and dark pages.

    Args:
        report: what was measured.
        path: ends in .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = [row for row in report.rows if row.failed is None]
    several = len({row.batch for row in rows}) > 1
    names = [f"{row.name}, batch {row.batch}" if several else row.name for row in rows]
    rates = [row.clips_per_second for row in rows]
    colours = [_COLOURS.get(row.precision, _OTHER) for row in rows]
    places = range(len(names))  # by place: two bars of one name would hide each other
    with drawn(path, extra="bench", size=(8, 1.2 + 0.42 * len(rows))) as axes:
        bars = axes.barh(places, rates, color=colours)
        axes.set_yticks(places, names)
        axes.bar_label(bars, labels=[f"{rate:.3g}" for rate in rates], padding=4, color=GREY)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel("clips per second (more is better)")
        axes.set_title(report.network, loc="left", fontsize=11, color=GREY)
