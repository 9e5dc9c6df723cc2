from stdeploy.serve.scheduling import ClipBatcher, FairQueue


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
    queue.move_to_end("a")
    queue.move_to_end("nobody")
    assert drain(queue) == ["b1", "c1", "a1", "a2"]


def clip_batcher(max_batch: int = 4, max_delay: float = 0.01) -> ClipBatcher[str]:
    return ClipBatcher(max_batch, max_delay)


def add(batcher: ClipBatcher[str], now: float, *clips: str, deadline: float = 100.0) -> None:
    for clip in clips:
        batcher.add(clip, client=clip[0], deadline=deadline, now=now)


def test_a_batch_leaves_when_its_oldest_clip_has_waited_long_enough() -> None:
    batcher = clip_batcher()
    assert batcher.due(0.0) is None
    add(batcher, 1.0, "a1")
    add(batcher, 1.004, "a2")
    assert abs((batcher.due(1.004) or 0) - 0.006) < 1e-9
    assert batcher.due(1.01) == 0
    assert batcher.take() == ["a1", "a2"]
    assert batcher.due(1.01) is None
    assert batcher.take() == []


def test_a_full_batch_leaves_at_once_and_the_rest_waits_from_when_it_came() -> None:
    batcher = clip_batcher(max_batch=2)
    add(batcher, 1.0, "a1", "a2")
    add(batcher, 1.003, "a3")
    assert batcher.due(1.003) == 0
    assert batcher.take() == ["a1", "a2"]
    assert abs((batcher.due(1.003) or 0) - 0.01) < 1e-9


def test_places_in_a_batch_are_shared_between_clients() -> None:
    batcher = clip_batcher(max_batch=3)
    add(batcher, 0.0, "a1", "a2", "a3", "a4", "b1")
    assert batcher.take() == ["a1", "b1", "a2"]
    assert batcher.take() == ["a3", "a4"]


def test_clips_past_their_deadline_are_not_run() -> None:
    batcher = clip_batcher()
    add(batcher, 0.0, "a1", deadline=1.0)
    add(batcher, 0.0, "a2", deadline=2.0)
    assert batcher.expire(1.5) == ["a1"]
    assert batcher.take() == ["a2"]


def test_clips_that_are_given_up_leave_and_no_longer_set_the_clock() -> None:
    batcher = clip_batcher()
    add(batcher, 0.0, "a1")
    add(batcher, 0.005, "b1")
    assert batcher.remove(lambda clip: clip == "a1") == ["a1"]
    assert abs((batcher.due(0.005) or 0) - 0.01) < 1e-9
    assert len(batcher) == 1
