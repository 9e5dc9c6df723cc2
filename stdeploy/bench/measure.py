"""Measuring cases in turns: what slows the machine for a while slows all of them alike."""

import dataclasses
import datetime
import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.bench.worker import Case, FailedError, Loaded, Turn, Worker
from stdeploy.hardware import cpu_count, cpu_name, gpus

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One case at one batch size.

    Attributes:
        name: of the case.
        artifact: file name.
        backend: of the case.
        device: where it ran, in words.
        precision: arithmetic of the convolutions.
        batch: clips at a time.
        clips_per_second: batch over the median latency.
        latency_ms: median (p50), p95 and p99 of a batch.
        runs: how many latencies were measured.
        load_seconds: from the file to the verified answer to the golden clip.
        peak_bytes: largest memory of its process.
        gpu_bytes: memory of the GPU that it held; None where that is not known.
        error: relative error of the golden clip against the float32 parent.
        peak_share: arithmetic of the fused network over that of a matrix product in the same
            precision, in the same run; None where that is not known.
        speedup: clips per second over those of the unfused network in eager float32, on the CPU
            where that was measured, else on the GPU.
        command: what a user types to run videos so.
        failed: why there are no figures; they are then 0 or None.
    """

    name: str
    artifact: str
    backend: str
    device: str
    precision: str
    batch: int
    clips_per_second: float = 0.0
    latency_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    runs: int = 0
    load_seconds: float = 0.0
    peak_bytes: int = 0
    gpu_bytes: int | None = None
    error: float | None = None
    peak_share: float | None = None
    speedup: float | None = None
    command: str = ""
    failed: str | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """All rows of one run.

    Attributes:
        network: what was measured, in words.
        machine: processor, GPU, counts.
        date: when, UTC, ISO 8601.
        rounds: turns of each case.
        macs: multiply-accumulates of the fused network for one clip; None if not counted.
        peaks: operations per second of the fastest matrix product, by "device precision"; None
            where a case did more, so that other work must have slowed the product in every round.
        rows: one a case and batch size.
    """

    network: str
    machine: dict[str, str]
    date: str
    rounds: int
    macs: int | None
    peaks: dict[str, float | None]
    rows: tuple[Row, ...]

    def winner(self, precision: str | None = None) -> Row | None:
        """The fastest row of a precision, or of all."""
        able = [r for r in self.rows if r.failed is None and precision in (None, r.precision)]
        return max(able, key=lambda row: row.clips_per_second, default=None)


@dataclasses.dataclass
class _Entry:
    """What is known of a case so far."""

    case: Case
    worker: Worker
    loaded: Loaded | None = None
    turns: dict[int, list[Turn]] = dataclasses.field(default_factory=dict)
    failed: dict[int, str] = dataclasses.field(default_factory=dict)


def measure(
    cases: Sequence[Case],
    *,
    batches: Sequence[int],
    rounds: int,
    turn_seconds: float,
    macs: int | None,
    progress: Progress = lambda _what, _done, _total: None,
    so_far: Callable[[Report], None] = lambda _report: None,
) -> Report:
    """Measure the ways of one network, each in a process of its own, in turns.

    Args:
        cases: what to measure.
        batches: batch sizes.
        rounds: turns of each case at each batch size.
        turn_seconds: how long a turn runs at least; one run if that takes longer.
        macs: multiply-accumulates of the fused network for one clip, for the share of the peak.
        progress: is told what begins, how much is done before it and of how much.
        so_far: gets after every turn what has been measured until then, without the rows that have
            had none.
    """
    entries: list[_Entry] = []
    peaks: dict[str, float] = {}
    yardstick = Worker(None)
    summarised = functools.partial(_report, entries, rounds=rounds, macs=macs)
    try:
        for number, case in enumerate(cases):
            progress(f"opening {case.title}", number, len(cases))
            if number == len(entries):
                entries.append(_Entry(case, Worker(case)))
            if case.options.device == "cuda":
                # The others load their libraries meanwhile, which takes longer than opening.
                entries += [_Entry(later, Worker(later)) for later in cases[len(entries) :]]
            _open(entries[number], batches)
        kinds = tuple(dict.fromkeys(map(_kind, cases)))
        total = len(batches) * rounds * (len(entries) + len(kinds))
        done = itertools.count()
        for batch, number in itertools.product(batches, range(1, rounds + 1)):
            where = f"round {number} of {rounds}, batch {batch}"
            for entry in entries:
                progress(f"{where}: {entry.case.title}", next(done), total)
                _take_turn(entry, batch, turn_seconds)
                so_far(summarised(batches=batches, peaks=peaks))
            for kind in kinds:
                progress(f"{where}: peak of {kind}", next(done), total)
                found = _peak(yardstick, kind)
                if found is not None:
                    peaks[kind] = max(found, peaks.get(kind, 0.0))
            so_far(summarised(batches=batches, peaks=peaks))
        progress("ending processes", total, total)
    finally:
        for entry in entries:
            entry.worker.close()
        yardstick.close()
    return summarised(batches=batches, peaks=peaks)


def _report(
    entries: Sequence[_Entry],
    *,
    batches: Sequence[int],
    peaks: Mapping[str, float],
    rounds: int,
    macs: int | None,
) -> Report:
    """All rows of the turns that there have been, and of what failed."""
    cases = [entry.case for entry in entries]
    known = [
        (entry, batch)
        for batch in batches
        for entry in entries
        if entry.turns.get(batch) or batch in entry.failed
    ]
    rows = [_row(entry, batch) for entry, batch in known]
    rows, told = with_shares(rows, [_kind(entry.case) for entry, _ in known], macs, peaks)
    return Report(
        network=_network(cases[0]),
        machine=_machine(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        rounds=rounds,
        macs=macs,
        peaks=told,
        rows=tuple(_with_speedup(rows, cases)),
    )


def _kind(case: Case) -> str:
    return f"{case.options.device} {case.precision}"


def _peak(yardstick: Worker, kind: str) -> float | None:
    try:
        return yardstick.peak(*kind.split())
    except FailedError:
        return None  # shares are left out; the cases do not depend on it


def _open(entry: _Entry, batches: Sequence[int]) -> None:
    try:
        entry.loaded = entry.worker.load()
    except FailedError as error:
        entry.failed = dict.fromkeys(batches, str(error))


def _take_turn(entry: _Entry, batch: int, seconds: float) -> None:
    if batch in entry.failed:
        return
    try:
        entry.turns.setdefault(batch, []).append(entry.worker.turn(batch, seconds))
    except FailedError as error:
        entry.failed[batch] = str(error)


def _row(entry: _Entry, batch: int) -> Row:
    case, turns = entry.case, entry.turns.get(batch, [])
    row = Row(
        name=case.name,
        artifact=case.artifact.name,
        backend=case.options.backend,
        device=entry.loaded.device if entry.loaded else case.options.device,
        precision=case.precision,
        batch=batch,
        command=case.command,
        failed=entry.failed.get(batch),
    )
    if row.failed is not None or entry.loaded is None or not turns:
        return row
    latencies = [second * 1e3 for turn in turns for second in turn.seconds]
    rate = batch * 1e3 / statistics.median(latencies)
    p50, p95, p99 = (float(value) for value in np.percentile(latencies, (50, 95, 99)))
    return dataclasses.replace(
        row,
        clips_per_second=rate,
        latency_ms=(p50, p95, p99),
        runs=len(latencies),
        load_seconds=entry.loaded.seconds,
        peak_bytes=turns[-1].peak_bytes,
        gpu_bytes=turns[-1].gpu_bytes,
        error=entry.loaded.error,
    )


def with_shares(
    rows: Sequence[Row], kinds: Sequence[str], macs: int | None, peaks: Mapping[str, float]
) -> tuple[list[Row], dict[str, float | None]]:
    """Rows with their shares of the peaks, and the peaks that can be told. Pure.

    What a case exceeds is no peak: no row of its kind gets a share of it.

    Args:
        rows: without shares.
        kinds: "device precision" of each.
        macs: multiply-accumulates of the fused network for one clip; None if not counted.
        peaks: operations per second that were measured, by kind.
    """
    reached = [2 * (macs or 0) * row.clips_per_second for row in rows]
    told: dict[str, float | None] = dict(peaks)
    for kind, done in zip(kinds, reached, strict=True):
        if done > peaks.get(kind, math.inf):
            told[kind] = None
    shared = []
    for row, kind, done in zip(rows, kinds, reached, strict=True):
        peak = told.get(kind)
        shared.append(dataclasses.replace(row, peak_share=done / peak if done and peak else None))
    return shared, told


def _with_speedup(rows: Sequence[Row], cases: Sequence[Case]) -> list[Row]:
    """Rows with their speed over that of the unfused network, batch by batch."""
    baselines = sorted(c.name for c in cases if c.is_baseline and c.precision == "fp32")
    # "torch cpu ..." comes before "torch cuda ...".
    rates = {row.batch: row.clips_per_second for row in rows if row.name in baselines[:1]}
    return [
        dataclasses.replace(row, speedup=row.clips_per_second / rates[row.batch])
        if rates.get(row.batch)
        else row
        for row in rows
    ]


def _network(case: Case) -> str:
    model, clip = case.card.model, case.card.clip
    words = [model.architecture]
    if isinstance(model, ModelSpec):
        words.append("-".join(str(length) for length in model.temporal_lengths))
        words += ["causal"] if model.causal else []
    elif model.name:
        words.append(model.name)
    size = f"{clip.num_frames}x{clip.crop_px}x{clip.crop_px}"
    return f"{case.artifact.name.partition('.')[0]}: {' '.join(words)}, clips of {size}"


def _machine() -> dict[str, str]:
    machine = {"processor": cpu_name(), "processors": str(cpu_count())}
    if gpus():
        machine["gpu"] = ", ".join(gpu.name for gpu in gpus())
    return machine
