import math

import pytest

from stdeploy.serve.pace import Pace


def test_what_was_measured_before_the_first_request_counts_until_more_is_known() -> None:
    pace = Pace(2.0)
    assert pace.seconds("a", 3) == 6.0
    pace.ran(4, 4.0)
    assert pace.seconds("a", 1) == pytest.approx(1.9)
    for _ in range(100):
        pace.ran(1, 0.5)
    assert pace.seconds("a", 1) == pytest.approx(0.5, rel=0.01)


def test_without_a_measurement_the_first_batch_is_taken_for_all() -> None:
    pace = Pace()
    assert pace.seconds("a", 64) == 0.0
    pace.ran(2, 3.0)
    assert pace.seconds("a", 1) == 1.5


def test_what_takes_longest_counts_and_each_client_is_reckoned_by_its_own_videos() -> None:
    pace = Pace(1.0, decoders=4)
    pace.decoded("large videos", 80.0)
    assert pace.seconds("large videos", 1) == 20.0
    assert pace.seconds("large videos", 30) == 30.0
    assert pace.seconds("small videos", 1) == 1.0
    assert pace.seconds("small videos", math.inf) == math.inf


def test_what_is_remembered_of_clients_is_bounded() -> None:
    pace = Pace()
    for number in range(5000):
        pace.decoded(f"client {number}", 1.0)
    assert len(pace._video_seconds) == 1024
    assert pace.seconds("client 4999", 1) == 1.0
