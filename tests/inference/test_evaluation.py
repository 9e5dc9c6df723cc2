"""Measures of accuracy on numbers that can be counted by hand, and views on real files."""

import json
from pathlib import Path

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample
from stdeploy.errors import DatasetError, SpecError
from stdeploy.inference.evaluation import Evaluation, Judged, calibration_error, compare, count
from stdeploy.train.plots import draw_confusion
from stdeploy.video.clips import read_views
from tests.helpers.videos import write_video

LABELS = ("up", "down", "wave", "clap", "jump", "run", "sit")


def judged(*rows: tuple[int, list[int] | None]) -> tuple[list[Judged], LabelledVideos]:
    """Videos with a label and the classes from the best to the worst; None if unreadable."""
    found = []
    for number, (label, order) in enumerate(rows):
        logits = None
        if order is not None:
            logits = np.full(7, -9.0)
            logits[order] = -np.arange(len(order), dtype=float)
        found.append(Judged(Path(f"{number}.mp4"), label, logits, None if order else "is broken"))
    samples = tuple(Sample(one.video, one.label) for one in found)
    return found, LabelledVideos(LABELS, samples, {0: 1, 1: 0})


@pytest.fixture
def evaluation() -> Evaluation:
    return count(
        *judged(
            (0, [0, 1, 2, 3, 4, 5, 6]),
            (0, [1, 0, 2, 3, 4, 5, 6]),
            (1, [2, 1, 0, 3, 4, 5, 6]),
            (2, [2, 0, 1, 3, 4, 5, 6]),
            (3, [6, 5, 4, 2, 1, 3, 0]),
            (4, None),
        )
    )


def test_shares_are_those_counted_by_hand(evaluation: Evaluation) -> None:
    assert (evaluation.videos, evaluation.failed) == (5, 1)
    assert evaluation.top1 == pytest.approx(2 / 5)
    assert evaluation.top5 == pytest.approx(4 / 5)
    assert evaluation.within_pairs == pytest.approx(2 / 3)
    assert evaluation.mean_class_accuracy == pytest.approx((1 / 2 + 0 + 1 + 0) / 4)
    assert evaluation.commonest_class == ("up", pytest.approx(2 / 5))
    assert evaluation.class_accuracies() == {
        "up": 0.5,
        "down": 0.0,
        "wave": 1.0,
        "clap": 0.0,
        "jump": None,
        "run": None,
        "sit": None,
    }
    assert evaluation.confusion[0].tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert evaluation.confusion[3].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert evaluation.confusion.sum() == 5


def test_a_record_gives_all_back_but_the_videos(evaluation: Evaluation) -> None:
    record = json.loads(json.dumps(evaluation.to_record()))
    known = Evaluation.from_record({"summary": "as it was", **record})
    assert known.to_record() == evaluation.to_record()
    assert known.in_words() == evaluation.in_words()
    assert known.commonest_class == evaluation.commonest_class
    assert known.judged == ()
    assert known.within_pairs == evaluation.within_pairs
    assert Evaluation.from_record(record | {"within_pairs": None}).within_pairs is None


@pytest.mark.parametrize(
    "change",
    [{"top1": "high"}, {"top5": None}, {"confusion": [[1]]}, {"confusion": "x"}, {"classes": 3}],
    ids=str,
)
def test_what_is_no_record_of_an_evaluation_is_refused(
    evaluation: Evaluation, change: dict[str, object]
) -> None:
    with pytest.raises(SpecError, match="no record of an evaluation"):
        Evaluation.from_record(evaluation.to_record() | change)
    with pytest.raises(SpecError, match="no record of an evaluation"):
        Evaluation.from_record({"summary": "top-1 90.0%", "failed": 0, "classes": {}})


def test_calibration_error_of_known_bins() -> None:
    confidences = np.array([0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False])
    # |2 * .95 - 2| + |2 * .55 - 1| over 4
    assert calibration_error(confidences, right) == pytest.approx((0.1 + 0.1) / 4)
    assert calibration_error(np.array([1.0]), np.array([True])) == 0.0


def test_comparison_names_the_videos_that_differ(evaluation: Evaluation) -> None:
    other = count(
        *judged(
            (0, [0, 1, 2]),
            (0, [1, 0]),
            (1, [1, 2]),
            (2, None),
            (3, [6]),
            (4, [4]),
        )
    )
    found = compare(evaluation, other)
    assert found.videos == 4  # two could be read by one only
    assert found.agreement == 0.75
    assert found.differing == ((Path("2.mp4"), "down", "wave", "down"),)


def test_nothing_to_count_is_said() -> None:
    with pytest.raises(DatasetError, match="none of the 2 videos could be read; the first: "):
        count(*judged((0, None), (1, None)))


@pytest.mark.parametrize("name", ["c.png", "c.svg"])
def test_the_confusion_is_drawn(evaluation: Evaluation, tmp_path: Path, name: str) -> None:
    draw_confusion(evaluation, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 5000


@pytest.mark.parametrize("size", [(48, 96), (96, 48)])
def test_three_crops_lie_along_the_longer_side(tmp_path: Path, size: tuple[int, int]) -> None:
    width = size[1]
    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    picture = np.broadcast_to(ramp[None, :] if width == 96 else ramp[:, None], size)
    write_video(tmp_path / "a.mp4", [np.repeat(picture[..., None], 3, -1)] * 24, fps=12.0)
    clip = ClipSpec(num_frames=4, fps=12.0, short_side_px=48, crop_px=48)
    views = read_views(tmp_path / "a.mp4", clip, 2, crops=3)
    assert views.frames.shape == (6, 4, 48, 48, 3)
    assert views.times_seconds.shape == (6, 4)
    means = views.frames.mean(axis=(1, 2, 3, 4))
    assert means[:3] == pytest.approx([64, 128, 191], abs=4)
    assert means[3:] == pytest.approx(means[:3], abs=2)
    centre = read_views(tmp_path / "a.mp4", clip, 2)
    assert np.array_equal(centre.frames, views.frames[1::3])
