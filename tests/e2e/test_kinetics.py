"""The real Kinetics-400 weights through the whole chain, on real videos.

Weights and sample video come from the package index (or the user's cache); without either
these tests skip.
"""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stdeploy.artifacts.card import read_card
from stdeploy.errors import DownloadError
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.inference.timeline import TimelineOptions
from stdeploy.layers.temporal import temporal_basis
from stdeploy.pull.download import KINETICS_I3D, SAMPLE_VIDEO, fetch
from stdeploy.video.reader import VideoReader
from stdeploy.video.sampling import frames_at
from tests.helpers.videos import write_video

pytestmark = pytest.mark.slow

ACTIONS = ("demo.mp4", "basketball.mp4", "v_GGSY1Qvo990.mp4")


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


def first_seconds(video: Path, seconds: float) -> np.ndarray:
    """Frames of 340x256 at 25 a second."""
    _, frames = VideoReader(video).gather(
        lambda timing: frames_at(timing.timestamps, np.arange(round(25 * seconds)) / 25),
        lambda image: cv2.resize(image, (340, 256), interpolation=cv2.INTER_AREA),
    )
    return frames


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (ACTIONS, ("arm wrestling", "dunking basketball", "clean and jerk")),
        (ACTIONS[::-1], ("clean and jerk", "dunking basketball", "arm wrestling")),
    ],
)
def test_borders_lie_at_hard_cuts(
    shared_videos: Path,
    classifier: Classifier,
    tmp_path: Path,
    names: tuple[str, ...],
    labels: tuple[str, ...],
) -> None:
    frames = [
        frame
        for name, seconds in zip(names, (10.0, 8.4, 6.0), strict=True)
        for frame in first_seconds(shared_videos / name, seconds)
    ]
    video = write_video(tmp_path / "spliced.mp4", frames, 25.0)
    timeline = classifier.timeline(video, TimelineOptions())
    # demo.mp4 has a cut of its own, 0.4 s before its end.
    borders = (9.6 if names == ACTIONS else 10.0, 18.4)
    assert timeline.cuts_seconds is not None
    assert set(borders) <= {round(cut, 3) for cut in timeline.cuts_seconds}
    found = [(s.label, s.start, s.end) for s in timeline.segments]
    assert [label for label, _, _ in found] == list(labels)
    assert [start for _, start, _ in found] == pytest.approx([0.0, *borders], abs=1e-3)
    assert [end for _, _, end in found] == pytest.approx([*borders, 24.4], abs=1e-3)


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


def test_filters_are_those_of_figure_1(folder: Path) -> None:
    """Against plain NumPy on the weights, and the numbers that are known of them."""
    command = [sys.executable, "-m", "stdeploy", "analyze", "filters"]
    arguments = ["kinetics400-i3d.pt", "--json", "--save-arrays", "filters.npz"]
    shown = subprocess.run(
        [*command, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    record = json.loads(shown.stdout)
    taps = {layer["name"]: layer["energy_per_tap"] for layer in record["layers"]}
    assert taps["conv1.1"] == pytest.approx(
        [0.017, 0.022, 0.171, 0.099, 0.604, 0.053, 0.034], abs=6e-4
    )
    assert taps["conv2.2.0"] == pytest.approx([0.155, 0.582, 0.263], abs=6e-4)
    assert taps["conv5.1.path_a.1.0"] == pytest.approx([0.324, 0.391, 0.285], abs=6e-4)

    state = torch.load(folder / "kinetics400-i3d.pt", weights_only=True)["state_dict"]
    with np.load(folder / "filters.npz") as arrays:
        for name in taps:
            coefficients = state[f"{name}.branches.0.coefficients"].double().numpy()
            length = coefficients.shape[2]
            # The weights are stored as W~ with eta = 1, where the basis is orthonormal.
            basis = temporal_basis(length, 1.0).numpy()
            weight = np.tensordot(basis, coefficients, axes=(1, 2)).transpose(1, 2, 0, 3, 4)
            energy = (weight**2).sum(axis=(0, 1, 3, 4))
            assert taps[name] == pytest.approx(energy / energy.sum(), abs=2e-6)
            filters = weight.reshape(-1, length, weight.shape[3] * weight.shape[4])[:500]
            u, values, _ = np.linalg.svd(filters, full_matrices=False)
            np.testing.assert_allclose(
                arrays[f"{name}/weights"][:500], values, rtol=1e-3, atol=1e-6
            )
            first = np.abs(np.sum(arrays[f"{name}/directions"][:500, 0] * u[:, :, 0], axis=1))
            apart = values[:, 0] > 1.01 * values[:, 1]  # else any mixture of the two is right
            np.testing.assert_allclose(first[apart], 1.0, atol=1e-4)

    centres = [stage["centre"] for stage in record["stages"][1:]]
    averages = [stage["average"] for stage in record["stages"][1:]]
    assert centres == sorted(centres, reverse=True)
    assert averages == sorted(averages)
    assert list(record["recommended"].values()) == [1, 1, 3, 3, 5]
