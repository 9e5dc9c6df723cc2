"""Classifying a live source through the library, from a real file that comes down a pipe."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import stdeploy
from stdeploy.inference.live_answers import NoFrameError
from tests.data.files import TINY_ONNX
from tests.helpers.odd_videos import coloured_frames, encode


@contextlib.contextmanager
def piped(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send bytes down a pipe that is standard input meanwhile."""
    reading, writing = os.pipe()

    def send() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe:
            pipe.write(content)

    sender = threading.Thread(target=send)
    sender.start()
    with os.fdopen(reading, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        yield
    sender.join()


@pytest.fixture(scope="module")
def classifier() -> Iterator[stdeploy.Classifier]:
    with stdeploy.Classifier.open(TINY_ONNX, backend="onnxruntime") as opened:
        yield opened


def test_a_pipe_is_answered_to_its_end(
    classifier: stdeploy.Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "film.ts", coloured_frames(100), "mpeg2video", g="10")
    with piped((tmp_path / "film.ts").read_bytes(), monkeypatch):
        answers = list(classifier.watch("-", hop_seconds=0))
    times = [answer.stream_seconds for answer in answers]
    assert times == sorted(set(times))
    assert times[-1] == pytest.approx(99 / 25, abs=classifier.card.clip.interval_seconds)
    for answer in answers:
        assert sorted(answer.labels) == sorted(classifier.card.labels)
        assert sum(answer.scores) == pytest.approx(1)
        assert answer.top(1) == [(answer.labels[0], max(answer.scores))]
        assert 0 <= answer.lag_seconds < 60


def test_a_loop_that_is_left_ends_the_reading(
    classifier: stdeploy.Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "film.ts", coloured_frames(100), "mpeg2video", g="10")
    with piped((tmp_path / "film.ts").read_bytes(), monkeypatch):
        answers = classifier.watch("-", hop_seconds=0)
        next(answers)
        answers.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "live"]


def test_a_source_without_a_frame_and_what_is_none(
    classifier: stdeploy.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(stdeploy.SpecError, match=r"'a.mp4' is no live source"):
        classifier.watch("a.mp4")
    with pytest.raises(stdeploy.SpecError, match="hop_seconds = nan"):
        classifier.watch(0, hop_seconds=float("nan"))
    with piped(b"", monkeypatch), pytest.raises(stdeploy.VideoError, match="the source"):
        next(classifier.watch("-"))
    assert issubclass(NoFrameError, stdeploy.VideoError)
