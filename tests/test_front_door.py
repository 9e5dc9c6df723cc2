"""What `import stdeploy` offers, and the examples that use it."""

import ast
import io
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import stdeploy
from stdeploy.backends.base import BACKENDS
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.video.reader import VideoReader
from tests.helpers.models import TINY_CLIP, card_of, tiny_model
from tests.helpers.videos import write_golden_videos, write_video
from tests.serve.conftest import running

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stdeploy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.pt, a.fused.safetensors, a.onnx, and videos in clips/."""
    folder = tmp_path_factory.mktemp("front-door")
    model = tiny_model(temporal_lengths=(1, 1, 3, 3, 5))
    save_checkpoint(folder / "a.pt", model, card_of(model, TINY_CLIP))
    fused = stdeploy.fuse_checkpoint(str(folder / "a.pt"))
    assert all(row.passed for row in fused.parity)
    exported = stdeploy.export_onnx(str(fused.path))
    assert exported.path == folder / "a.onnx"
    assert exported.parity
    write_golden_videos(folder / "clips", count=3)
    return folder


def test_all_names_are_there_and_listed() -> None:
    assert dir(stdeploy) == sorted(stdeploy.__all__)
    for name in stdeploy.__all__:
        assert getattr(stdeploy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'classify'"):
        stdeploy.classify  # noqa: B018


def test_type_checkers_see_what_the_program_finds() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == stdeploy._MODULE_OF
    assert {*seen, "__version__"} == set(stdeploy.__all__)


def test_no_name_is_that_of_a_module() -> None:
    """It would mean one thing or the other by the order of imports."""
    modules = {path.stem for path in PACKAGE.iterdir() if path.name != "__init__.py"}
    assert not modules & set(stdeploy.__all__)


def test_backends_are_a_literal_of_those_registered() -> None:
    tree = ast.parse((PACKAGE / "backends" / "base.py").read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and "Backend" in ast.unparse(n))
    (written,) = (ast.unparse(n.value) for n in block.body if isinstance(n, ast.Assign))
    assert set(ast.literal_eval(written.removeprefix("Literal"))) == {"auto", *BACKENDS}
    assert get_args(stdeploy.RuntimeOptions.__dataclass_fields__["backend"].type)


def test_a_video_has_one_answer_in_every_form(folder: Path) -> None:
    path = folder / "clips" / "0.mp4"
    reader = VideoReader(path)
    frames = np.stack(list(reader.images(range(len(reader.timing.timestamps)))))
    fps = 1 / float(np.diff(reader.timing.timestamps).mean())
    with stdeploy.Classifier.open(str(folder / "a.onnx"), device="cpu", views=3) as classifier:
        expected = classifier.classify(path)
        with path.open("rb") as file:
            answers = [
                classifier.classify(str(path)),
                classifier.classify(path.read_bytes()),
                classifier.classify(io.BytesIO(path.read_bytes())),
                classifier.classify(file),
                classifier.classify(frames, fps=fps),
            ]
        for answer in answers:
            assert np.array_equal(answer.view_logits, expected.view_logits)
            assert answer.top(3) == expected.top(3)
        names = [str(path), "<bytes>", "<bytes>", str(path), "<frames>"]
        assert [answer.video for answer in answers] == names
        along = classifier.timeline(str(path), hop_seconds=0.5)
        assert along.to_record() == classifier.timeline(
            path.read_bytes(), hop_seconds=0.5
        ).to_record() | {"video": str(path)}
    classifier.close()  # again: harmless


def test_of_many_videos_a_broken_one_has_its_row(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    classifier = stdeploy.Classifier.open(folder / "a.onnx", batch=2)
    good, bad = classifier.classify_many([str(folder / "clips" / "0.mp4"), broken])
    classifier.close()
    assert good.prediction is not None
    assert good.error is None
    assert good.video == folder / "clips" / "0.mp4"
    assert bad.prediction is None
    assert isinstance(bad.error, stdeploy.VideoError)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"backend": "onnx"}, r"backend 'onnx' is not known; choose auto, torch, onnxruntime"),
        ({"device": "gpu"}, r"device 'gpu' is not known; choose auto, cpu, cuda"),
        ({"precision": "fp8"}, r"precision 'fp8' is not known; choose None, fp32"),
        ({"views": 0}, r"views = 0: a whole number of at least 1 is allowed"),
        ({"batch": 1.5}, r"batch = 1\.5: a whole number"),
        ({"crops": 2}, r"crops 2 is not known; choose 1, 3"),
        ({"decoder": "vlc"}, r"decoder 'vlc' is not known; choose auto"),
    ],
)
def test_arguments_that_are_not_possible(
    folder: Path, keywords: dict[str, object], message: str
) -> None:
    with pytest.raises(stdeploy.SpecError, match=message):
        stdeploy.Classifier.open(folder / "a.onnx", **keywords)  # type: ignore[arg-type]


def test_wrong_kinds_are_errors_of_ours(folder: Path) -> None:
    frames = np.zeros((9, 48, 64, 3), np.uint8)
    with stdeploy.Classifier.open(folder / "a.onnx") as classifier:
        for video, fps, message in (
            (7, None, r"a video is wanted as a path, bytes, .* not as int"),
            (io.StringIO("x"), None, r"open it in binary mode"),
            (frames, None, r"frames need fps"),
            (frames, 0.0, r"fps = 0\.0: a positive number"),
            (frames[0], 25.0, r"frames are uint8 \(48, 64, 3\); uint8 \(F, H, W, 3\)"),
            (frames.astype(np.float32), 25.0, r"frames are float32"),
            ("a.mp4", 25.0, r"fps is for frames"),
        ):
            with pytest.raises(stdeploy.SpecError, match=message):
                classifier.classify(video, fps=fps)  # type: ignore[arg-type]
        with pytest.raises(stdeploy.SpecError, match="hop_seconds = 0: a positive number"):
            classifier.timeline("a.mp4", hop_seconds=0)
        with pytest.raises(stdeploy.SpecError, match="a video is wanted as a path"):
            list(classifier.classify_many([7]))  # type: ignore[list-item]
    for function in (
        stdeploy.Classifier.open,
        stdeploy.read_card,
        stdeploy.fuse_checkpoint,
        stdeploy.export_onnx,
        stdeploy.build_engine,
    ):
        with pytest.raises(stdeploy.SpecError, match="is wanted as a path"):
            function(None)  # type: ignore[arg-type]
    with pytest.raises(stdeploy.SpecError, match="precision 'fp64' is not known"):
        stdeploy.export_onnx(folder / "a.fused.safetensors", precision="fp64")  # type: ignore[arg-type]
    with pytest.raises(stdeploy.SpecError, match="architecture 'i3d' is not known"):
        stdeploy.build_model("i3d", num_classes=10)
    with pytest.raises(stdeploy.SpecError, match="num_classes"):
        stdeploy.build_model("i3d-resnet18", num_classes=0)


def test_a_network_is_built_and_counted() -> None:
    model = stdeploy.build_model("i3d-resnet18", num_classes=10, width=0.125)
    assert model.spec.num_classes == 10
    fused = model.spec.model_copy(update={"fused": True})
    assert (
        stdeploy.count_flops(fused, num_frames=4, side_px=32).macs
        < stdeploy.count_flops(model.spec, num_frames=4, side_px=32).macs
    )


@pytest.mark.parametrize(
    "call",
    [
        "stdeploy.build_model('i3d-resnet18', num_classes=3)",
        "stdeploy.fuse_checkpoint('a.pt')",
        "stdeploy.export_onnx('a.fused.safetensors')",
    ],
)
def test_what_needs_torch_says_so(call: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import stdeploy\ntry:\n    {call}\n"
    code += "except stdeploy.MissingExtraError as error:\n    print(error)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs torch, which is not installed; run: " in ran.stdout
    assert ran.stdout.endswith("pip install 'stdeploy[export]'\n")  # ours, where it is not on PATH


def test_engines_can_be_asked_for_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import stdeploy; stdeploy.build_engine"
    subprocess.run([sys.executable, "-c", code], check=True)


def example(name: str, *arguments: str, cwd: Path) -> str:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_examples_with_an_onnx_file(folder: Path, tmp_path: Path) -> None:
    artifact, video = str(folder / "a.onnx"), str(folder / "clips" / "0.mp4")
    assert len(example("classify_video", artifact, video, cwd=tmp_path).splitlines()) >= 3
    table = example(
        "folder_to_parquet", artifact, str(folder / "clips"), "rows.parquet", cwd=tmp_path
    )
    assert table == "rows.parquet: 3 videos\n"
    assert (tmp_path / "rows.parquet").stat().st_size > 0
    long = tmp_path / "long.mp4"
    write_video(long, [np.full((48, 64, 3), n % 200, np.uint8) for n in range(60)], fps=12.0)
    assert len(example("camera_loop", artifact, str(long), cwd=tmp_path).splitlines()) == 2


def test_the_example_of_an_architecture(tmp_path: Path) -> None:
    said = example("custom_architecture", cwd=tmp_path)
    assert float(said.rpartition(" ")[2]) < 1e-12


@pytest.mark.slow
def test_examples_that_train_and_compare(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", train=10, validation=5, seed=0)
    labels = stdeploy_labels(tmp_path / "data")
    model = tiny_model(num_classes=len(labels))
    card = card_of(model, TINY_CLIP).model_copy(update={"labels": labels})
    save_checkpoint(tmp_path / "w.pt", model, card)
    settings = ["optimisation.epochs=1", "optimisation.batch_size=2", "optimisation.workers=0"]
    said = example("fine_tune", "data", "w.pt", "out.pt", *settings, cwd=tmp_path).splitlines()
    assert said[0].startswith("top-1 ")
    assert said[1] == "out.onnx"
    said = example("export_and_compare", "out.pt", "data", "data", cwd=tmp_path).splitlines()
    assert [line.split(":")[0] for line in said[:2]] == ["out.onnx", "out.int8.onnx"]


def stdeploy_labels(data: Path) -> tuple[str, ...]:
    from stdeploy.datasets.loader import read_split

    return tuple(read_split(data, "train").labels)


def test_the_example_of_a_client(folder: Path, tmp_path: Path) -> None:
    video = folder / "clips" / "0.mp4"
    with running(folder / "a.onnx") as server:
        said = example("http_client", server.url, str(video), cwd=tmp_path)
    with stdeploy.Classifier.open(folder / "a.onnx", views=3) as classifier:
        ((label, score),) = classifier.classify(video).top(1)
    assert said == f"{score:.3f}  {label}\n"
