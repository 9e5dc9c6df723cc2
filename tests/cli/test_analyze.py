"""stdeploy analyze, as its users run it."""

import json
from pathlib import Path

import numpy as np
import pytest

from stdeploy.models.checkpoint import save_checkpoint
from tests.cli.test_pictures import words_of
from tests.helpers.models import card_of, tiny_model
from tests.helpers.odd_videos import coloured_frames, encode
from tests.helpers.program import Inside


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analyze")
    for name, fields in {
        "wide": {"temporal_lengths": (1, 3, 3, 3, 5), "branches": "multi"},
        "narrow": {"temporal_lengths": (1, 1, 1, 3, 3), "branches": "single"},
        "flat": {"temporal_lengths": (1, 1, 1, 1, 1)},
    }.items():
        model = tiny_model(**fields)
        save_checkpoint(folder / f"{name}.pt", model, card_of(model))
    (folder / "videos" / "deep").mkdir(parents=True)
    for number in range(3):
        encode(folder / "videos" / "deep" / f"{number}.mp4", coloured_frames(40), "libx264")
    return folder


def test_filters_are_shown_drawn_and_saved(inside: Inside, folder: Path) -> None:
    arguments = ("--save-plot", "f.svg", "--save-arrays", "f.npz")
    shown = inside("analyze", "filters", "wide.pt", *arguments, cwd=folder)
    assert shown.returncode == 0
    assert "conv5.1.conv2" in shown.stdout
    assert "advised t" in shown.stdout
    assert {"average", "centre frame"} <= set(words_of(folder / "f.svg"))
    with np.load(folder / "f.npz") as arrays:
        directions = arrays["conv5.1.conv2/directions"]
        weights = arrays["conv5.1.conv2/weights"]
    assert directions.shape == (64 * 64, 5, 5)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=2), 1.0, atol=1e-5)
    assert (np.diff(weights, axis=1) <= 1e-6).all()


def test_filters_are_drawn_in_the_papers_projection_unless_another_is_named(
    inside: Inside, folder: Path
) -> None:
    pictures = []
    for arguments in ((), ("--projection", "orthographic"), ("--projection", "lambert")):
        named = ("filters", "narrow.pt", "--save-plot", "p.png", *arguments)
        assert inside("analyze", *named, cwd=folder).returncode == 0
        pictures.append((folder / "p.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]
    refused = inside("analyze", "filters", "narrow.pt", "--projection", "mercator", cwd=folder)
    assert refused.returncode == 2
    assert "'mercator'" in refused.stderr


def test_filters_as_json_sum_to_1(inside: Inside, folder: Path) -> None:
    shown = inside("analyze", "filters", "wide.pt", "--json", cwd=folder)
    record = json.loads(shown.stdout)
    assert [stage["stage"] for stage in record["stages"]] == ["conv2", "conv3", "conv4", "conv5"]
    assert set(record["recommended"]) == {"conv2", "conv3", "conv4", "conv5"}
    for layer in record["layers"]:
        assert sum(layer["energy_per_tap"]) == pytest.approx(1.0, abs=1e-5)
        if layer["shape"][2] == 3:
            axes = ("average", "first_differential", "second_differential")
            assert sum(layer[axis] for axis in axes) == pytest.approx(1.0, abs=1e-5)


def test_receptive_fields_are_compared(inside: Inside, folder: Path) -> None:
    arguments = ("--clips", 2, "--frames", 24, "--save-plot", "r.svg", "--save-arrays", "r.npz")
    names = ("wide.pt", "narrow.pt")
    shown = inside("analyze", "receptive-field", *names, *arguments, "--json", cwd=folder)
    assert shown.returncode == 0
    wide, narrow = map(json.loads, shown.stdout.splitlines())
    assert (wide["theoretical_frames"], narrow["theoretical_frames"]) == (41, 17)
    assert len(wide["over_time"]) == 24
    assert wide["spread_frames"] > narrow["spread_frames"] > 0
    assert wide["spread_seconds"] == pytest.approx(wide["spread_frames"] / 6, abs=1e-5)
    assert any(word.startswith("wide: sd") for word in words_of(folder / "r.svg"))
    with np.load(folder / "r.npz") as arrays:
        assert arrays["narrow"].shape == (24, 32, 32)
        assert arrays["narrow"].sum() == pytest.approx(1.0)


def test_receptive_field_of_videos(inside: Inside, folder: Path) -> None:
    (folder / "list.txt").write_text("videos/deep/0.mp4\nvideos/deep/1.mp4\n")
    for data, clips in (("videos", 3), ("list.txt", 2), ("videos/deep/2.mp4", 1)):
        shown = inside(
            "analyze", "receptive-field", "wide.pt", "--data", data, "--json", cwd=folder
        )
        assert json.loads(shown.stdout)["clips"] == clips


def test_report_says_where_it_is(inside: Inside, folder: Path) -> None:
    shown = inside("analyze", "report", "narrow.pt", "--clips", 1, cwd=folder)
    assert shown.stdout == "report.html\n"
    assert "narrow.pt" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["filters", "flat.pt"], "'flat.pt' has no spatio-temporal filter"),
        (["filters", "missing.pt"], "'missing.pt' does not exist"),
        (["filters", "wide.pt", "--save-plot", "a.gif"], "has to end in .png or .svg"),
        (["filters", "wide.pt", "--save-arrays", "a.npy"], "has to end in .npz"),
        (["receptive-field", "wide.pt", "--data", "nowhere"], "'nowhere' does not exist"),
        (["receptive-field", "list.onnx"], "'list.onnx' "),
        (["report", "wide.pt", "-o", "a.pdf"], "has to end in .html"),
    ],
)
def test_wrong_input_is_one_line(
    inside: Inside,
    folder: Path,
    arguments: list[str],
    message: str,
) -> None:
    shown = inside("analyze", *arguments, cwd=folder)
    assert shown.returncode == 2
    assert message in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert shown.stdout == ""
