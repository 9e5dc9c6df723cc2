"""Accuracy of an artifact on labelled videos, by the same chain that classifies any video."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import is_telling
from stdeploy.artifacts.files import StrPath, as_path
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import Backend, Device
from stdeploy.datasets.labelled_videos import LabelledVideos, Split
from stdeploy.datasets.loader import read_split
from stdeploy.errors import DatasetError, SpecError, check_choice
from stdeploy.inference.classifier import Classifier
from stdeploy.inference.prediction import average_views, softmax

_CALIBRATION_BINS = 15
# A share of the commonest class that makes accuracy look better than it is.
_WORTH_SAYING = 0.2


@dataclasses.dataclass(frozen=True)
class Judged:
    """What an artifact said about one labelled video.

    Attributes:
        video: the file.
        label: what it shows, an index into the labels.
        logits: averaged over the views, float64 (K,); None where it could not be read.
        reason: why not.
    """

    video: Path
    label: int
    logits: NDArray[np.float64] | None = dataclasses.field(repr=False)
    reason: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How an artifact did.

    Attributes:
        labels: K class names.
        videos: how many were classified.
        failed: how many could not be read; not counted below.
        top1: share whose best label is the right one.
        top5: share whose right label is among the best five.
        within_pairs: among the videos of classes that are each other's reversal, the share
            where the right class has the higher logit of the two; chance is 0.5. None where
            the data set names no such classes.
        mean_class_accuracy: top-1 averaged over the classes that have videos.
        calibration_error: expected calibration error of the best label's probability: the mean
            distance between what it promises and how often it is right, over 15 bins of equal
            width.
        confusion: (K, K), videos by their class and by the best label.
        judged: every video; none where the evaluation was read from a record.
    """

    labels: tuple[str, ...]
    videos: int
    failed: int
    top1: float
    top5: float
    within_pairs: float | None
    mean_class_accuracy: float
    calibration_error: float
    confusion: NDArray[np.int64] = dataclasses.field(repr=False)
    judged: tuple[Judged, ...] = dataclasses.field(repr=False)

    @property
    def commonest_class(self) -> tuple[str, float]:
        """The class of most videos, and the top-1 of one who always names it."""
        counts = self.confusion.sum(axis=1)
        number = int(counts.argmax())
        return self.labels[number], float(counts[number] / counts.sum())

    def class_accuracies(self) -> dict[str, float | None]:
        """Top-1 of each class; None where it has no video."""
        return {
            label: float(row[number] / row.sum()) if row.sum() else None
            for number, (label, row) in enumerate(zip(self.labels, self.confusion, strict=True))
        }

    def in_words(self) -> str:
        """The evaluation in one line."""
        label, share = self.commonest_class
        guess = f" (always saying {label!r}: {share:.1%})" if share >= _WORTH_SAYING else ""
        parts = [f"top-1 {self.top1:.1%}{guess}"]
        if is_telling("top5", len(self.labels)):
            parts.append(f"top-5 {self.top5:.1%}")
        if self.within_pairs is not None:
            parts.append(f"within reversed pairs {self.within_pairs:.1%}")
        parts.append(f"mean of the classes {self.mean_class_accuracy:.1%}")
        parts.append(f"calibration error {self.calibration_error:.1%}")
        videos = "1 video" if self.videos == 1 else f"{self.videos} videos"
        failed = f", {self.failed} more could not be read" if self.failed else ""
        return f"{', '.join(parts)} on {videos}{failed}"

    def to_record(self) -> dict[str, object]:
        """The evaluation as plain data, ready for JSON: all but the videos one by one."""
        return {
            "videos": self.videos,
            "failed": self.failed,
            "top1": self.top1,
            "top5": self.top5,
            "within_pairs": self.within_pairs,
            "mean_class_accuracy": self.mean_class_accuracy,
            "calibration_error": self.calibration_error,
            "classes": self.class_accuracies(),
            "confusion": self.confusion.tolist(),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The evaluation that `to_record` made a record of, without its videos.

        Args:
            record: what it gave; it may hold more.

        Raises:
            SpecError: it is no such record.
        """
        try:
            labels = tuple(map(str, record["classes"]))
            pairs = record["within_pairs"]
            found = cls(
                labels=labels,
                videos=int(record["videos"]),
                failed=int(record["failed"]),
                top1=float(record["top1"]),
                top5=float(record["top5"]),
                within_pairs=None if pairs is None else float(pairs),
                mean_class_accuracy=float(record["mean_class_accuracy"]),
                calibration_error=float(record["calibration_error"]),
                confusion=np.array(record["confusion"], dtype=np.int64),
                judged=(),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"no record of an evaluation: {error!r}") from error
        if found.confusion.shape != (len(labels), len(labels)):
            raise SpecError(
                f"no record of an evaluation: {len(labels)} classes, and a confusion matrix of "
                f"{found.confusion.shape}"
            )
        return found


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two artifacts on the same videos.

    Attributes:
        videos: how many both could classify.
        agreement: share of those where the best labels are the same.
        differing: (video, right label, best label of the first, of the second).
    """

    videos: int
    agreement: float
    differing: tuple[tuple[Path, str, str, str], ...]


def evaluate(
    artifact: StrPath | Classifier,
    data: StrPath | LabelledVideos,
    *,
    split: Split = "validation",
    fold: int = 1,
    views: int | None = None,
    crops: Literal[1, 3] = 1,
    backend: Backend = "auto",
    device: Device = "auto",
    precision: Precision | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Evaluation:
    """Classify every video of a split and count.

    Args:
        artifact: any artifact, or an opened one, for which views to precision do not count.
        data: a folder in any usual layout, a .csv list, or a split that was read; its labels must
            be among the artifact's.
        split: "train" or "validation", of a data set.
        fold: from 1, of data sets that have several.
        views: clips that are averaged for a video; None takes the card's.
        crops: of each of those, 1 or 3.
        backend: see `Classifier.open`, as for the two that follow.
        device: likewise.
        precision: likewise.
        progress: is told videos done and in all.

    Raises:
        DatasetError: other labels than the artifact's, or no video could be read.
        ArtifactError: the artifact cannot be used.
        BackendError: what runs it is not installed.
    """
    if not isinstance(data, LabelledVideos):
        check_choice("split", split, get_args(Split))
        data = read_split(as_path(data, "a data set"), split, fold=fold)
    if isinstance(artifact, Classifier):
        return _evaluate(artifact, data, progress)
    with Classifier.open(
        artifact, backend=backend, device=device, precision=precision, views=views, crops=crops
    ) as classifier:
        return _evaluate(classifier, data, progress)


def _evaluate(
    classifier: Classifier, data: LabelledVideos, progress: Callable[[int, int], None]
) -> Evaluation:
    try:
        data = data.with_labels(classifier.card.labels, source="the artifact")
    except DatasetError as error:
        raise DatasetError(
            f"{error}. If it means the same classes by other names: stdeploy card ARTIFACT --set "
            "labels=FILE"
        ) from error
    judged: list[Judged] = []
    rows = classifier.classify_many(sample.video for sample in data.samples)
    for sample, row in zip(data.samples, rows, strict=True):
        if row.prediction is None:
            judged.append(Judged(sample.video, sample.label, None, str(row.error)))
        else:
            logits = average_views(row.prediction.view_logits)
            judged.append(Judged(sample.video, sample.label, logits))
        progress(len(judged), len(data.samples))
    return count(judged, data)


def count(judged: Sequence[Judged], data: LabelledVideos) -> Evaluation:
    """Measures of what was judged.

    Args:
        judged: of the videos of the data set.
        data: gives the labels, and which classes are reversals of each other.

    Raises:
        DatasetError: no video could be read.
    """
    read = [(one.label, one.logits) for one in judged if one.logits is not None]
    if not read:
        first = f"; the first: {judged[0].video} {judged[0].reason}" if judged else ""
        raise DatasetError(f"none of the {len(judged)} videos could be read{first}")
    labels = np.array([label for label, _ in read])
    logits = np.stack([of_video for _, of_video in read])
    order = np.argsort(-logits, axis=1, kind="stable")
    best, right = order[:, 0], order[:, 0] == labels
    confusion = np.zeros((len(data.labels),) * 2, dtype=np.int64)
    np.add.at(confusion, (labels, best), 1)
    present = confusion.sum(axis=1) > 0
    pairs = [
        bool(row[label] > row[data.reverse[int(label)]])
        for label, row in zip(labels, logits, strict=True)
        if int(label) in data.reverse
    ]
    return Evaluation(
        labels=data.labels,
        videos=len(read),
        failed=len(judged) - len(read),
        top1=float(right.mean()),
        top5=float((order[:, :5] == labels[:, None]).any(axis=1).mean()),
        within_pairs=sum(pairs) / len(pairs) if pairs else None,
        mean_class_accuracy=float(
            (confusion.diagonal()[present] / confusion.sum(axis=1)[present]).mean()
        ),
        calibration_error=calibration_error(
            np.array([softmax(row).max() for row in logits]), right
        ),
        confusion=confusion,
        judged=tuple(judged),
    )


def calibration_error(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error (Guo et al., 2017), 15 bins of equal width.

    >>> calibration_error(np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False]))
    0.15

    Args:
        confidences: probability of the best label, (N,).
        right: whether it was the right one, (N,).
    """
    bins = np.minimum((confidences * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    error = sum(
        abs(float(confidences[inside].sum()) - int(right[inside].sum()))
        for inside in (bins == number for number in np.unique(bins))
    )
    return round(error / len(confidences), 12)


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Where two artifacts agree, on videos that both could read.

    Args:
        first: of one artifact.
        second: of another with the same labels, on the same videos.
    """
    differing, videos = [], 0
    for one, other in zip(first.judged, second.judged, strict=True):
        if one.logits is None or other.logits is None:
            continue
        videos += 1
        said = first.labels[int(one.logits.argmax())], second.labels[int(other.logits.argmax())]
        if said[0] != said[1]:
            differing.append((one.video, first.labels[one.label], *said))
    agreement = 1.0 - len(differing) / videos if videos else 0.0
    return Comparison(videos, agreement, tuple(differing))
