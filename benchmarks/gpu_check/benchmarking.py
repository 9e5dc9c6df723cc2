"""Artifacts measured in turns, for the stages that compare ways to run them."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from networks import Where
from results import FAILED, PASSED, Outcome

from stdeploy.artifacts.card import read_card
from stdeploy.bench.measure import measure
from stdeploy.bench.tables import summary
from stdeploy.bench.worker import Case, cases_for


def benchmark(
    outcome: Outcome,
    paths: Sequence[Path],
    backends: tuple[str, ...],
    where: Where,
    *,
    batches: tuple[int, ...] = (1, 8),
    chosen: Callable[[Case], bool] = lambda _case: True,
    compiled: bool = False,
) -> None:
    """Measure artifacts on some backends in turns, beside the network as it was trained.

    That is run in fp32, and beside others of torch also in fp16. A CPU, in a rehearsal, has few
    ways: each file is run in one of them.

    Args:
        outcome: gets the rows, as far as they are measured, and the winners.
        paths: artifacts; the first is the network as it was trained.
        backends: that run the others.
        where: it is measured.
        batches: clips at a time.
        chosen: of all ways to run them.
        compiled: whether torch.compile is among those.
    """
    trained = ("fp32", "fp16") if "torch" in backends else ("fp32",)
    devices = ("cpu",) if where.rehearsal else ("cuda",)
    cases = [
        case
        for case in cases_for(paths, devices=devices, compiled=compiled)
        if (case.is_baseline and case.precision in trained)
        or (case.options.backend in backends and (where.rehearsal or chosen(case)))
    ]
    if where.rehearsal:
        cases = list({case.artifact: case for case in cases}.values())
    report = measure(
        cases,
        batches=(1,) if where.rehearsal else batches,
        rounds=1 if where.rehearsal else 2,
        turn_seconds=0.0 if where.rehearsal else 0.3,
        macs=macs_of(paths[0]),
        progress=lambda what, done, total: print(f"{what} {done}/{total}", flush=True),
        so_far=outcome.put_report,
    )
    for row in report.rows:
        if row.failed:
            outcome.add(f"{row.name}, batch {row.batch}", FAILED, row.failed)
    best = report.winner()
    if best is not None:
        said = f"{best.name}, {best.clips_per_second:.3g} clips/s"
        outcome.add(f"fastest, batch {best.batch}", PASSED, said)
    print("\n".join(summary(report)))


def macs_of(path: Path) -> int | None:
    """Multiply-accumulates of a network of ours for one clip; None where nothing counts them."""
    if not importlib.util.find_spec("fvcore"):
        return None
    from stdeploy.export.flops import count_flops

    card = read_card(path)
    return count_flops(card.model, num_frames=card.clip.num_frames, side_px=card.clip.crop_px).macs
