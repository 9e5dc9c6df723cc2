"""How a run goes: for the one who watches, and for its table of epochs. Pure."""

import dataclasses

from stdeploy.train.recipe import Optimisation
from stdeploy.train.state import Progress
from stdeploy.train.validation import Accuracy


@dataclasses.dataclass(frozen=True)
class Report:
    """How a run goes, after each step.

    Attributes:
        epoch: 1 to epochs.
        epochs: of the whole run.
        step: of this epoch, 1 to steps.
        steps: in an epoch.
        loss: mean of the steps of this epoch so far.
        accuracy: on the training clips of those steps as they were seen, 0..1.
        clips_per_second: over those steps, all processes together.
        wait_share: of their time, how much the network waited for data, 0..1.
        broken: videos that could not be read so far, and were replaced.
        validation: after the last step of an epoch, if there are validation videos.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    clips_per_second: float
    wait_share: float
    broken: int
    validation: Accuracy | None = None


def report_of(
    progress: Progress, how: Optimisation, steps: int, validation: Accuracy | None = None
) -> Report:
    """How far a run has come in its epoch.

    Args:
        progress: of the run, after at least one step of the epoch.
        how: the run is trained.
        steps: in an epoch.
        validation: after the last step, if there are validation videos.
    """
    clips, seconds = progress.step * how.batch_size, max(progress.seconds, 1e-9)
    return Report(
        epoch=progress.epoch + 1,
        epochs=how.epochs,
        step=progress.step,
        steps=steps,
        loss=progress.loss_sum / progress.step,
        accuracy=progress.right / clips,
        clips_per_second=clips / seconds,
        wait_share=progress.wait_seconds / seconds,
        broken=len(progress.broken),
        validation=validation,
    )


def row_of(report: Report, seconds: float) -> dict[str, float]:
    """An epoch as a row of metrics.csv.

    Args:
        report: after its last step.
        seconds: that its steps took.
    """
    row: dict[str, float] = {
        "epoch": report.epoch,
        "loss": report.loss,
        "accuracy": report.accuracy,
    }
    if report.validation is not None:
        row["validation_top1"] = report.validation.top1
        row["validation_top5"] = report.validation.top5
    return row | {
        "seconds": seconds,
        "clips_per_second": report.clips_per_second,
        "wait_share": report.wait_share,
        "broken_videos": report.broken,
    }
