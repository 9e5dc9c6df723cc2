import dataclasses
import math

import numpy as np
import pytest

from stdeploy.inference.prediction import Prediction, average_views, rank, softmax
from stdeploy.video.flaws import Flaws


def test_softmax_sums_to_one_and_survives_large_logits() -> None:
    assert softmax(np.array([1000.0, 1000.0])).tolist() == [0.5, 0.5]
    assert softmax(np.array([0.0, math.log(3.0)])) == pytest.approx([0.25, 0.75])


def test_views_are_averaged_as_logits_not_as_probabilities() -> None:
    view_logits = np.array([[0.0, 4.0, 0.0], [0.0, 0.0, 2.0]], dtype=np.float32)
    assert average_views(view_logits).tolist() == [0.0, 2.0, 1.0]
    labels, scores = rank(view_logits, ("a", "b", "c"))
    assert labels == ("b", "c", "a")
    weights = np.array([math.e**2, math.e, 1.0])
    assert scores == pytest.approx(weights / weights.sum())


def test_equal_scores_keep_the_order_of_labels() -> None:
    assert rank(np.zeros((1, 3)), ("a", "b", "c"))[0] == ("a", "b", "c")


def test_record_is_plain_data_with_top_k() -> None:
    prediction = Prediction(
        video="a.mp4",
        labels=("b", "a"),
        scores=(0.75, 0.25),
        view_logits=np.zeros((1, 2)),
        view_spans_seconds=((0.5, 1.5),),
        duration_seconds=2.00049,
        timings_ms={"decode": 1.26},
        device="onnxruntime on CPU",
        artifact_sha256="00",
    )
    assert prediction.to_record(1) == {
        "video": "a.mp4",
        "predictions": [{"label": "b", "score": 0.75}],
        "views": 1,
        "view_spans_seconds": [[0.5, 1.5]],
        "duration_seconds": 2.0,
        "timings_ms": {"decode": 1.3},
        "device": "onnxruntime on CPU",
        "artifact_sha256": "00",
    }
    assert len(prediction.top(9)) == 2
    damaged = dataclasses.replace(prediction, flaws=Flaws(damaged_after_seconds=1.98765))
    assert damaged.to_record(1)["damaged_after_seconds"] == 1.988
