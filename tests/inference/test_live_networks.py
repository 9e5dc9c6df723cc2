"""How frames of live sources become inputs of a network: windows, and streams with state."""

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.inference.live_networks import StreamBuffer, StreamNetwork, WindowBuffer
from stdeploy.video.live_reader import DueFrame
from tests.helpers.toy_stream import ToyStream, ToyStreamRuntime

CLIP = ClipSpec(num_frames=4, frame_stride=2, fps=20.0, short_side_px=16, crop_px=16)
INTERVAL = CLIP.interval_seconds  # 0.1 s


def frame(number: int, *, late: float = 0.0) -> DueFrame:
    """Number n is shown at n / 10 s, and has come then by a clock that began 100 s earlier."""
    seconds = number * INTERVAL
    image = np.full((16, 16, 3), number % 256, np.uint8)
    return DueFrame(image, seconds, 100.0 + seconds + late)


def numbers(frames: np.ndarray) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def test_a_window_is_ready_when_it_is_full_and_not_before_the_hop_is_over() -> None:
    buffer = WindowBuffer(4, hop_seconds=0.25)
    ready = []
    for number in range(12):
        buffer.add(frame(number))
        if buffer.ready_since is not None:
            taken = buffer.take()
            ready.append((numbers(taken.frames), taken.stream_seconds, taken.answers))
    assert ready == [
        ([0, 1, 2, 3], pytest.approx(0.3), True),
        ([3, 4, 5, 6], pytest.approx(0.6), True),
        ([5, 6, 7, 8], pytest.approx(0.8), True),  # due at 0.3 + 2 * 0.25
        ([8, 9, 10, 11], pytest.approx(1.1), True),
    ]
    assert buffer.dropped == 0


def test_answers_keep_to_a_grid_but_do_not_make_up_for_late_ones() -> None:
    buffer = WindowBuffer(1, hop_seconds=1.0)
    answered = []
    for number in range(200):
        buffer.add(frame(number, late=0.0))
        busy = 30 <= number < 75
        if buffer.ready_since is not None and not busy:
            answered.append(round(buffer.take().stream_seconds, 1))
    assert answered[:3] == [0.0, 1.0, 2.0]
    assert answered[3:6] == [7.5, 8.0, 9.0]
    assert np.diff(answered[5:]) == pytest.approx(1.0)


def test_the_newest_window_is_taken_and_its_age_is_that_of_the_first_that_was_due() -> None:
    buffer = WindowBuffer(4, hop_seconds=0.0)
    for number in range(10):
        buffer.add(frame(number))
    assert buffer.ready_since == pytest.approx(100.3)
    assert numbers(buffer.take().frames) == [6, 7, 8, 9]
    assert buffer.ready_since is None
    assert buffer.dropped == 6  # 0 to 5: the network never saw them
    for number in range(10, 15):
        buffer.add(frame(number))
    assert buffer.ready_since == pytest.approx(101.0)
    assert buffer.dropped == 7  # 10 too


def test_a_window_does_not_go_over_a_break() -> None:
    buffer = WindowBuffer(4, hop_seconds=0.0)
    for number in range(3):
        buffer.add(frame(number))
    buffer.begins()
    for number in range(3, 6):
        buffer.add(frame(number))
    assert buffer.ready_since is None
    buffer.add(frame(6))
    assert numbers(buffer.take().frames) == [3, 4, 5, 6]
    assert buffer.dropped == 3


def test_a_source_shorter_than_a_window_is_answered_once_with_its_last_frame_held() -> None:
    buffer = WindowBuffer(4, hop_seconds=0.0)
    buffer.add(frame(0))
    buffer.add(frame(1))
    assert buffer.ready_since is None
    buffer.ends()
    assert buffer.ready_since is not None
    assert numbers(buffer.take().frames) == [0, 1, 1, 1]
    assert buffer.ready_since is None
    longer = WindowBuffer(4, hop_seconds=0.0)
    for number in range(4):
        longer.add(frame(number))
    longer.take()
    longer.ends()
    assert longer.ready_since is None


@pytest.mark.parametrize("frames_per_call", [1, 4, 8])
def test_streams_say_what_the_network_says_of_all_their_frames(frames_per_call: int) -> None:
    runtime = ToyStreamRuntime(frames_per_call)
    network = StreamNetwork[ToyStream](runtime, CLIP)
    buffers = [network.buffer(0.0) for _ in range(3)]
    count = 24
    films = np.random.default_rng(0).integers(0, 256, (3, count, 16, 16, 3), dtype=np.uint8)
    for number in range(count):
        for film, buffer in zip(films, buffers, strict=True):
            buffer.add(DueFrame(film[number], number * INTERVAL, 100.0 + number))
        ready = [place for place in range(3) if buffers[place].ready_since is not None]
        if (number + 1) % frames_per_call:
            assert ready == []
            continue
        assert ready == [0, 1, 2]
        logits = network.run([buffers[place].take() for place in ready])
        for place, said in zip(ready, logits, strict=True):
            whole = runtime.whole(films[place, : number + 1])
            np.testing.assert_allclose(said, whole, rtol=1e-5, atol=1e-6)
    assert runtime.begun == 3
    assert set(runtime.batches) == {3}
    assert sum(buffer.dropped for buffer in buffers) == 0


def test_an_order_of_frames_matters_to_the_toy_network() -> None:
    """So that the test above would see frames that are exchanged, left out or shown twice."""
    runtime = ToyStreamRuntime(1)
    film = np.random.default_rng(1).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    said = runtime.whole(film)
    for other in (film[::-1].copy(), film[1:], np.concatenate([film, film[-1:]])):
        assert np.abs(runtime.whole(other) - said).max() > 1e-4


def test_a_stream_that_breaks_off_begins_anew() -> None:
    runtime = ToyStreamRuntime(2)
    network = StreamNetwork[ToyStream](runtime, CLIP)
    buffer = network.buffer(0.0)
    film = np.random.default_rng(2).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    for number in range(5):
        buffer.add(DueFrame(film[number], number * INTERVAL, 100.0))
    network.run([buffer.take()])
    network.run([buffer.take()])
    buffer.begins()  # frame 4 has not been seen
    assert buffer.dropped == 1
    for number in range(5, 9):
        buffer.add(DueFrame(film[number], number * INTERVAL, 101.0))
    network.run([buffer.take()])
    (said,) = network.run([buffer.take()])
    assert runtime.begun == 2
    np.testing.assert_allclose(said, runtime.whole(film[5:]), rtol=1e-5, atol=1e-6)


def test_a_backlog_of_more_than_a_second_is_dropped_oldest_first() -> None:
    buffer = StreamBuffer[ToyStream](2, INTERVAL, 0.0)
    for number in range(12):  # what one call takes, and a second
        buffer.add(frame(number))
    assert buffer.dropped == 0
    for number in range(12, 20):
        buffer.add(frame(number))
    assert buffer.dropped == 8
    assert buffer.ready_since == pytest.approx(100.9)  # of frame 9, with 8 a call's worth
    seen = []
    while buffer.ready_since is not None:
        seen += numbers(buffer.take().frames)
    assert seen == list(range(8, 20))


def test_a_stream_sees_every_frame_but_answers_no_more_often_than_its_hop() -> None:
    buffer = StreamBuffer[ToyStream](1, INTERVAL, 0.25)
    answers, seen = [], []
    for number in range(10):
        buffer.add(frame(number))
        taken = buffer.take()
        seen += numbers(taken.frames)
        if taken.answers:
            answers.append(number)
    assert seen == list(range(10))
    assert answers == [0, 3, 5, 8]  # due at 0, 0.25, 0.5, 0.75 s


def test_an_answer_of_a_stream_says_which_frames_it_is_about() -> None:
    """Filters look ahead, so an answer is about frames before the newest; before that is none."""
    behind = 3
    buffer = StreamNetwork[ToyStream](ToyStreamRuntime(1, frames_behind=behind), CLIP).buffer(0.0)
    taken = []
    for number in range(6):
        buffer.add(frame(number))
        taken.append(buffer.take())
    assert [each.answers for each in taken] == [False, False, False, True, True, True]
    late = behind * INTERVAL
    assert taken[3].stream_seconds == pytest.approx(frame(3).seconds - late)
    assert taken[3].arrived == pytest.approx(frame(3).arrived - late)
