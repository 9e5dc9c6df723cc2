import math
import random
import statistics

import pytest

from stdeploy.errors import SpecError
from stdeploy.train.order_experiment import (
    ARMS,
    CONTRASTS,
    Contrast,
    interval,
    needed_seeds,
    student_t,
)


def test_contrasts_name_arms_and_are_differences() -> None:
    names = [arm.name for arm in ARMS]
    assert len(set(names)) == len(names)
    for contrast in CONTRASTS:
        assert set(contrast.weights) <= set(names)
        assert sum(contrast.weights.values()) == 0


def test_an_interval_is_that_of_paired_differences() -> None:
    contrast = Contrast("a - b", {"a": 1, "b": -1}, 0.0)
    found = interval(contrast, {"a": [80.0, 82.0, 84.0], "b": [79.0, 80.0, 81.0]})
    differences = [1.0, 2.0, 3.0]
    assert found.mean == pytest.approx(2.0)
    assert found.half_width == pytest.approx(4.303 * statistics.stdev(differences) / math.sqrt(3))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(0)
    contrast = Contrast("a - b", {"a": 1, "b": -1}, 0.0)
    held = 0
    for _ in range(2000):
        shared = [rng.gauss(80, 5) for _ in range(4)]  # of a seed, in both arms
        one = [s + 1.5 + rng.gauss(0, 1) for s in shared]
        other = [s + rng.gauss(0, 1) for s in shared]
        found = interval(contrast, {"a": one, "b": other})
        held += abs(found.mean - 1.5) <= found.half_width
    assert 0.93 < held / 2000 < 0.97


def test_so_many_seeds_find_the_effect_with_the_power_asked_for() -> None:
    rng = random.Random(1)
    seeds = needed_seeds(1.0, points=1.0)
    found = 0
    for _ in range(2000):
        differences = [rng.gauss(1.0, 1.0) for _ in range(seeds)]
        spread = statistics.stdev(differences) / math.sqrt(seeds)
        found += abs(statistics.fmean(differences)) > student_t(seeds - 1) * spread
    assert 0.76 < found / 2000 < 0.87
    assert needed_seeds(0.1) < seeds < needed_seeds(3.0)


def test_student_t_goes_on_beyond_its_table() -> None:
    # Of the tables in use: 40, 60, 120 degrees of freedom, and the normal distribution.
    for freedom, quantile in ((40, 2.0211), (60, 2.0003), (120, 1.9799), (10**9, 1.96)):
        assert student_t(freedom) == pytest.approx(quantile, abs=1e-3)
    falling = [student_t(freedom) for freedom in range(1, 100)]
    assert falling == sorted(falling, reverse=True)


def test_what_cannot_be_compared_is_refused() -> None:
    contrast = Contrast("a - b", {"a": 1, "b": -1}, 0.0)
    for accuracies in ({"a": [1.0], "b": [1.0]}, {"a": [1.0, 2.0], "b": [1.0]}):
        with pytest.raises(SpecError, match="two seeds"):
            interval(contrast, accuracies)
