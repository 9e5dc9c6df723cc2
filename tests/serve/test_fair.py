from stdeploy.serve.fair import FairQueue


def fill(queue: FairQueue[str], *items: str) -> None:
    for item in items:
        queue.add(item, client=item[0], deadline=float(item[1:]))


def drain(queue: FairQueue[str]) -> list[str]:
    return list(iter(queue.take, None))


def test_clients_take_turns_and_each_keeps_its_order() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, "a1", "a2", "a3", "b1", "c1", "c2")
    assert len(queue) == 6
    assert drain(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert len(queue) == 0


def test_a_newcomer_waits_for_one_of_each_other_at_most() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, *(f"a{number}" for number in range(1, 100)), "b1", "b2")
    assert queue.take() == "a1"
    fill(queue, "c1")
    assert [queue.take() for _ in range(3)] == ["b1", "c1", "a2"]


def test_who_was_served_last_comes_behind_who_came_meanwhile() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, *(f"a{number}" for number in range(1, 100)))
    assert queue.take() == "a1"
    fill(queue, "b1")
    assert [queue.take(), queue.take()] == ["b1", "a2"]
    fill(queue, "b2")
    assert [queue.take(), queue.take()] == ["b2", "a3"]


def test_who_holds_least_is_next() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, "a1", "a2", "b1", "c1")
    held = {"a": 2, "b": 1, "c": 0}
    assert [queue.take(held.__getitem__) for _ in range(4)] == ["c1", "b1", "a1", "a2"]


def test_items_past_their_deadline_leave_without_a_change_of_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, "a1", "a5", "b2", "b9", "c5")
    assert queue.expire(now=2.0) == ["a1", "b2"]
    assert queue.expire(now=2.0) == []
    assert len(queue) == 3
    assert drain(queue) == ["a5", "b9", "c5"]


def test_items_that_are_given_up_leave() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, "a1", "b1", "a2")
    assert queue.remove(lambda item: item.startswith("a")) == ["a1", "a2"]
    assert queue.remove(lambda item: item == "a1") == []
    assert drain(queue) == ["b1"]


def test_a_client_may_be_sent_behind_those_that_wait() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, "a1", "b1", "c1", "a2")
    queue.to_the_end("a")
    queue.to_the_end("nobody")
    assert drain(queue) == ["b1", "c1", "a1", "a2"]
