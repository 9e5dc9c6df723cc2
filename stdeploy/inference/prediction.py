"""Predictions: the only softmax and the only averaging over views in this program."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdeploy.video.flaws import NO_FLAWS, Flaws

Logits = NDArray[np.floating]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says about one video.

    Attributes:
        video: the path as the user gave it.
        labels: all K names, best first.
        scores: their probabilities, in that order; they sum to 1.
        view_logits: logits of each view, (V, K), in the order of the card's labels.
        view_spans_seconds: first and last frame of each view, from the start of the video.
        duration_seconds: of the video.
        flaws: what is wrong with the video, as far as it was decoded.
        timings_ms: wall time of each stage.
        device: where the network really ran.
        artifact_sha256: digest of the artifact that answered.
    """

    video: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    view_logits: Logits = dataclasses.field(repr=False)
    view_spans_seconds: tuple[tuple[float, float], ...]
    duration_seconds: float
    flaws: Flaws = NO_FLAWS
    timings_ms: dict[str, float]
    device: str
    artifact_sha256: str

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k best labels with their scores; all of them where there are fewer."""
        return list(zip(self.labels[:k], self.scores[:k], strict=True))

    def to_record(self, top_k: int) -> dict[str, Any]:
        """A row for programs: plain data, ready for JSON."""
        return {
            "video": self.video,
            "predictions": [
                {"label": label, "score": round(score, 6)} for label, score in self.top(top_k)
            ],
            "views": len(self.view_spans_seconds),
            "view_spans_seconds": [
                [round(start, 3), round(end, 3)] for start, end in self.view_spans_seconds
            ],
            "duration_seconds": round(self.duration_seconds, 3),
            **self.flaws.to_record(),
            "timings_ms": {stage: round(ms, 1) for stage, ms in self.timings_ms.items()},
            "device": self.device,
            "artifact_sha256": self.artifact_sha256,
        }


def average_views(view_logits: Logits) -> NDArray[np.float64]:
    """Average logits over views.

    Args:
        view_logits: (V, K).

    Returns:
        (K,), float64.
    """
    return np.asarray(view_logits.astype(np.float64).mean(axis=0))


def softmax(logits: Logits) -> NDArray[np.float64]:
    """Probabilities of logits (K,), computed in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(exponentials / exponentials.sum())


def rank(view_logits: Logits, labels: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Average the views, turn logits into probabilities and sort.

    Equal scores keep the order of the labels.

    Args:
        view_logits: (V, K).
        labels: K names in the order of the logits.

    Returns:
        K labels and K scores, best first.
    """
    probabilities = softmax(average_views(view_logits))
    order = np.argsort(-probabilities, kind="stable")
    return tuple(labels[i] for i in order), tuple(float(probabilities[i]) for i in order)
