"""What `stdeploy export` takes clips from."""

from pathlib import Path

import pytest

from stdeploy.artifacts.card import read_card
from stdeploy.datasets.loader import NamedVideos
from stdeploy.export.calibration import read_calibration
from stdeploy.fusion import fuse_model
from stdeploy.models.checkpoint import save_fused
from tests.helpers.models import card_of, tiny_model
from tests.helpers.program import Inside
from tests.helpers.videos import write_golden_videos


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fused weights, and six videos of which two are held out."""
    folder = tmp_path_factory.mktemp("export")
    model = fuse_model(tiny_model()).float()
    save_fused(folder / "a.fused.safetensors", model, card_of(model))
    write_golden_videos(folder / "clips", count=6)
    (folder / "lists").mkdir()
    for split, numbers in {"train": (0, 2, 3, 5), "validation": (1, 4)}.items():
        rows = [f"../clips/{number}.mp4,wave" for number in numbers]
        (folder / "lists" / f"{split}.csv").write_text("\n".join(["path,label", *rows, ""]))
    return folder


@pytest.mark.parametrize(
    ("data", "precision", "said", "numbers"),
    [
        ("lists", "int8", "calibrating on 4 of the 4 training videos of lists", (0, 2, 3, 5)),
        ("lists", "fp16", "comparing on 4 of the 4 training videos of lists", (0, 2, 3, 5)),
        ("lists/validation.csv", "fp16", "2 of the 2 videos of lists/validation.csv", (1, 4)),
        ("clips", "fp16", "comparing on 6 of the 6 videos of clips", range(6)),
    ],
)
def test_clips_are_of_what_was_named_and_that_is_said(
    inside: Inside,
    folder: Path,
    data: str,
    precision: str,
    said: str,
    numbers: tuple[int, ...],
) -> None:
    # The best classes of a random network lie so near each other that any rounding swaps them.
    wide = [word for name in ("top1_changed", "kl_nats") for word in ("--allow", f"{name}=1")]
    arguments = ("--precision", precision, "--calibrate", data, *wide, "-o", "b.onnx")
    shown = inside("export", *arguments, cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert said in shown.stderr.splitlines()[0]
    card = read_card(folder / "b.onnx")
    videos = [folder / "clips" / f"{number}.mp4" for number in numbers]
    expected = read_calibration(
        NamedVideos(Path(data), None, tuple(videos)),
        card.clip,
        max_clips=32,
        hold_out=precision == "int8",
    ).record
    assert card.calibration == expected


def test_what_is_no_video_is_refused_in_one_line(inside: Inside, folder: Path) -> None:
    arguments = ("--precision", "int8", "--calibrate", "a.fused.safetensors")
    shown = inside("export", *arguments, cwd=folder)
    assert shown.returncode == 2
    (line,) = shown.stderr.splitlines()
    assert "is neither folder nor .csv list; name a folder of videos, a .csv list" in line


def test_files_for_other_programs_are_made_of_the_one_that_was_proven(
    inside: Inside, folder: Path
) -> None:
    shown = inside("export", "--input", "float-ncthw", "--openvino", "--pt2", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    names = {path.name for path in folder.glob("a.*")}
    made = {f"a.float-ncthw.{suffix}" for suffix in ("onnx", "xml", "bin", "pt2")}
    assert names == {"a.fused.safetensors", "a.onnx", *made}
    for title in (
        "float-ncthw against a.onnx",
        "OpenVINO IR against a.float-ncthw.onnx",
        "torch.export against a.fused.safetensors",
    ):
        assert title in shown.stdout
    shown = inside("export", "a.onnx", "--input", "float-ncthw", "-o", "c.onnx", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert read_card(folder / "c.onnx").input == "float-ncthw"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.onnx",), "--openvino and --input float-ncthw make other files"),
        (("a.onnx", "--pt2"), "--pt2 takes a *.fused.safetensors file, and 'a.onnx' is a graph"),
        (("--precision", "fp16", "--pt2"), "--pt2 writes fp32; leave --precision fp16 out"),
        (
            ("a.onnx", "--precision", "fp16", "--openvino"),
            "has its precision, form and name already",
        ),
        (("a.onnx", "--openvino", "-o", "b.xml"), "has its precision, form and name already"),
        (("a.onnx", "--form", "planar", "--openvino"), "has its precision, form and name already"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_written(
    inside: Inside, folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    if not (folder / "a.onnx").exists():
        assert inside("export", cwd=folder).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    shown = inside("export", *arguments, cwd=folder)
    assert shown.returncode == 2, shown.stdout
    assert said in shown.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_planar_form_has_its_own_name(inside: Inside, folder: Path) -> None:
    shown = inside("export", "--form", "planar", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert "planar form, golden clip" in shown.stdout
    shown = inside("card", "a.planar.onnx", cwd=folder)
    assert "form      planar: 2D convolutions of stacked frames" in shown.stdout
    video = "clips/0.mp4"
    shown = inside("classify", video, "-m", "a.planar.onnx", "--timeline", "dense", cwd=folder)
    assert shown.returncode == 2
    assert (
        "is in planar form; name the usual .onnx file, or pass --timeline windows" in shown.stderr
    )
