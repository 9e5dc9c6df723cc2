"""The real Kinetics-400 weights through the whole chain, on real videos.

Weights and sample video come from the package index (or the user's cache); without either
these tests skip.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stdeploy.card import read_card
from stdeploy.classify import Classifier, ClassifyOptions
from stdeploy.errors import DownloadError
from stdeploy.pull.catalogue import KINETICS_I3D, SAMPLE_VIDEO
from stdeploy.pull.download import fetch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After pull, fuse and export, as the README says."""
    for package in (KINETICS_I3D, SAMPLE_VIDEO):
        try:
            fetch(package)
        except DownloadError as error:
            pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("kinetics")
    for command in (
        "pull kinetics400-i3d",
        "pull sample-video",
        "fuse kinetics400-i3d.pt",
        "export",
    ):
        subprocess.run([sys.executable, "-m", "stdeploy", *command.split()], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path):
    with Classifier.open(folder / "kinetics400-i3d.onnx") as opened:
        yield opened


def test_every_parity_row_is_within_its_tolerance(folder: Path) -> None:
    fused = read_card(folder / "kinetics400-i3d.fused.safetensors")
    assert len(fused.parity) == 2 * (57 + 2) + 1  # layers and two clips twice, the full clip once
    exported = read_card(folder / "kinetics400-i3d.onnx")
    assert all(row.passed for row in (*fused.parity, *exported.parity))
    assert fused.lineage.licence == KINETICS_I3D.licence
    assert len(exported.labels) == 400


def test_sample_video_is_a_flip_off_a_wall(folder: Path, classifier: Classifier) -> None:
    prediction = classifier.classify(folder / "sample.mp4")
    best = {label for label, _ in prediction.top(5)}
    flips = {"gymnastics tumbling", "cartwheeling", "parkour", "somersaulting"}
    assert len(best & flips) >= 2


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("v_SoccerJuggling_g23_c01.avi", "juggling soccer ball"),
        ("demo.mp4", "arm wrestling"),
        ("basketball.mp4", "dunking basketball"),
        ("v_GGSY1Qvo990.mp4", "clean and jerk"),
    ],
)
def test_real_videos_are_named(
    shared_videos: Path, classifier: Classifier, name: str, label: str
) -> None:
    ((best, score),) = classifier.classify(shared_videos / name).top(1)
    assert best == label
    assert score >= 0.9


def test_runtimes_agree_on_a_real_video(folder: Path, classifier: Classifier) -> None:
    with Classifier.open(
        folder / "kinetics400-i3d.pt", options=ClassifyOptions(views=1)
    ) as original:
        expected = original.classify(folder / "sample.mp4")
    with Classifier.open(
        folder / "kinetics400-i3d.onnx", options=ClassifyOptions(views=1)
    ) as exported:
        actual = exported.classify(folder / "sample.mp4")
    assert actual.labels[:5] == expected.labels[:5]
    np.testing.assert_allclose(actual.view_logits, expected.view_logits, rtol=1e-3, atol=1e-3)
