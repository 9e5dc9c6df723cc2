"""Accuracy of an artifact on labelled videos, by the same chain that classifies any video."""

import dataclasses
from collections.abc import Callable

from stdeploy.classify import Classifier
from stdeploy.errors import DatasetError, VideoError
from stdeploy.prediction import average_views
from stdeploy.train.data.labelled import LabelledVideos


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How an artifact did.

    Attributes:
        videos: how many were classified.
        failed: how many could not be read; not counted below.
        top1: share whose best label is the right one.
        top5: share whose right label is among the best five.
        within_pairs: among the videos of classes that are each other's reversal, the share
            where the right class has the higher logit of the two; chance is 0.5. None where
            the data set names no such classes.
    """

    videos: int
    failed: int
    top1: float
    top5: float
    within_pairs: float | None


def evaluate(
    classifier: Classifier,
    data: LabelledVideos,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Evaluation:
    """Classify every video of a split and count.

    Args:
        classifier: an opened artifact.
        data: the split; its labels must be among the artifact's.
        progress: is told videos done and in all.

    Raises:
        DatasetError: other labels than the artifact's, or no video could be read.
    """
    data = data.with_labels(classifier.card.labels, source="the artifact")
    top1, top5, pairs, failed = [], [], [], 0
    results = classifier.classify_all(sample.video for sample in data.samples)
    for sample, (_, result) in zip(data.samples, results, strict=True):
        if isinstance(result, VideoError):
            failed += 1
        else:
            right = data.labels[sample.label]
            top1.append(result.labels[0] == right)
            top5.append(right in result.labels[:5])
            if sample.label in data.reverse:
                logits = average_views(result.view_logits)
                pairs.append(bool(logits[sample.label] > logits[data.reverse[sample.label]]))
        progress(len(top1) + failed, len(data.samples))
    if not top1:
        raise DatasetError(f"none of the {failed} videos could be read")
    return Evaluation(
        videos=len(top1),
        failed=failed,
        top1=sum(top1) / len(top1),
        top5=sum(top5) / len(top5),
        within_pairs=sum(pairs) / len(pairs) if pairs else None,
    )
