import threading
import time
from collections.abc import Iterator

import pytest

from stdeploy.inference.ordered_map import ordered_map


def test_results_keep_the_order_of_the_items() -> None:
    def work(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    results = list(ordered_map(work, range(20), threads=4, ahead=5))
    assert results == [(number, number * number) for number in range(20)]


def test_several_items_are_worked_on_at_once() -> None:
    together = threading.Barrier(3, timeout=10)  # breaks unless three meet
    results = ordered_map(lambda _: together.wait(), range(3), threads=3, ahead=3)
    assert sorted(result for _, result in results) == [0, 1, 2]


def test_items_are_taken_no_further_ahead_than_allowed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(lambda number: number, items(), threads=2, ahead=3)
    for given in range(10):
        next(results)
        assert len(taken) <= given + 1 + 3


def test_an_error_comes_in_its_turn() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    results = ordered_map(work, range(5), threads=2, ahead=4)
    assert next(results) == (0, 0)
    assert next(results) == (1, 1)
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_leaving_early_waits_for_the_threads() -> None:
    running = threading.Event()
    done = threading.Event()

    def work(number: int) -> int:
        if number == 1:
            running.set()
            time.sleep(0.1)
            done.set()
        return number

    results = ordered_map(work, range(50), threads=2, ahead=2)
    next(results)
    assert running.wait(10)
    results.close()
    assert done.is_set()
