"""What the order experiment came to, as Markdown: arms, contrasts, power, accuracy by the gap."""

import statistics
from collections.abc import Mapping, Sequence

from stdeploy.train.order_experiment import (
    CONTRASTS,
    LEARNT_LOSS,
    WANTED_POINTS,
    Arm,
    Interval,
    interval,
)
from stdeploy.train.order_runs import ArmResult, Validation

_SETS: tuple[Validation, ...] = ("alike", "moving camera", "other speeds")


def to_markdown(results: Mapping[Arm, ArmResult]) -> str:
    """All tables.

    Args:
        results: of the arms that are done, in the order in which they are shown.
    """
    parts = ["## Arms", "", *_arms(results), "", "## Contrasts", "", *_contrasts(results)]
    parts += ["", "## Accuracy by the gap", "", *_gaps(results)]
    return "\n".join(parts) + "\n"


def learnt(result: ArmResult) -> bool:
    """Whether all seeds of an arm have learnt what they are trained on."""
    return max(result.losses) < LEARNT_LOSS


def _arms(results: Mapping[Arm, ArmResult]) -> list[str]:
    lines = [
        f"| arm | {' | '.join(f'{name}, %' for name in _SETS)} | training loss | minutes |",
        "| --- |" + " ---: |" * (len(_SETS) + 2),
    ]
    for arm, result in results.items():
        cells = [_spread(result.accuracies[name]) for name in _SETS]
        mark = "" if learnt(result) else " (not learnt)"
        loss = f"{statistics.fmean(result.losses):.3f}{mark}"
        minutes = f"{result.seconds / 60:.1f}"
        lines.append(f"| {arm.name} | {' | '.join(cells)} | {loss} | {minutes} |")
    return lines


def _contrasts(results: Mapping[Arm, ArmResult]) -> list[str]:
    by_name = {arm.name: result for arm, result in results.items()}
    lines = [
        "| contrast | set | difference, points | 95 % interval | paper | seeds for "
        f"{WANTED_POINTS:g} point |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for contrast in CONTRASTS:
        if not set(contrast.weights) <= set(by_name):
            continue
        compared = [by_name[name] for name in contrast.weights]
        if min(len(result.losses) for result in compared) < 2:
            continue
        unlearnt = [name for name in contrast.weights if not learnt(by_name[name])]
        for name in _SETS:
            found = interval(contrast, {n: by_name[n].accuracies[name] for n in contrast.weights})
            said = contrast.name + (f" (not learnt: {', '.join(unlearnt)})" if unlearnt else "")
            lines.append(
                f"| {said} | {name} | {found.mean:+.2f} | {_bounds(found)} | "
                f"{contrast.paper_points:+.2f} | {found.needed_seeds} |"
            )
    return lines


def _gaps(results: Mapping[Arm, ArmResult]) -> list[str]:
    gaps = list(next(iter(results.values())).by_gap) if results else []
    lines = [
        f"| arm | {' | '.join(f'{gap} frames' for gap in gaps)} |",
        "| --- |" + " ---: |" * len(gaps),
    ]
    for arm, result in results.items():
        cells = [f"{statistics.fmean(result.by_gap[gap]):.1f}" for gap in gaps]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _bounds(found: Interval) -> str:
    return f"{found.mean - found.half_width:+.2f} to {found.mean + found.half_width:+.2f}"
