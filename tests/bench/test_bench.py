"""A whole benchmark of tiny networks, and the arithmetic of its rows."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from stdeploy.backends.base import RuntimeOptions
from stdeploy.bench.measure import Report, Row, measure, with_shares
from stdeploy.bench.tables import COLUMNS, cells, draw, shown, summary, to_json, to_markdown
from stdeploy.bench.worker import Case, artifacts_of, cases_for, matmul_flops, newest_stem
from stdeploy.errors import ArtifactError
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_model
from stdeploy.hardware import cpu_multiplies, gpus
from stdeploy.models.checkpoint import save_checkpoint, save_fused
from tests.helpers.models import card_of, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    model = tiny_model()
    save_checkpoint(folder / "a.pt", model, card_of(model))
    fused = fuse_model(model).float()
    save_fused(folder / "a.fused.safetensors", fused, card_of(fused))
    export_onnx(folder / "a.fused.safetensors")
    return folder


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    """What `report` told of its progress."""
    return []


@pytest.fixture(scope="module")
def parts() -> list[Report]:
    """What `report` had measured after each round."""
    return []


@pytest.fixture(scope="module")
def report(folder: Path, told: list[tuple[str, int, int]], parts: list[Report]) -> Report:
    cases = list(cases_for(artifacts_of(folder, "a"), devices=("cpu",), compiled=False))
    missing = cases[-1].card.model_copy(update={"labels": ("x",) * 5})
    options = RuntimeOptions(backend="openvino", device="cpu")
    cases.append(Case(folder / "gone.onnx", missing, options))
    return measure(
        cases,
        batches=(1, 3),
        rounds=2,
        turn_seconds=0.02,
        macs=10**9,
        progress=lambda *step: told.append(step),
        so_far=parts.append,
    )


def test_every_way_is_measured_at_every_batch_size(report: Report) -> None:
    names = ["torch cpu fp32 unfused", "torch cpu fp32", "torch cpu fp32 planar"]
    names += ["onnxruntime cpu fp32"]
    names += ["openvino cpu fp32"]
    names += ["openvino cpu bf16 of fp32"] if cpu_multiplies("bf16") else []
    names += ["openvino cpu fp32"]  # the file that is gone
    assert [(row.name, row.batch) for row in report.rows] == [
        (name, batch) for batch in (1, 3) for name in names
    ]


def test_progress_says_what_begins(report: Report, told: list[tuple[str, int, int]]) -> None:
    cases = [f"{row.name}, {row.artifact}" for row in report.rows if row.batch == 1]
    assert [what for what, _, _ in told[: len(cases)]] == [f"opening {case}" for case in cases]
    each = [*cases, *(f"peak of {kind}" for kind in report.peaks)]
    steps = [
        f"round {number} of 2, batch {batch}: {what}"
        for batch in (1, 3)
        for number in (1, 2)
        for what in each
    ]
    total = len(steps)
    assert told[len(cases) :] == [
        *((what, done, total) for done, what in enumerate(steps)),
        ("ending processes", total, total),
    ]


def test_what_was_measured_is_handed_over_after_every_turn(
    report: Report, parts: list[Report]
) -> None:
    cases = len(report.rows) // 2
    assert len(parts) == 2 * 2 * (cases + 1)  # batches, rounds, and a yardstick in each
    for number, part in enumerate(parts):
        assert all(row.failed or (row.runs and row.speedup) for row in part.rows)
        able = [(row.name, row.batch) for row in part.rows if not row.failed]
        after_first = min(number + 1, cases - 1)  # the last one has failed to open
        assert able[:after_first] == [(row.name, row.batch) for row in report.rows[:after_first]]
    assert parts[-1].rows == report.rows


def test_columns_that_are_there_are_explained(report: Report) -> None:
    lines = [f"{column}: " for column in ("x unfused", "% of peak")]
    rows = [dataclasses.replace(row, speedup=2.0, peak_share=0.5) for row in report.rows]
    for speedup, share, expected in (
        (2.0, 0.5, lines),
        (2.0, None, lines[:1]),
        (None, 0.5, lines[1:]),
        (None, None, []),
    ):
        rows = [dataclasses.replace(row, speedup=speedup, peak_share=share) for row in rows]
        said = list(summary(dataclasses.replace(report, rows=tuple(rows))))
        explained = [line for line in said if line.startswith(tuple(lines))]
        assert explained == said[: len(expected)]
        assert all(map(str.startswith, explained, expected))
        assert all(len(line) <= 80 for line in explained)


def test_a_row_holds_what_was_measured(report: Report) -> None:
    baseline = {row.batch: row for row in report.rows if row.name.endswith("unfused")}
    for row in report.rows:
        if row.failed is not None:
            continue
        p50, p95, p99 = row.latency_ms
        assert 0 < p50 <= p95 <= p99
        assert row.runs >= 2
        assert row.clips_per_second == pytest.approx(row.batch * 1e3 / p50)
        peak = report.peaks[f"cpu {row.precision}"]
        done = 2e9 * row.clips_per_second
        assert row.peak_share == (None if peak is None else pytest.approx(done / peak))
        assert peak is None or done <= peak
        assert row.speedup == pytest.approx(
            row.clips_per_second / baseline[row.batch].clips_per_second
        )
        assert row.load_seconds > 0
        assert row.peak_bytes > 20e6
        assert row.error is not None
        assert row.error < (1e-4 if row.precision == "fp32" else 0.1)
        assert row.gpu_bytes is None


def test_a_case_that_fails_has_its_row_and_the_others_go_on(report: Report) -> None:
    failed = [row for row in report.rows if row.failed is not None]
    assert [row.artifact for row in failed] == ["gone.onnx"] * 2
    assert all("ArtifactError" in (row.failed or "") for row in failed)
    lines = list(summary(report))
    assert sum("failed: ArtifactError" in line for line in lines) == 2


@pytest.mark.skipif(bool(gpus()), reason="a case for a GPU would run")
def test_processes_for_a_gpu_begin_together_and_are_opened_in_turn(folder: Path) -> None:
    fused = folder / "a.fused.safetensors"
    (case,) = [
        case
        for case in cases_for([fused], devices=("cpu",), compiled=False)
        if case.options == RuntimeOptions(backend="torch", device="cpu", precision="fp32")
    ]
    on_gpu = dataclasses.replace(case, options=dataclasses.replace(case.options, device="cuda"))
    told: list[tuple[str, int, int]] = []
    report = measure(
        [on_gpu, case, on_gpu],
        batches=(1,),
        rounds=1,
        turn_seconds=0.0,
        macs=None,
        progress=lambda *step: told.append(step),
    )
    assert told[:3] == [
        (f"opening {each.title}", number, 3) for number, each in enumerate((on_gpu, case, on_gpu))
    ]
    assert ["sees no NVIDIA GPU" in (row.failed or "") for row in report.rows] == [
        True,
        False,
        True,
    ]
    assert report.rows[1].clips_per_second > 0


def test_winner_is_named_with_its_command(report: Report) -> None:
    best = report.winner("fp32")
    assert best is not None
    rates = [row.clips_per_second for row in report.rows if row.precision == "fp32"]
    assert best.clips_per_second == max(rates)
    (line,) = [line for line in summary(report) if line.startswith("fastest in fp32")]
    assert best.command in line
    assert best.command.startswith("stdeploy classify VIDEO -m ")
    assert report.winner("int8") is None


def test_report_goes_to_json_markdown_and_a_picture(report: Report, tmp_path: Path) -> None:
    content = json.loads(to_json(report))
    assert len(content["rows"]) == len(report.rows)
    assert content["machine"]["processors"]
    table = [line for line in to_markdown(report).splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(report.rows)
    assert {line.count("|") for line in table} == {len(COLUMNS) + 1}
    for name in ("a.png", "a.svg"):
        draw(report, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 2000


def test_a_narrow_terminal_gets_whole_columns_and_the_important_ones() -> None:
    empty = COLUMNS.index("GPU GB")
    row = [("" if number == empty else "12.34") for number in range(len(COLUMNS))]
    row[0] = "openvino cpu bf16 of fp32"
    wide, narrow = shown([row], 200), shown([row], 80)
    assert wide == tuple(number for number in range(len(COLUMNS)) if number != empty)
    names = [COLUMNS[number] for number in narrow]
    assert names[:4] == ["case", "batch", "clips/s", "x unfused"]
    assert "% of peak" in names
    assert not {"runs", "p99"} & set(names)
    assert sum(max(len(COLUMNS[n]), len(row[n])) + 2 for n in narrow) <= 80


def test_cells_of_a_row() -> None:
    row = Row(
        name="openvino cpu int8",
        artifact="a.int8.onnx",
        backend="openvino",
        device="CPU",
        precision="int8",
        batch=2,
        clips_per_second=12.345,
        latency_ms=(162.0, 170.5, 199.94),
        runs=40,
        load_seconds=1.25,
        peak_bytes=1_500_000_000,
        error=0.0123,
        peak_share=0.456,
        speedup=3.2,
    )
    assert cells(row) == (
        *("openvino cpu int8", "2", "12.3", "3.20", "162", "170.5", "199.9", "40", "1.2"),
        *("1.50", "", "1.2e-02", "46%"),
    )
    assert cells(dataclasses.replace(row, failed="why"))[2] == "failed"


def test_what_a_network_exceeds_is_no_peak() -> None:
    row = Row(name="a", artifact="a.onnx", backend="torch", device="CPU", precision="fp32", batch=1)
    rates = {"cpu fp32": (30.0, 110.0), "cpu bf16": (90.0,), "cpu int8": (50.0,)}
    kinds = [kind for kind, several in rates.items() for _ in several]
    rows = [
        dataclasses.replace(row, clips_per_second=rate)
        for several in rates.values()
        for rate in several
    ]
    peaks = {"cpu fp32": 2e11, "cpu bf16": 2e11}  # int8 has no matrix product
    shared, told = with_shares(rows, kinds, 10**9, peaks)
    assert [each.peak_share for each in shared] == [None, None, pytest.approx(0.9), None]
    assert told == {"cpu fp32": None, "cpu bf16": 2e11}
    assert with_shares(rows, kinds, None, peaks)[0] == rows
    report = Report("a", {}, "now", 1, 10**9, told, tuple(shared))
    (slowed,) = [line for line in summary(report) if "cpu fp32" in line]
    assert slowed.startswith("peak, a matrix product on cpu fp32: cannot be told, nor shares of it")
    assert json.loads(to_json(report))["peaks"] == told


def test_commands_say_all_that_was_chosen(folder: Path) -> None:
    (case,) = cases_for([folder / "a.pt"], devices=("cpu",), compiled=False)
    assert case.is_baseline
    assert case.command.endswith("a.pt --backend torch --device cpu")
    options = RuntimeOptions(backend="torch", device="cuda", precision="bf16", cuda_graphs=True)
    other = dataclasses.replace(case, options=options)
    assert other.command.endswith("--backend torch --device cuda --precision bf16 --cuda-graphs")
    options = RuntimeOptions(
        backend="onnxruntime", device="cuda", channels_last=True, cuda_graphs=True
    )
    (case, *_) = cases_for([folder / "a.onnx"], devices=("cpu",), compiled=False)
    other = dataclasses.replace(case, options=options)
    assert other.name == "onnxruntime cuda fp32 channels last graphs"
    assert other.command.endswith("--device cuda --cuda-graphs --channels-last")


def test_newest_network_of_a_folder_is_found(folder: Path, tmp_path: Path) -> None:
    assert newest_stem(folder) == "a"
    assert [path.name for path in artifacts_of(folder, "a")] == [
        "a.pt",
        "a.fused.safetensors",
        "a.onnx",
    ]
    for number, middle in enumerate(("int8", "planar", "planar.int8", "planar.float-ncthw")):
        path = tmp_path / f"b.{middle}.onnx"
        path.touch()
        os.utime(path, (2_000_000_000 + number,) * 2)
        assert newest_stem(tmp_path) == "b"
    with pytest.raises(ArtifactError, match="nothing to measure"):
        newest_stem(tmp_path / "..")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_peak_is_that_of_a_processor(precision: str) -> None:
    peak = matmul_flops("cpu", precision)
    if precision == "fp32" or cpu_multiplies(precision):
        assert peak is not None
        assert 1e9 < peak < 1e14
    else:
        assert peak is None
