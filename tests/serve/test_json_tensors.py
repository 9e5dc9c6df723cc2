"""Clips in JSON: what is read, what is refused, and that nobody waits for it."""

import json
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.serve.json_tensors import JsonTensorError, JsonWithTensor, most_json_bytes

SHAPE = (2, 3, 4, 4, 3)
CLIPS = np.arange(288, dtype=np.uint8).reshape(SHAPE)
KINETICS = ClipSpec(num_frames=64, frame_stride=1, fps=25, short_side_px=256, crop_px=224)
LARGE = (1, *KINETICS.frames_shape)


def read(text: str | bytes, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    body = text if isinstance(text, bytes) else text.encode()
    return JsonWithTensor(bytearray(body), len(body)).tensor(shape)


def asked(data: Any, **dump: Any) -> str:
    inputs = [{"name": "frames", "shape": list(SHAPE), "data": data, "datatype": "UINT8"}]
    return json.dumps({"id": 'a "data": [', "inputs": inputs, "outputs": []}, **dump)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", " : ")])
@pytest.mark.parametrize("data", [CLIPS.tolist(), CLIPS.ravel().tolist()])
def test_flat_and_nested_integers_are_read_however_they_are_spaced(
    data: Any, separators: tuple[str, str], indent: int | None
) -> None:
    text = asked(data, separators=separators, indent=indent).encode()
    read_text = JsonWithTensor(bytearray(text + b"behind [1, 2]"), len(text))
    assert np.array_equal(read_text.tensor(SHAPE), CLIPS)
    beside = json.loads(text)
    beside["inputs"][0]["data"] = []
    assert read_text.beside == beside


def test_a_tensor_of_many_pieces_is_the_same() -> None:
    clip = golden_clip(5, (20, 64, 64, 3))[None]  # a megabyte of text
    for data in (clip.tolist(), clip.ravel().tolist()):
        assert np.array_equal(read(asked(data), clip.shape), clip)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("[1,2,3]", "3 numbers; the shape needs 288"),
        ("[]", "1 numbers; the shape needs 288"),
        (json.dumps(CLIPS.reshape(2, 36, 4).tolist()), "nested otherwise"),
        (json.dumps(CLIPS.reshape(2, 144).tolist()), "nested otherwise"),
        (json.dumps(CLIPS.ravel().tolist())[:-1] + ",]", "289 numbers"),
        (json.dumps(CLIPS.ravel().tolist()).replace("7,", "7 7,", 1), "integers from 0 to 255"),
        (json.dumps(CLIPS.ravel().tolist()).replace(" 7,", ",", 1), "integers from 0 to 255"),
        (json.dumps(CLIPS.ravel().tolist()).replace(" 7,", " 07,", 1), "integers from 0 to 255"),
        (json.dumps(CLIPS.ravel().tolist()).replace(" 7,", " 256,", 1), "integers from 0 to 255"),
        (json.dumps(CLIPS.ravel().tolist()).replace(" 7,", " -7,", 1), "integers from 0 to 255"),
        (json.dumps(CLIPS.ravel().tolist()).replace(" 7,", " true,", 1), "integers from 0 to 255"),
        (json.dumps(CLIPS.ravel().tolist()).replace(" 7,", " [7],", 1), "nested otherwise"),
        (json.dumps(CLIPS.ravel().tolist()).replace(" 7,", " 7],[", 1), "nested otherwise"),
        (json.dumps(CLIPS.tolist())[:-1], "breaks off|no JSON"),
        ("[" + " " * 300_000 + "1" + ",1" * 287 + "]", "nested otherwise"),
        ("[" * 300_000, "integers from 0 to 255"),
    ],
)
def test_other_things_than_the_shapes_integers_are_refused_in_words(data: str, words: str) -> None:
    with pytest.raises(JsonTensorError, match=words):
        read('{"inputs": [{"data": ' + data + ', "name": "frames"}]}')


@pytest.mark.parametrize("text", ["", "[", '{"data": [1', "[" * 100_000, "nul"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(JsonTensorError, match=r"no JSON|other things than integers"):
        read(text)


def test_json_of_a_few_clips_is_taken_by_its_size_and_no_more() -> None:
    assert most_json_bytes(KINETICS) == 4 * 8 * 64 * 224 * 224 * 3 + 256 * 1024


def _flat() -> bytes:
    return b'{"inputs":[{"data":[' + b"201, " * (64 * 224 * 224 * 3 - 1) + b"7]}]}"


def _longest_gap(work: Callable[[], None]) -> float:
    """Seconds for which this thread could not go on while another did the work."""
    thread = threading.Thread(target=work)
    longest, last = 0.0, time.monotonic()
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


@pytest.mark.parametrize(
    ("make", "good"),
    [
        (_flat, True),
        (lambda: b"[" + b"[]," * (47 * 2**20 // 3) + b"[]]", False),
        (lambda: b'{"data":[' + b"[]," * (64 * 224 * 224 * 3 - 1) + b"[]]}", False),
        (lambda: b'{"data":' + b"[" * (47 * 2**20), False),
        (lambda: b'{"data":' + b'"data":[' * (6 * 2**20), False),
        (lambda: b'{"id":"' + b"\\u0041" * (8 * 2**20) + b'"}', False),
    ],
    ids=["a good clip", "lists", "lists as data", "nesting", "keys", "a string"],
)
def test_other_threads_go_on_while_a_large_text_is_read_and_its_memory_comes_back(
    make: Callable[[], bytes], good: bool
) -> None:
    body = bytearray(make())
    answers: list[object] = []

    def work() -> None:
        try:
            answers.append(JsonWithTensor(body, len(body)).tensor(LARGE))
        except JsonTensorError as error:
            answers.append(error)

    # Other work on the machine makes gaps too, but not each time.
    assert any(_longest_gap(work) < 0.1 for _ in range(5))
    assert isinstance(answers[0], np.ndarray) == good
    tracemalloc.start()
    try:
        work()
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        answers.clear()
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()
