"""How far a run has come: its state, from which it goes on, and what is said of it on the way.

After any break a run goes on as if there had been none. Everything random is decided by the seed,
the epoch and the step, so a state holds no random numbers: weights, momentum, averages, and how far
the run has come.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch

from stdeploy.artifacts.digest import DIGEST_FIELD, content_sha256, tree_parts
from stdeploy.artifacts.files import whole_file
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.errors import ArtifactError
from stdeploy.models.checkpoint import write_tensors
from stdeploy.train.recipe import NOT_IN_FINGERPRINT, Optimisation, Recipe
from stdeploy.train.validation import Accuracy

_VERSION = 2
_MUCH_WAITING = 0.15  # of the time


class Part(Protocol):
    """Something that changes with every step: network, optimiser, average, scale of gradients."""

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Go on from there."""


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: that is going on, from 0.
        step: steps of this epoch that are done.
        loss_sum: of those steps.
        right: training clips of those steps that were classified rightly.
        seconds: that those steps took.
        wait_seconds: of those, how long the network waited for data.
        best: highest validation accuracy so far; -1 if there was none.
        broken: videos that could not be read, with the reasons.
        rows: metrics of the epochs that are done, by name.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    right: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    best: float = -1.0
    broken: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def next_epoch(self) -> None:
        """Begin another epoch."""
        self.epoch += 1
        self.step = self.right = 0
        self.loss_sum = self.seconds = self.wait_seconds = 0.0


@dataclasses.dataclass(frozen=True)
class RunState:
    """What is kept of a run.

    Attributes:
        fingerprint: of the recipe and the data; a run goes on only with the same.
        progress: how far it has come.
        tensors: states of the parts, by name: network, optimiser, ...
    """

    fingerprint: str
    progress: Progress
    tensors: dict[str, Any]

    @classmethod
    def of(cls, fingerprint: str, progress: Progress, parts: Mapping[str, Part]) -> Self:
        """Gather the state of a run."""
        tensors = {name: part.state_dict() for name, part in parts.items()}
        return cls(fingerprint, progress, tensors)

    def save(self, path: Path) -> None:
        """Write it whole or not at all.

        Raises:
            ArtifactError: the file cannot be written.
        """
        content = {
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "progress": dataclasses.asdict(self.progress),
            "tensors": self.tensors,
        }
        digest = content_sha256(tree_parts(content))
        with whole_file(path) as temporary:
            write_tensors({**content, DIGEST_FIELD: digest}, temporary)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a state.

        Raises:
            ArtifactError: no such file, or it is damaged.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content["version"] != _VERSION:
                raise ArtifactError(
                    f"{str(path)!r} was written by another version of stdeploy; start anew"
                )
            digest = content.pop(DIGEST_FIELD, None)  # states had none before
            if digest not in (None, content_sha256(tree_parts(content))):
                raise ArtifactError(
                    f"{str(path)!r} is not as it was written: its content digest differs; start "
                    "anew, without --resume"
                )
            return cls(content["fingerprint"], Progress(**content["progress"]), content["tensors"])
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{str(path)!r} does not exist; there is no run to resume"
            ) from error
        except ArtifactError:
            raise
        except Exception as error:  # a damaged file raises anything
            raise ArtifactError(
                f"{str(path)!r} is no state of a run, or damaged; start anew, without --resume"
            ) from error

    def restore(self, parts: Mapping[str, Part]) -> None:
        """Put the states of the parts back."""
        for name, part in parts.items():
            part.load_state_dict(self.tensors[name])


def fingerprint(
    recipe: Recipe,
    data: LabelledVideos,
    validation: LabelledVideos | None,
    world_size: int,
    *,
    augmented_on_device: bool = False,
) -> str:
    """Of everything that decides about the numbers of a run; 64 hex digits."""
    parts = (
        recipe.model_dump_json(exclude=NOT_IN_FINGERPRINT),
        data.digest(),
        validation.digest() if validation is not None else "",
        str(world_size),  # norms see the clips of one process
        # Crops that move had other places in runs that were begun before.
        *(["paths inside the frame"] if recipe.augmentation.ego_motion_sigma_px else []),
        *(["augmented on the device"] if augmented_on_device else []),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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


def rate_in_words(report: Report, *, workers: int, processors: int, short_side_px: int) -> str:
    """How fast an epoch went, and what to do if it waited for data.

    Args:
        report: at its end.
        workers: processes that decode for all that train on this machine.
        processors: of this machine.
        short_side_px: that frames are resized to.
    """
    words = (
        f"epoch {report.epoch}: {report.clips_per_second:.3g} clips/s, "
        f"{report.wait_share:.0%} of the time waiting for data"
    )
    if not waits_much(report):
        return words
    smaller = f"store videos smaller (frames are resized to a short side of {short_side_px} px)"
    if workers < processors:
        return (
            f"{words}; raise optimisation.workers (now {workers}, and there are {processors} "
            f"processors), or {smaller}"
        )
    return f"{words}; {smaller}, or train where there are more processors (here {processors})"


def waits_much(report: Report) -> bool:
    """Whether data and not the network decides how long a run takes."""
    return report.wait_share > _MUCH_WAITING


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
