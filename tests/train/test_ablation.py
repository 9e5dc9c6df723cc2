"""The grids of the paper's tables, and a real one in the smallest size."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.cli.main import app
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.errors import SpecError
from stdeploy.train.ablation import LENGTHS, Cell, Spread, Variant, cells, to_markdown
from stdeploy.train.progress import RunState
from stdeploy.train.recipe import Recipe

# Half as large as the paper's and a quarter as long.
CLIP = ClipSpec(num_frames=8, frame_stride=2, short_side_px=128, crop_px=112)


def find(found: list[Cell], table: str, row: str, column: str) -> Cell:
    (cell,) = [c for c in found if (c.table, c.row, c.column) == (table, row, column)]
    return cell


def test_full_tables_have_the_papers_places() -> None:
    found = cells(["2", "3", "4"], "full")
    assert len(found) == 15 + 8 + 8 + 8 + 6
    assert len({cell.variant for cell in found}) == 37
    best = find(found, "4c", "both", "multi-filter")
    assert best.variant == Variant((1, 1, 3, 3, 5), "multi", 2.0, (1, 2, 3, 4), 2.0)
    assert best.paper == 69.98
    # The same network stands in three tables.
    b1 = find(found, "2", "b1", "accuracy").variant
    assert find(found, "3", "1", "single filter").variant == b1
    assert find(found, "4a", "2", "single filter").variant == b1
    assert find(found, "4b", "0", "single filter").variant == b1


def test_the_small_size_keeps_the_argument() -> None:
    variants = {cell.variant for cell in cells(["2", "3", "4"], "small")}
    for row in ("2D", "orig.", "b", "b1"):
        assert Variant(LENGTHS[row]) in variants
    for eta in (1.0, 2.0):
        assert Variant(LENGTHS["b1"], "multi", eta) in variants
    assert Variant(LENGTHS["b1"], "multi", 2.0, (1, 2, 3, 4), 2.0) in variants
    with pytest.raises(SpecError, match="no table '5'"):
        cells(["5"], "small")
    with pytest.raises(SpecError, match="no row of table 4a; add --size full"):
        cells(["2", "4a"], "small")


@pytest.mark.parametrize("cell", cells(["2", "3", "4"], "full"), ids=lambda c: c.variant.name)
def test_settings_describe_the_variant(cell: Cell) -> None:
    variant = cell.variant
    recipe = Recipe.load("ablation", variant.settings(CLIP))
    spec = recipe.model_spec(10)
    assert spec.temporal_lengths == variant.lengths
    assert (spec.branches, spec.eta) == (variant.branches, variant.eta)
    several = len(variant.strides) > 1
    assert recipe.augmentation.frame_strides == (variant.strides if several else ())
    assert recipe.clip_spec().frame_stride == (2 if several else variant.strides[0])
    assert recipe.augmentation.ego_motion_sigma_px == 2 * variant.sigma


def test_rates_are_relative_to_the_recipes() -> None:
    variant = Variant(LENGTHS["b1"], strides=(1,))
    assert "clip.frame_stride=3" in variant.settings(ClipSpec(frame_stride=6))
    with pytest.raises(SpecError, match="give it an even one"):
        variant.settings(ClipSpec(frame_stride=3))


def test_spread_of_known_numbers() -> None:
    assert str(Spread((1.0, 2.0, 3.0))) == "2.0 ± 1.0"
    assert str(Spread((5.0,))) == "5.0"


def test_tables_hold_what_is_there() -> None:
    found = cells(["4c"], "full")
    text = to_markdown(found, {found[0].variant: Spread((40.0, 60.0))})
    row = next(line for line in text.splitlines() if line.startswith("| none"))
    assert row == "| none | 50.0 ± 14.1 | 67.54 |  | 68.83 |  | 68.82 |"


@pytest.mark.slow
def test_an_ablation_runs_goes_on_and_refuses_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [
        *("model.width=0.125", "synthetic.train_videos=20", "synthetic.validation_videos=10"),
        *("optimisation.batch_size=10", "optimisation.workers=0"),
    ]
    arguments = ["ablate", "--tables", "4c", "--accelerator", "cpu"]
    arguments += [part for setting in settings for part in ("--set", setting)]

    def run(*more: str) -> str:
        result = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    one = ["--set", "optimisation.epochs=1"]
    first = run(*one, "--seeds", "0")
    assert first.count("| none |") == 1
    names = {path.name for path in (tmp_path / "ablation").iterdir() if path.is_dir()}
    assert names == {c.variant.name for c in cells(["4c"], "small")}
    done = list((tmp_path / "ablation").glob("*/seed-0/result.json"))
    written = {path: path.stat().st_mtime_ns for path in done}
    assert len(done) == 4
    assert run(*one, "--seeds", "0") == first
    both = run(*one, "--seeds", "0,1", "--at-once", "2")
    assert both.count(" ± ") == 4
    assert {path: path.stat().st_mtime_ns for path in done} == written
    picture = (tmp_path / "ablation" / "tables.svg").read_text()
    assert picture.count("<svg") == 1
    assert len(picture) > 20_000
    results = json.loads((tmp_path / "ablation" / "results.json").read_text())
    assert all(set(values) == {"0", "1"} for values in results.values())
    for at_once in ("1", "2"):
        with pytest.raises(SpecError, match="holds a run with other settings"):
            run("--set", "optimisation.epochs=2", "--seeds", "0", "--at-once", at_once)


def test_results_of_other_videos_are_not_taken_for_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(tmp_path / "a", train=20, validation=10, seed=0)
    make_dataset(tmp_path / "b", train=20, validation=10, seed=1)
    monkeypatch.chdir(tmp_path)
    arguments = ["ablate", "--tables", "2", "--seeds", "0", "--accelerator", "cpu"]
    for setting in ("width=0.125", "architecture=i3d-resnet18"):
        arguments += ["--set", f"model.{setting}"]
    for setting in ("batch_size=10", "workers=0", "epochs=1"):
        arguments += ["--set", f"optimisation.{setting}"]
    result = CliRunner().invoke(app, [*arguments, "--data", "a"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with pytest.raises(SpecError, match="holds a run with other settings or other videos"):
        CliRunner().invoke(app, [*arguments, "--data", "b"], catch_exceptions=False)


@pytest.mark.slow
def test_runs_at_once_that_are_told_to_stop_save_their_states(tmp_path: Path) -> None:
    settings = [
        *("model.width=0.125", "synthetic.train_videos=20", "synthetic.validation_videos=10"),
        *("optimisation.batch_size=10", "optimisation.workers=0", "optimisation.epochs=500"),
    ]
    command = [sys.executable, "-m", "stdeploy", "ablate", "--accelerator", "cpu"]
    command += ["--tables", "2", "--seeds", "0", "--at-once", "2"]
    command += [part for setting in settings for part in ("--set", setting)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        logs = list((tmp_path / "ablation").glob("*/seed-0/losses.csv"))
        if len(logs) == 2 and all(len(log.read_text().splitlines()) > 3 for log in logs):
            break
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    for log in logs:
        state = RunState.load(log.with_name("last.state"))
        done = state.progress.epoch * 2 + state.progress.step
        assert done == len(log.read_text().splitlines()) - 1  # to the last step
