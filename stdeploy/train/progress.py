"""How a run goes: for the one who watches, and for its table of epochs. Pure."""

import dataclasses
from typing import Literal

from stdeploy.train.recipe import Optimisation
from stdeploy.train.state import Progress
from stdeploy.train.validation import Accuracy


@dataclasses.dataclass(frozen=True)
class Report:
    """How a run goes, after each step and before each batch of validation videos.

    Attributes:
        epoch: 1 to epochs.
        epochs: of the whole run.
        step: of this epoch, 1 to steps.
        steps: in an epoch.
        batch_size: training clips in a step.
        seen: validation videos that were looked at in this epoch, 0 to to_validate.
        to_validate: validation videos in an epoch; 0 if there are none.
        loss: mean of the steps of this epoch so far.
        accuracy: on the training clips of those steps as they were seen, 0..1.
        clips_per_second: over those steps, all processes together.
        wait_share: of their time, how much the network waited for data, 0..1.
        broken: names of training videos that could not be read so far, and were replaced.
        validation: at the end of an epoch, if there are validation videos.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    batch_size: int
    seen: int
    to_validate: int
    loss: float
    accuracy: float
    clips_per_second: float
    wait_share: float
    broken: tuple[str, ...]
    validation: Accuracy | None = None

    @property
    def phase(self) -> Literal["training", "validating", "finished"]:
        """What the epoch is doing."""
        if self.step < self.steps:
            return "training"
        return "validating" if self.seen < self.to_validate else "finished"

    @property
    def done(self) -> float:
        """Share of the clips of the whole run, to train on and to validate on, 0..1."""
        clips = self.steps * self.batch_size + self.to_validate
        seen = self.step * self.batch_size + self.seen
        return (self.epoch - 1 + seen / clips) / self.epochs


def report_of(
    progress: Progress,
    how: Optimisation,
    steps: int,
    *,
    seen: int = 0,
    to_validate: int = 0,
    validation: Accuracy | None = None,
) -> Report:
    """How far a run has come in its epoch.

    Args:
        progress: of the run, after at least one step of the epoch.
        how: the run is trained.
        steps: in an epoch.
        seen: validation videos that were looked at.
        to_validate: validation videos in an epoch.
        validation: once all of them were.
    """
    clips, seconds = progress.step * how.batch_size, max(progress.seconds, 1e-9)
    return Report(
        epoch=progress.epoch + 1,
        epochs=how.epochs,
        step=progress.step,
        steps=steps,
        batch_size=how.batch_size,
        seen=seen,
        to_validate=to_validate,
        loss=progress.loss_sum / progress.step,
        accuracy=progress.right / clips,
        clips_per_second=clips / seconds,
        wait_share=progress.wait_seconds / seconds,
        broken=tuple(progress.broken),
        validation=validation,
    )


def row_of(report: Report, seconds: float) -> dict[str, float]:
    """An epoch as a row of metrics.csv.

    Args:
        report: at its end.
        seconds: that its steps took.
    """
    row: dict[str, float] = {
        "epoch": report.epoch,
        "loss": report.loss,
        "accuracy": report.accuracy,
    }
    if report.validation is not None:
        row["validation_top1"] = report.validation.top1
        if report.validation.top5 is not None:
            row["validation_top5"] = report.validation.top5
    return row | {
        "seconds": seconds,
        "clips_per_second": report.clips_per_second,
        "wait_share": report.wait_share,
        "broken_videos": len(report.broken),
    }
