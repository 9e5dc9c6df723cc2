"""Timelines of videos with hard cuts: what each shot gets is what it would get by itself."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.dense_trunk import DenseTrunk
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_checkpoint
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.inference.timeline import Timeline, TimelineOptions
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.video.decode_pool import DecodePool
from stdeploy.video.limits import Limits
from tests.helpers.models import TINY_CLIP, card_of, tiny_model
from tests.helpers.scenes import scene
from tests.helpers.videos import write_video

FPS = 12.0
LENGTHS = (41, 55, 9, 50)  # frames; a clip spans 14 of them
CUTS = [3.417, 8.0, 8.75]
HOW = ("windows", "dense")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact, a video of four scenes, and each scene by itself, without loss."""
    folder = tmp_path_factory.mktemp("cuts")
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5))
    save_checkpoint(folder / "a.pt", model, card_of(model, TINY_CLIP))
    fuse_checkpoint(folder / "a.pt")
    export_onnx(folder / "a.fused.safetensors")
    parts = [scene(seed, length) for seed, length in enumerate(LENGTHS)]
    for number, part in enumerate(parts):
        write_video(folder / f"{number}.mkv", part, FPS, codec="FFV1")
    write_video(folder / "all.mkv", [p for part in parts for p in part], FPS, codec="FFV1")
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Iterator[Classifier]:
    options = RuntimeOptions(backend="onnxruntime")
    with Classifier.open(folder / "a.onnx", runtime_options=options) as opened:
        yield opened


def timeline(classifier: Classifier, folder: Path, name: str, how: str, *, cuts: bool) -> Timeline:
    trunk = None
    if how == "dense":
        trunk = DenseTrunk.open(folder / "a.onnx", classifier.card, classifier.runtime)
    options = TimelineOptions(hop_seconds=0.5, cuts=cuts)
    return classifier.timeline(folder / name, options, trunk=trunk)


@pytest.mark.parametrize("how", HOW)
def test_each_shot_of_a_timeline_is_that_of_the_shot_by_itself(
    folder: Path, classifier: Classifier, how: str
) -> None:
    whole = timeline(classifier, folder, "all.mkv", how, cuts=True)
    assert whole.cuts_seconds == pytest.approx(CUTS, abs=1e-3)
    assert whole.to_record()["cuts_seconds"] == CUTS
    cells = list(whole.cells)
    start = 0.0
    for number, length in enumerate(LENGTHS):
        alone = timeline(classifier, folder, f"{number}.mkv", how, cuts=True)
        assert alone.cuts_seconds == ()
        for expected in alone.cells:
            cell = cells.pop(0)
            assert cell.start == pytest.approx(start + expected.start, abs=2e-3)
            assert cell.end == pytest.approx(start + expected.end, abs=2e-3)
            assert cell.best == expected.best
            assert cell.scores == pytest.approx(expected.scores, rel=1e-4)
        start += length / FPS
    assert cells == []


@pytest.mark.parametrize("how", HOW)
def test_windows_straddle_cuts_where_these_are_not_looked_for(
    folder: Path, classifier: Classifier, how: str
) -> None:
    whole = timeline(classifier, folder, "all.mkv", how, cuts=False)
    assert whole.cuts_seconds is None
    assert "cuts_seconds" not in whole.to_record()
    borders = {round(cell.start, 3) for cell in whole.cells}
    assert not borders & set(CUTS)


@pytest.mark.parametrize("how", HOW)
def test_looking_for_cuts_changes_nothing_where_there_are_none(
    folder: Path, classifier: Classifier, how: str
) -> None:
    with_cuts = timeline(classifier, folder, "1.mkv", how, cuts=True)
    without = timeline(classifier, folder, "1.mkv", how, cuts=False)
    assert with_cuts.cells == without.cells
    assert with_cuts.segments == without.segments


def test_processes_and_batches_give_the_same_timeline_with_cuts(
    folder: Path, classifier: Classifier
) -> None:
    expected = timeline(classifier, folder, "all.mkv", "windows", cuts=True)
    with (
        DecodePool(1, Limits()) as pool,
        Classifier.open(
            folder / "a.onnx",
            options=ClassifyOptions(batch=4),
            runtime_options=RuntimeOptions(backend="onnxruntime"),
            read=pool.read_clips,
        ) as other,
    ):
        found = timeline(other, folder, "all.mkv", "windows", cuts=True)
    assert found.cuts_seconds == expected.cuts_seconds
    assert [(c.start, c.end) for c in found.cells] == [(c.start, c.end) for c in expected.cells]
    np.testing.assert_allclose(
        [cell.scores for cell in found.cells], [cell.scores for cell in expected.cells], rtol=1e-4
    )
