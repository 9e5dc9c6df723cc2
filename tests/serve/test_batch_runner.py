"""The thread of the network: batches, deadlines, failure.

Its runtime here waits and breaks on demand, which no real one does.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from stdeploy.serve.admission import Place
from stdeploy.serve.batch_runner import BatchRunner, NetworkFailedError, UnwantedError
from stdeploy.serve.scheduling import Job

CLIPS = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1, 1)


class Sums:
    """Answers with the sum of a clip, when it may; breaks at a clip of 255."""

    name, device, precision = "sums", "here", "fp32"

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.batches: list[int] = []
        self.closed = False

    def run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.may.wait()
        self.batches.append(len(frames))
        if (frames == 255).any():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return frames.reshape(len(frames), -1).sum(axis=1, keepdims=True).astype(np.float32)

    def close(self) -> None:
        self.closed = True


@contextmanager
def runner(runtime: Sums, *, max_batch: int = 4, delay: float = 0.0) -> Iterator[BatchRunner]:
    opened = BatchRunner(runtime, max_batch=max_batch, max_delay_seconds=delay)
    try:
        yield opened
    finally:
        runtime.may.set()
        opened.close()
        assert runtime.closed


def job(client: str = "a", seconds: float = 20.0) -> Job:
    return Job(Place(client), time.monotonic() + seconds)


def test_clips_come_back_in_their_order() -> None:
    with runner(Sums(), max_batch=3) as opened:
        assert opened.run(CLIPS, job()).ravel().tolist() == [0, 1, 2, 3]


def test_clips_of_two_requests_share_a_batch() -> None:
    runtime = Sums()
    runtime.may.clear()
    with runner(runtime) as opened:
        first = opened.submit(CLIPS[:1], job("a"))
        while opened.waiting:
            time.sleep(0.001)
        second, third = opened.submit(CLIPS[1:3], job("b")), opened.submit(CLIPS[3:], job("c"))
        assert opened.waiting == 3
        runtime.may.set()
        assert [future.result(5)[0] for future in (*first, *second, *third)] == [0, 1, 2, 3]
    assert runtime.batches == [1, 3]


def test_time_in_the_queue_is_told_apart_from_the_work() -> None:
    runtime = Sums()
    runtime.may.clear()
    with runner(runtime) as opened:
        opened.submit(CLIPS[:1], job())
        while opened.waiting:
            time.sleep(0.001)
        waiting = job()
        future = opened.submit(CLIPS[1:2], waiting)[0]
        time.sleep(0.05)
        runtime.may.set()
        future.result(5)
        assert waiting.waited["network"] >= 0.05


def test_work_past_its_deadline_is_not_done() -> None:
    runtime = Sums()
    runtime.may.clear()
    with runner(runtime) as opened:
        blocked = opened.submit(CLIPS[:1], job())
        while opened.waiting:
            time.sleep(0.001)
        late = opened.submit(CLIPS[1:], job(seconds=0.0))
        runtime.may.set()
        assert blocked[0].result(5)[0] == 0
        for future in late:
            with pytest.raises(UnwantedError):
                future.result(5)
    assert runtime.batches == [1]


def test_work_that_is_given_up_leaves_the_queue() -> None:
    runtime = Sums()
    runtime.may.clear()
    with runner(runtime) as opened:
        opened.submit(CLIPS[:1], job())
        while opened.waiting:
            time.sleep(0.001)
        unwanted = job()
        threading.Timer(0.1, unwanted.give_up).start()
        with pytest.raises(UnwantedError):
            opened.run(CLIPS, unwanted)
        assert opened.waiting == 0
        runtime.may.set()
    assert runtime.batches == [1]


def test_a_runtime_that_breaks_fails_all_that_wait_and_all_that_come() -> None:
    runtime = Sums()
    runtime.may.clear()
    with runner(runtime, max_batch=1) as opened:
        broken = opened.submit(np.full((1, 1, 1, 1, 1), 255, np.uint8), job())
        waiting = opened.submit(CLIPS, job())
        assert opened.failure is None
        runtime.may.set()
        for future in (*broken, *waiting):
            with pytest.raises(NetworkFailedError):
                future.result(5)
        assert opened.failure == "RuntimeError"
        with pytest.raises(NetworkFailedError):
            opened.run(CLIPS, job())


def test_a_network_that_hangs_shows_how_long() -> None:
    runtime = Sums()
    runtime.may.clear()
    with runner(runtime) as opened:
        assert opened.busy_seconds() == 0
        opened.submit(CLIPS[:1], job())
        while not opened.busy_seconds():
            time.sleep(0.001)
        time.sleep(0.05)
        assert opened.busy_seconds() >= 0.05


def test_the_queue_of_a_request_with_many_clips_is_not_counted_again_and_again() -> None:
    runtime = Sums()
    with runner(runtime, max_batch=1) as opened:
        mine = job()
        start = time.monotonic()
        opened.run(np.zeros((200, 1, 1, 1, 1), np.uint8), mine)
        assert mine.waited["network"] <= time.monotonic() - start


def test_who_stops_waiting_does_not_break_the_network() -> None:
    runtime = Sums()
    runtime.may.clear()
    with runner(runtime) as opened:
        for future in opened.submit(CLIPS, job()):
            assert not future.cancel()
        runtime.may.set()
        assert opened.run(CLIPS[:1], job()).tolist() == [[0]]
        assert opened.failure is None


def test_work_that_is_unwanted_already_is_not_begun() -> None:
    runtime = Sums()
    with runner(runtime) as opened:
        unwanted = job()
        unwanted.give_up()
        with pytest.raises(UnwantedError):
            opened.run(CLIPS, unwanted)
    assert runtime.batches == []
