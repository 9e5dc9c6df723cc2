"""Many live sources whose network is on a GPU."""

from pathlib import Path

import numpy as np
import pytest

import stdeploy
from stdeploy.inference.live_sources import Hooks
from stdeploy.video.live_reader import LiveSource
from tests.data.files import TINY_ONNX
from tests.gpu.conftest import Gpu
from tests.helpers.videos import numbered_frames, write_video

pytestmark = pytest.mark.needs_cuda

SOURCES = 6


def test_batches_across_sources_give_what_single_clips_give(tmp_path: Path, gpu: Gpu) -> None:
    write_video(tmp_path / "a.mp4", numbered_frames(36), fps=12.0)  # 3 s
    sources = [
        LiveSource(address=str(tmp_path / "a.mp4"), name=f"source {number}")
        for number in range(SOURCES)
    ]
    batches: list[int] = []
    hooks = Hooks(batch=lambda count, _seconds: batches.append(count))
    with stdeploy.Classifier.open(TINY_ONNX, runtime_options=gpu.onnx()) as classifier:
        assert gpu.onnxruntime in classifier.runtime.device
        with classifier.watch_all(sources, hop_seconds=0.0, batch=4, hooks=hooks) as live:
            answers = list(live)
            statuses = live.statuses()
    assert [status.state for status in statuses] == ["ended"] * SOURCES
    assert max(batches) <= 4
    assert sum(batches) == len(answers)
    scores: dict[float, list[dict[str, float]]] = {}
    for answer in answers:
        found = dict(zip(answer.labels, answer.scores, strict=True))
        scores.setdefault(round(answer.stream_seconds, 2), []).append(found)
    together = [each for each in scores.values() if len(each) > 1]
    assert together  # all played one file: the same moment of it gives the same scores
    for first, *others in together:
        for other in others:
            assert np.array([other[label] for label in first]) == pytest.approx(
                np.array(list(first.values())), abs=1e-4
            )
