import numpy as np
import pytest

from stdeploy.errors import SpecError
from stdeploy.inference.timeline import TimelineMaker, TimelineOptions

LABELS = ("run", "walk")


def made(scores: list[list[float]], duration: float, **options: float) -> tuple:
    maker = TimelineMaker(2.0, TimelineOptions(**{"hop_seconds": 1.0} | options), LABELS)
    for row in scores:
        maker.add(np.array(row))
    return maker.finish(duration)


def test_cells_leave_no_gap() -> None:
    # windows of 2 s, their middles at 1, 2, 3 s
    cells, _ = made([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]], 4.2)
    assert [(cell.start, cell.end) for cell in cells] == [(0.0, 1.5), (1.5, 2.5), (2.5, 4.2)]
    assert cells[0].best == (1, 0)
    assert cells[0].labels == ("walk", "run")
    assert cells[0].scores == (0.9, 0.1)


def test_a_single_window_answers_for_the_whole_video() -> None:
    cells, segments = made([[0.1, 0.9]], 0.7)
    assert [(cell.start, cell.end) for cell in cells] == [(0.0, 0.7)]
    assert [(s.index, s.start, s.end, s.mean, s.peak) for s in segments] == [
        (1, 0.0, 0.7, pytest.approx(0.9), 0.9)
    ]


def test_segments_begin_high_and_last_until_low() -> None:
    track = [0.1, 0.4, 0.6, 0.45, 0.35, 0.2, 0.4, 0.1]
    _, (segment,) = made([[score, 0.0] for score in track], 10.0)
    # 0.4 before 0.6 is not high enough to begin; 0.45 and 0.35 are not low enough to end
    assert (segment.index, segment.start, segment.end) == (0, 2.5, 5.5)
    assert segment.label == "run"
    assert segment.peak == 0.6
    assert segment.mean == pytest.approx((0.6 + 0.45 + 0.35) / 3)


def test_a_segment_ends_where_another_label_takes_over() -> None:
    # 0.4 would be enough to go on, were there not the 0.6 of another label
    scores = [[0.6, 0.4], [0.4, 0.35], [0.4, 0.6], [0.35, 0.45], [0.1, 0.9]]
    _, segments = made(scores, 6.0)
    assert [(s.index, s.start, s.end) for s in segments] == [(0, 0.0, 2.5), (1, 2.5, 6.0)]
    assert segments[0].mean == pytest.approx((0.6 * 1.5 + 0.4) / 2.5)


def test_segments_overlap_where_two_labels_are_high_enough_to_begin() -> None:
    scores = [[0.6, 0.3], [0.4, 0.5], [0.3, 0.6], [0.1, 0.9]]
    _, segments = made(scores, 6.0, enter=0.4, leave=0.2)
    assert [(s.index, s.start, s.end) for s in segments] == [(0, 0.0, 2.5), (1, 1.5, 6.0)]


def test_cells_of_a_shot_begin_and_end_with_it() -> None:
    maker = TimelineMaker(2.0, TimelineOptions(hop_seconds=1.0), LABELS)
    # a shot of 3.7 s, one of 0.9 s that is shorter than a window, and the rest
    for shot, score in ((0.0, 0.9), (0.0, 0.8), (3.7, 0.1), (4.6, 0.7), (4.6, 0.6)):
        maker.add(np.array([score, 1 - score]), shot=shot)
    assert maker.cuts == (3.7, 4.6)
    cells, segments = maker.finish(8.0)
    assert [(cell.start, cell.end) for cell in cells] == [
        (0.0, 1.5),
        (1.5, 3.7),
        (3.7, 4.6),
        (4.6, 6.1),
        (6.1, 8.0),
    ]
    assert [(s.index, s.start, s.end) for s in segments] == [
        (0, 0.0, 3.7),
        (1, 3.7, 4.6),
        (0, 4.6, 8.0),
    ]


def test_no_window_gives_nothing() -> None:
    assert made([], 3.0) == ((), ())


def test_thresholds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SpecError, match=r"begin at a score of 0\.2 and end below 0\.6"):
        TimelineOptions(enter=0.2, leave=0.6)
