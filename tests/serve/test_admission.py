import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stdeploy.serve.admission import (
    Admission,
    AllowedHosts,
    DurationEstimator,
    NotAdmittedError,
    Place,
    client_name,
    is_host_name,
)
from tests.serve.conftest import Server, running


def fill(admission: Admission, client: str, count: int, seconds: float = 0.0) -> list[Place]:
    return [admission.enter(client, seconds) for _ in range(count)]


def taken_back(places: list[Place]) -> list[int]:
    return [number for number, place in enumerate(places) if place.taken_back is not None]


def test_one_client_may_fill_the_server_and_is_then_told_that_it_is_full() -> None:
    admission = Admission(3)
    places = fill(admission, "a", 3)
    assert admission.inside == 3
    with pytest.raises(NotAdmittedError, match="full"):
        admission.enter("a")
    admission.leave(places[0])
    admission.enter("a")
    assert taken_back(places) == []


def test_a_second_client_takes_room_back_until_both_have_the_same() -> None:
    admission = Admission(4)
    greedy = fill(admission, "greedy", 4)
    told: list[str] = []
    greedy[3].on_taken_back = lambda: told.append("newest")
    other = fill(admission, "other", 1)
    assert told == ["newest"]
    other += fill(admission, "other", 1)
    assert taken_back(greedy) == [2, 3]
    assert admission.inside == 4
    for client in ("other", "greedy"):
        with pytest.raises(NotAdmittedError, match="over_share"):  # it would have more
            admission.enter(client)
    error = greedy[3].taken_back
    assert error is not None
    assert error.reason == "over_share"
    for place in (*greedy, *other):
        admission.leave(place)
    assert admission.inside == 0


def test_who_has_more_than_others_is_told_so() -> None:
    admission = Admission(4)
    fill(admission, "other", 1)
    fill(admission, "greedy", 3)
    with pytest.raises(NotAdmittedError, match="over_share"):
        admission.enter("greedy")


def test_what_is_worked_on_keeps_its_place() -> None:
    admission = Admission(3)
    greedy = fill(admission, "greedy", 3)
    greedy[2].started = True
    fill(admission, "other", 1)
    assert taken_back(greedy) == [1]
    for place in greedy:
        place.started = True
    with pytest.raises(NotAdmittedError, match="full"):
        admission.enter("third")


def test_the_mere_presence_of_others_takes_nothing_where_there_is_room() -> None:
    admission = Admission(64, slots=2, patience=60.0)
    for number in range(70):
        admission.leave(admission.enter(f"client {number}", 1.0))
    fill(admission, "someone", 1, 1.0)
    four = fill(admission, "a", 4, 1.0)
    assert taken_back(four) == []


def test_who_would_wait_too_long_is_turned_away_at_once() -> None:
    admission = Admission(1000, patience=60.0)
    fill(admission, "a", 54, 1.0)  # nine tenths of it: what work takes is an estimate
    with pytest.raises(NotAdmittedError, match="full") as refused:
        admission.enter("a", 1.0)
    assert refused.value.retry_after_seconds == 28


def test_the_wait_is_that_of_the_clients_own_turn() -> None:
    admission = Admission(64, slots=2, patience=60.0)
    flood = fill(admission, "flood", 9, 6.0)
    with pytest.raises(NotAdmittedError, match="full"):
        admission.enter("flood", 6.0)
    for number in range(5):
        admission.enter(f"good {number}", 6.0)  # each waits for one of each other
    # A second of the flood's would be answered too late, if the others ask again: all but one are
    # told so while it is of use.
    assert taken_back(flood) == list(range(1, 9))
    with pytest.raises(NotAdmittedError, match="over_share"):
        admission.enter("flood", 6.0)


def test_clients_that_are_too_many_for_one_turn_each_are_told_that_it_is_full() -> None:
    admission = Admission(64, slots=2, patience=60.0)
    for number in range(9):
        admission.enter(f"client {number}", 6.0)
    with pytest.raises(NotAdmittedError, match="full"):
        admission.enter("one more", 6.0)


def test_work_that_nobody_can_tell_the_length_of_counts_as_much_as_anothers_own() -> None:
    admission = Admission(64, slots=2, patience=60.0)
    fill(admission, "timelines", 3, math.inf)
    fill(admission, "a", 27, 1.0)  # 27 s of its own, 27 of the other's turns
    with pytest.raises(NotAdmittedError, match="over_share"):
        admission.enter("a", 1.0)
    admission.enter("b", 1.0)


def test_one_long_request_that_is_worked_on_keeps_no_one_out() -> None:
    admission = Admission(64, slots=2, patience=60.0)
    long = fill(admission, "long", 2, 45.0)
    for place in long:
        place.started = True
    for number in range(10):
        admission.enter(f"good {number}", 1.0)
    assert taken_back(long) == []


def test_a_server_with_free_slots_turns_no_one_away_whatever_it_takes() -> None:
    admission = Admission(64, slots=2, patience=20.0)
    fill(admission, "a", 2, 1000.0)
    with pytest.raises(NotAdmittedError, match="full"):
        admission.enter("a", 1000.0)


def test_whoever_is_refused_changes_nothing() -> None:
    draw = random.Random(1)
    admission = Admission(12, slots=2, patience=40.0)
    inside: list[Place] = []
    for _ in range(5000):
        if draw.random() < 0.45 and inside:
            admission.leave(inside.pop(draw.randrange(len(inside))))
            continue
        if inside:
            draw.choice(inside).started = True
        before = [place.taken_back for place in inside]
        try:
            inside.append(
                admission.enter(draw.choice("abcde"), draw.choice([0.0, 1.0, 7.0, math.inf]))
            )
        except NotAdmittedError:
            assert [place.taken_back for place in inside] == before
        gone = [place for place in inside if place.taken_back is not None]
        assert not any(place.started for place in gone)
        inside = [place for place in inside if place.taken_back is None]
        assert admission.inside == len(inside) <= 12
    for place in inside:
        admission.leave(place)
    assert admission.inside == 0
    fill(admission, "a", 12)


def test_nothing_is_remembered_of_clients_that_have_nothing_inside() -> None:
    admission = Admission(10, patience=60.0)

    def seconds_each(first: int) -> float:
        start = time.process_time()
        for number in range(first, first + 2000):
            admission.leave(admission.enter(f"client {number}", 1.0))
        return (time.process_time() - start) / 2000

    seconds_each(0)
    # It was 0.3 ms after 4,096 clients.
    assert min(seconds_each(number) for number in (10_000, 20_000, 30_000)) < 1e-4
    assert admission._clients == {}


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_an_ipv6_client_is_its_network(address: str, client: str) -> None:
    assert client_name(address) == client


def test_what_was_measured_before_the_first_request_counts_until_more_is_known() -> None:
    durations = DurationEstimator(2.0)
    assert durations.seconds("a", 3) == 6.0
    durations.ran(4, 4.0)
    assert durations.seconds("a", 1) == pytest.approx(1.9)
    for _ in range(100):
        durations.ran(1, 0.5)
    assert durations.seconds("a", 1) == pytest.approx(0.5, rel=0.01)


def test_without_a_measurement_the_first_batch_is_taken_for_all() -> None:
    durations = DurationEstimator()
    assert durations.seconds("a", 64) == 0.0
    durations.ran(2, 3.0)
    assert durations.seconds("a", 1) == 1.5


def test_what_takes_longest_counts_and_each_client_is_reckoned_by_its_own_videos() -> None:
    durations = DurationEstimator(1.0, decoders=4)
    durations.decoded("large videos", 80.0)
    assert durations.seconds("large videos", 1) == 20.0
    assert durations.seconds("large videos", 30) == 30.0
    assert durations.seconds("small videos", 1) == 1.0
    assert durations.seconds("small videos", math.inf) == math.inf


def test_what_is_remembered_of_clients_is_bounded() -> None:
    durations = DurationEstimator()
    for number in range(5000):
        durations.decoded(f"client {number}", 1.0)
    assert len(durations._video_seconds) == 1024
    assert durations.seconds("client 4999", 1) == 1.0


@pytest.mark.parametrize(
    ("names", "header", "allowed"),
    [
        ((), "localhost", True),
        ((), "LOCALHOST.:8000", True),
        ((), "app.localhost", True),
        ((), "127.0.0.1:8000", True),
        ((), "10.1.2.3", True),
        ((), "[::1]:8000", True),
        ((), "[fe80::1%eth0]", True),
        ((), "evil.example", False),
        ((), "127.0.0.1.evil.example", False),
        ((), "localhost.evil.example", False),
        ((), "evillocalhost", False),
        ((), "", False),
        ((), "localhost:80:80", False),
        ((), "user@localhost", False),
        ((), "[::1", False),
        (("videos.example.com",), "Videos.Example.com:443", True),
        (("videos.example.com",), "example.com", False),
        (("*.example.com",), "a.b.example.com", True),
        (("*.example.com",), "example.com", False),
        (("*.example.com",), "evilexample.com", False),
        (("*",), "anything at all", True),
    ],
)
def test_a_host_is_allowed_by_its_name(names: tuple[str, ...], header: str, allowed: bool) -> None:
    assert (header in AllowedHosts(names)) is allowed


@pytest.mark.parametrize(
    ("word", "good"),
    [("a.example", True), ("*.lan", True), ("*", True), ("http://a", False), ("a:80", False)],
)
def test_a_name_is_told_from_an_address_of_the_web(word: str, good: bool) -> None:
    assert is_host_name(word) is good


@pytest.fixture(scope="module")
def named(artifact: Path) -> Iterator[Server]:
    with running(artifact, "--allowed-hosts", "videos.example, *.lan") as server:
        yield server


def test_a_page_whose_name_means_this_host_reads_nothing(server: Server, video: Path) -> None:
    # What a browser sends for a page of evil.example, once that name means 127.0.0.1.
    rebound = {
        "Host": "evil.example:8000",
        "Origin": "http://evil.example:8000",
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "video/mp4",
        "X-Forwarded-Host": "localhost",
    }
    for method, path in (("GET", "/"), ("GET", "/metrics"), ("POST", "/v1/classify")):
        content = video.read_bytes() if method == "POST" else b""
        answer = httpx.request(method, server.url + path, headers=rebound, content=content)
        assert (answer.status_code, answer.json()["code"]) == (421, "unknown_host")
    assert answer.json()["error"] == (
        "this server does not go by the name 'evil.example:8000'; if it should, start it with that "
        "name in --allowed-hosts"
    )


def test_names_of_the_setting_are_answered(named: Server) -> None:
    for host, status in (("videos.example", 200), ("a.lan:80", 200), ("b.example", 421)):
        assert httpx.get(f"{named.url}/livez", headers={"Host": host}).status_code == status
