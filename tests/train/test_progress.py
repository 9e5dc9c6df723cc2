"""How far a run has come, for its bar."""

import hashlib
from pathlib import Path

import pytest

from stdeploy.datasets.labelled_videos import LabelledVideos, Sample
from stdeploy.train.progress import Progress, Report, fingerprint, report_of, row_of
from stdeploy.train.recipe import NOT_IN_FINGERPRINT, Recipe
from stdeploy.train.run_directory import RunFolder, better_epoch
from stdeploy.train.validation import Accuracy
from tests.train.test_trainer import small_recipe


def after(*, epoch: int, step: int, seen: int = 0, to_validate: int = 40) -> Report:
    """Of two epochs of five steps of eight clips: as many as there are validation videos."""
    progress = Progress(epoch=epoch - 1, step=step, loss_sum=2.0 * step, right=step, seconds=1.0)
    how = small_recipe().optimisation
    return report_of(progress, how, 5, seen=seen, to_validate=to_validate)


@pytest.mark.parametrize(
    ("report", "phase", "done"),
    [
        (after(epoch=1, step=1), "training", 0.05),
        (after(epoch=1, step=5), "validating", 0.25),
        (after(epoch=1, step=5, seen=8), "validating", 0.3),
        (after(epoch=1, step=5, seen=40), "finished", 0.5),
        (after(epoch=2, step=3), "training", 0.65),
        (after(epoch=2, step=5, seen=40), "finished", 1.0),
        (after(epoch=1, step=3, to_validate=0), "training", 0.3),
        (after(epoch=1, step=5, to_validate=0), "finished", 0.5),
    ],
)
def test_validation_is_a_part_of_the_way(report: Report, phase: str, done: float) -> None:
    assert report.phase == phase
    assert report.done == pytest.approx(done)


def test_runs_whose_clips_were_drawn_in_another_way_are_not_gone_on_with() -> None:
    """The fingerprint is the one that it was, but where crops move or rates are to fit."""
    data = LabelledVideos(("wave",), (Sample(Path("a.mp4"), 0),))

    def of(**augmentation: object) -> tuple[str, str]:
        recipe = Recipe.parse({**small_recipe().model_dump(), "augmentation": augmentation})
        parts = (
            recipe.model_dump_json(exclude=NOT_IN_FINGERPRINT),
            data.digest(),
            "",
            "1",
        )
        before = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return fingerprint(recipe, data, None, 1), before

    still, as_before = of(frame_strides=(1, 2))
    assert still == as_before
    moving, before = of(frame_strides=(1, 2), ego_motion_sigma_px=2.0)
    assert moving != before
    fitting, _ = of(frame_strides=(1, 2), fit_frame_strides=True)
    assert len({still, moving, fitting}) == 3


def test_a_row_has_the_columns_of_the_table_alone() -> None:
    progress = Progress(step=5, loss_sum=10.0, right=20, seconds=2.0, wait_seconds=0.5)
    report = report_of(
        progress,
        small_recipe().optimisation,
        5,
        seen=10,
        to_validate=10,
        validation=Accuracy(10, 0.5, 0.9),
    )
    assert row_of(report, progress.seconds) == {
        "epoch": 1,
        "loss": 2.0,
        "accuracy": 0.5,
        "validation_top1": 0.5,
        "validation_top5": 0.9,
        "seconds": 2.0,
        "clips_per_second": 20.0,
        "wait_share": 0.25,
        "broken_videos": 0,
    }


@pytest.mark.parametrize(
    ("accuracies", "better"),
    [((0.5,), None), ((0.5, 0.7, 0.7), None), ((0.5, 0.9, 0.9, 0.7), (2, 0.9, 0.7))],
)
def test_an_epoch_that_did_better_than_the_last_is_told(
    tmp_path: Path, accuracies: tuple[float, ...], better: tuple[int, float, float] | None
) -> None:
    run = RunFolder(tmp_path / "run", resume=False)
    rows = [
        {"epoch": epoch, "validation_top1": top1} for epoch, top1 in enumerate(accuracies, start=1)
    ]
    run.begin(small_recipe(), {}, step=0, rows=rows)
    assert better_epoch(tmp_path / "run") == better
