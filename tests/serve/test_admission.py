import pytest

from stdeploy.serve.admission import Admission, TurnedAwayError


def test_one_client_may_fill_the_house_and_is_then_told_that_it_is_full() -> None:
    admission = Admission(3)
    for _ in range(3):
        admission.enter("a", 0.0)
    assert admission.inside == 3
    with pytest.raises(TurnedAwayError, match="full"):
        admission.enter("a", 0.0)
    admission.leave("a", 1.0)
    admission.enter("a", 1.0)


def test_a_second_client_halves_the_share_of_the_first() -> None:
    admission = Admission(4)
    for _ in range(4):
        admission.enter("greedy", 0.0)
    with pytest.raises(TurnedAwayError, match="full"):
        admission.enter("other", 0.0)  # it is not over its share; the house is full
    admission.leave("greedy", 1.0)
    with pytest.raises(TurnedAwayError, match="over_share"):
        admission.enter("greedy", 1.0)
    admission.enter("other", 1.0)
    for _ in range(2):
        admission.leave("greedy", 2.0)
    admission.enter("greedy", 2.0)
    admission.enter("other", 2.0)
    assert admission.inside == 4


def test_a_client_that_stopped_asking_gives_its_share_back() -> None:
    admission = Admission(4)
    admission.enter("other", 0.0)
    admission.leave("other", 1.0)
    for _ in range(2):
        admission.enter("greedy", 2.0)
    with pytest.raises(TurnedAwayError, match="over_share"):
        admission.enter("greedy", 9.0)
    admission.enter("greedy", 11.0)
    admission.enter("greedy", 11.0)


def test_a_client_with_requests_inside_is_never_forgotten() -> None:
    admission = Admission(4)
    admission.enter("slow", 0.0)
    for _ in range(2):
        admission.enter("greedy", 100.0)
    with pytest.raises(TurnedAwayError, match="over_share"):
        admission.enter("greedy", 100.0)


def test_who_would_wait_too_long_is_turned_away_at_once() -> None:
    admission = Admission(1000, patience=20.0)
    admission.enter("a", 0.0)
    now = 0.0
    for _ in range(100):  # an answer every second, as many come as go
        admission.enter("a", now)
        now += 1.0
        admission.leave("a", now)
    for _ in range(18):
        admission.enter("a", now)
    with pytest.raises(TurnedAwayError, match="full") as refused:
        [admission.enter("a", now) for _ in range(4)]
    assert refused.value.retry_after_seconds == pytest.approx(10, abs=1)


def test_a_house_with_free_slots_turns_no_one_away_however_seldom_it_answers() -> None:
    admission = Admission(64, slots=4, patience=20.0)
    admission.enter("a timeline", 0.0)
    for number in range(100):
        admission.enter("a", 40.0 * number)
        admission.leave("a", 40.0 * number + 0.5)


def test_what_is_remembered_of_clients_is_bounded() -> None:
    admission = Admission(10)
    for number in range(20_000):
        now = number / 1e6
        admission.enter(f"client {number}", now)
        admission.leave(f"client {number}", now)
    assert len(admission._clients) <= 4097
