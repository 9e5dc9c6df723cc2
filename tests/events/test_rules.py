"""Scores over time, and the events that the rules find in them."""

import itertools
import math

import pytest

from stdeploy.errors import SpecError
from stdeploy.events.event import Answer, Event, Moment, killed
from stdeploy.events.rules import Rules, check_rules
from stdeploy.events.settings import Rule

LABELS = ("fight", "fall", "nothing")
WALL = 1_800_000_000.0


def rule(**fields: object) -> Rule:
    return Rule.parse({"name": "fight", "labels": ["fight"], "on": 0.8, "off": 0.5, **fields})


def rules(*each: Rule, gap_seconds: float = 10.0) -> Rules:
    numbers = itertools.count(1)
    return Rules(each or [rule()], gap_seconds=gap_seconds, new_id=lambda: f"e{next(numbers)}")


def answer(seconds: float, fight: float, *, fall: float = 0.0, source: str = "door") -> Answer:
    at = Moment(seconds, WALL + seconds)
    return Answer(source, at, LABELS, (fight, fall, 1 - fight - fall))


def feed(
    of: Rules, scores: list[float], *, start: float = 0.0, source: str = "door"
) -> list[Event]:
    """Events of one score a second."""
    found = []
    for number, score in enumerate(scores):
        found += of.take(answer(start + number, score, source=source))
    return found


def spans(events: list[Event]) -> list[tuple[str, str, float]]:
    return [(e.event, e.kind, e.start.seconds if e.end is None else e.end.seconds) for e in events]


def test_an_event_starts_where_the_score_rises_and_ends_where_it_falls() -> None:
    start, end = feed(rules(), [0.1, 0.8, 0.95, 0.6, 0.4, 0.1])
    assert (start.kind, start.event, start.source, start.rule) == ("start", "e1", "door", "fight")
    assert (start.start, start.peak_score, start.answers) == (Moment(1.0, WALL + 1), 0.8, 1)
    assert (end.kind, end.event, end.reason) == ("end", "e1", "score_fell")
    assert (end.start.seconds, end.end) == (1.0, Moment(4.0, WALL + 4))
    assert (end.peak, end.peak_score) == (Moment(2.0, WALL + 2), 0.95)
    assert (end.answers, end.mean_score) == (3, pytest.approx((0.8 + 0.95 + 0.6) / 3))


def test_between_the_thresholds_nothing_changes() -> None:
    assert spans(feed(rules(), [0.7, 0.6, 0.9, 0.5, 0.79, 0.5, 0.49])) == [
        ("e1", "start", 2.0),
        ("e1", "end", 6.0),
    ]


def test_an_event_that_is_too_short_is_none() -> None:
    of = rules(rule(least_seconds=2))
    assert feed(of, [0.9, 0.9, 0.1, 0.9, 0.4]) == []


def test_a_late_decision_says_when_the_score_first_rose() -> None:
    of = rules(rule(least_seconds=2))
    assert feed(of, [0.1, 0.85, 0.9]) == []
    (start,) = of.take(answer(3.0, 0.8))
    assert (start.start.seconds, start.answers, start.peak_score) == (1.0, 3, 0.9)


def test_after_an_event_none_begins_until_it_has_cooled_down() -> None:
    of = rules(rule(cool_down_seconds=3))
    found = feed(of, [0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1])
    assert spans(found) == [
        ("e1", "start", 0.0),
        ("e1", "end", 1.0),
        ("e2", "start", 4.0),
        ("e2", "end", 6.0),
    ]


def test_several_labels_count_together() -> None:
    of = rules(rule(labels=["fight", "fall"]))
    assert [e.peak_score for e in of.take(answer(0.0, 0.45, fall=0.4))] == [pytest.approx(0.85)]


def test_sources_do_not_mix() -> None:
    of = rules()
    found = of.take(answer(0.0, 0.9)) + of.take(answer(0.0, 0.1, source="yard"))
    found += of.take(answer(1.0, 0.9, source="yard")) + of.take(answer(1.0, 0.1))
    assert [(e.source, e.kind) for e in found] == [
        ("door", "start"),
        ("yard", "start"),
        ("door", "end"),
    ]


def test_a_rule_looks_at_its_sources_alone() -> None:
    of = rules(rule(sources=["yard"]), rule(name="all"))
    assert [e.rule for e in of.take(answer(0.0, 0.9))] == ["all"]
    assert [e.rule for e in of.take(answer(0.0, 0.9, source="yard"))] == ["fight", "all"]


@pytest.mark.parametrize("reason", ["source_broke_off", "source_ended", "no_answers"])
def test_a_source_that_stops_ends_its_events_with_its_last_answer(reason: str) -> None:
    of = rules(rule(), rule(name="slow", least_seconds=60))
    feed(of, [0.9, 0.9])
    (end,) = of.break_off("door", reason)  # "slow" was no event yet
    assert (end.kind, end.end, end.reason) == ("end", Moment(1.0, WALL + 1), reason)
    assert of.break_off("door", reason) == []


def test_the_end_of_the_program_ends_everything() -> None:
    of = rules()
    feed(of, [0.9])
    feed(of, [0.9], source="yard")
    assert [(e.source, e.reason) for e in of.close()] == [
        ("door", "program_ended"),
        ("yard", "program_ended"),
    ]
    assert of.close() == []


@pytest.mark.parametrize("now", [0.5, 12.0], ids=["back", "ahead"])
def test_a_clock_that_leaps_ends_an_event_and_begins_another(now: float) -> None:
    of = rules()
    feed(of, [0.9, 0.9])
    found = of.take(answer(now, 0.9))
    assert [(e.kind, e.event, e.reason) for e in found] == [
        ("end", "e1", "clock_leapt"),
        ("start", "e2", None),
    ]
    assert (found[0].end, found[1].start.seconds) == (Moment(1.0, WALL + 1), now)


def test_answers_as_far_apart_as_allowed_are_one_event() -> None:
    of = rules(gap_seconds=10.0)
    assert [e.kind for e in of.take(answer(0.0, 0.9)) + of.take(answer(10.0, 0.9))] == ["start"]


def test_a_cool_down_goes_on_over_a_leap() -> None:
    of = rules(rule(cool_down_seconds=5))
    feed(of, [0.9, 0.1, 0.1, 0.1], start=100.0)  # ends at 101; at 103 there are 3 s left
    found = feed(of, [0.9, 0.9, 0.9, 0.9], start=0.0)
    assert spans(found) == [("e2", "start", 3.0)]


def test_a_cool_down_that_is_over_stays_so_over_a_leap() -> None:
    of = rules(rule(cool_down_seconds=1))
    feed(of, [0.9, 0.1, 0.1, 0.1], start=100.0)
    assert spans(feed(of, [0.9], start=0.0)) == [("e2", "start", 0.0)]


def test_a_score_that_is_no_number_is_off() -> None:
    of = rules()
    feed(of, [0.9])
    (end,) = of.take(answer(1.0, math.nan))
    assert (end.reason, end.peak_score, end.answers) == ("score_fell", 0.9, 1)
    assert of.take(answer(2.0, math.nan)) == []


def test_ids_of_events_are_unique_from_run_to_run() -> None:
    ids = {Rules([rule()], gap_seconds=1.0).take(answer(0.0, 1.0))[0].id for _ in range(50)}
    assert len(ids) == 50


def test_an_event_as_a_record() -> None:
    start, end = feed(rules(), [0.9, 0.1])
    assert start.to_record() == {
        "id": "e1.start",
        "event": "e1",
        "kind": "start",
        "source": "door",
        "rule": "fight",
        "labels": ["fight"],
        "start_time": "2027-01-15T08:00:00.000Z",
        "start_seconds": 0.0,
        "peak_score": 0.9,
        "peak_time": "2027-01-15T08:00:00.000Z",
        "peak_seconds": 0.0,
        "mean_score": 0.9,
        "answers": 1,
    }
    assert end.to_record() == {
        **start.to_record(),
        "id": "e1.end",
        "kind": "end",
        "end_time": "2027-01-15T08:00:01.000Z",
        "end_seconds": 1.0,
        "duration_seconds": 1.0,
        "reason": "score_fell",
    }


def test_the_end_of_a_killed_program_is_made_of_the_start() -> None:
    (start,) = feed(rules(), [0.9])
    name, body = killed(start.to_json())
    assert name == "e1.end"
    assert b'"reason": "program_killed"' in body
    assert b'"end_time": null' in body


def test_labels_that_the_network_lacks_are_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"rule 'fight': the network has no label 'fihgt'; did you"):
        check_rules([rule(labels=["fihgt"])], labels=LABELS, sources=["door"])
    many = [f"class {number}" for number in range(400)]
    with pytest.raises(SpecError, match=r"'fight'; there are class 0, .*, \.\.\. \(400 in all\)"):
        check_rules([rule()], labels=many, sources=["door"])


def test_sources_that_are_not_watched_are_refused() -> None:
    with pytest.raises(SpecError, match=r"there is no source 'dor'; did you mean 'door'\?"):
        check_rules([rule(sources=["dor"])], labels=LABELS, sources=["door", "yard"])
