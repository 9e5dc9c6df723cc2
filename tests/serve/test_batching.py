from stdeploy.serve.batching import Batching


def batching(max_batch: int = 4, max_delay: float = 0.01) -> Batching[str]:
    return Batching(max_batch, max_delay)


def add(queue: Batching[str], now: float, *clips: str, deadline: float = 100.0) -> None:
    for clip in clips:
        queue.add(clip, client=clip[0], deadline=deadline, now=now)


def test_a_batch_leaves_when_its_oldest_clip_has_waited_long_enough() -> None:
    queue = batching()
    assert queue.due(0.0) is None
    add(queue, 1.0, "a1")
    add(queue, 1.004, "a2")
    assert abs((queue.due(1.004) or 0) - 0.006) < 1e-9
    assert queue.due(1.01) == 0
    assert queue.take() == ["a1", "a2"]
    assert queue.due(1.01) is None
    assert queue.take() == []


def test_a_full_batch_leaves_at_once_and_the_rest_waits_from_when_it_came() -> None:
    queue = batching(max_batch=2)
    add(queue, 1.0, "a1", "a2")
    add(queue, 1.003, "a3")
    assert queue.due(1.003) == 0
    assert queue.take() == ["a1", "a2"]
    assert abs((queue.due(1.003) or 0) - 0.01) < 1e-9


def test_places_in_a_batch_are_shared_between_clients() -> None:
    queue = batching(max_batch=3)
    add(queue, 0.0, "a1", "a2", "a3", "a4", "b1")
    assert queue.take() == ["a1", "b1", "a2"]
    assert queue.take() == ["a3", "a4"]


def test_clips_past_their_deadline_are_not_run() -> None:
    queue = batching()
    add(queue, 0.0, "a1", deadline=1.0)
    add(queue, 0.0, "a2", deadline=2.0)
    assert queue.expire(1.5) == ["a1"]
    assert queue.take() == ["a2"]


def test_clips_that_are_given_up_leave_and_no_longer_set_the_clock() -> None:
    queue = batching()
    add(queue, 0.0, "a1")
    add(queue, 0.005, "b1")
    assert queue.remove(lambda clip: clip == "a1") == ["a1"]
    assert abs((queue.due(0.005) or 0) - 0.01) < 1e-9
    assert len(queue) == 1
