"""What comes after an import: every verb works on the file, or says in one line why not."""

import csv
import json
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest

import stdeploy
from stdeploy.artifacts.spec import ForeignSpec, Precision
from stdeploy.errors import ArtifactError, ParityError, SpecError
from stdeploy.export.graph_cost import count_graph
from stdeploy.export.onnx import export_onnx
from stdeploy.hardware import cpu_emulates_bf16
from stdeploy.importing.onnx_import import import_onnx
from tests.helpers.models import write_signed
from tests.helpers.program import records
from tests.helpers.program import stdeploy as run
from tests.helpers.videos import write_golden_videos
from tests.importing.networks import (
    CLASSES,
    FRAMES,
    SIDE,
    TinyNetwork,
    Transformer,
    built,
    write_onnx,
    write_toml,
)
from tests.serve.conftest import running

# The best classes of a random network lie so near each other that any rounding swaps them.
HESITANT = {"top1_changed": 1.0}
BF16 = pytest.param(
    "bf16", marks=pytest.mark.skipif(not cpu_emulates_bf16(), reason="needs AVX-512 to verify")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x.onnx, imported, and x.int8.onnx made of it, with videos in clips/."""
    folder = tmp_path_factory.mktemp("downstream")
    write_golden_videos(folder / "clips", count=4)
    network = write_onnx(
        built(TinyNetwork), folder / "net.onnx", (3, FRAMES, SIDE, SIDE), legacy=True
    )
    import_onnx(network, write_toml(folder / "clip.toml"), folder / "x.onnx")
    export_onnx(folder / "x.onnx", precision="int8", calibrate=folder / "clips", allow=HESITANT)
    return folder


def test_a_video_has_one_answer_in_library_program_and_http(folder: Path) -> None:
    video = folder / "clips" / "0.mp4"
    with stdeploy.Classifier.open(folder / "x.onnx", backend="onnxruntime") as classifier:
        label, score = classifier.classify(video).top(1)[0]
        along = classifier.timeline(video, hop_seconds=0.5)
    printed = run(
        *("classify", "clips/0.mp4", "-m", "x.onnx", "--backend", "onnxruntime", "--json"),
        cwd=folder,
    )
    (row,) = records(printed)
    assert row["predictions"][0] == {"label": label, "score": pytest.approx(score, abs=1e-6)}
    with (
        running(folder / "x.onnx") as server,
        video.open("rb") as file,
    ):
        answer = httpx.post(f"{server.url}/v1/classify", files={"file": file}, timeout=30)
        told = httpx.get(f"{server.url}/v2/models/x").json()
    (told_first, *_) = answer.json()["predictions"]
    assert told_first == {"label": label, "score": pytest.approx(score, abs=1e-6)}
    assert told["outputs"][0]["shape"] == [-1, CLASSES]
    windows = run(
        *("classify", "clips/0.mp4", "-m", "x.onnx", "--timeline", "windows", "--json"),
        cwd=folder,
    )
    assert windows.returncode == 0, windows.stderr
    assert along.to_record()["video"].endswith("0.mp4")


def test_it_is_evaluated_measured_and_counted(folder: Path) -> None:
    with (folder / "validation.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([f"clips/{number}.mp4", f"class {number}"] for number in range(4))
    (folder / "train.csv").write_text((folder / "validation.csv").read_text())
    judged = run("evaluate", "x.onnx", "--data", ".", cwd=folder)
    assert judged.returncode == 0, judged.stderr
    assert "on 4 videos" in judged.stdout
    measured = run(
        *("bench", "x.onnx", "x.int8.onnx", "--rounds", "1", "--turn-seconds", "0"),
        *("--devices", "cpu", "--json", "bench.json"),
        cwd=folder,
    )
    assert measured.returncode == 0, measured.stderr
    assert "foreign tiny, clips of 8x32x32" in measured.stdout
    counted = run("flops", "x.onnx", "--json", cwd=folder)
    graph = json.loads(counted.stdout)["graph"]
    # 3 x 3 x 3 over 3 and 8 channels, at 8 x 16 x 16 and 4 x 8 x 8 places, and the classifier.
    macs = 8 * 81 * 8 * 256 + 12 * 216 * 4 * 64 + 12 * CLASSES
    assert graph["macs"] == macs == count_graph(folder / "x.int8.onnx").macs
    assert graph["parameters"] == 8 * 81 + 8 + 12 * 216 + 12 + 2 * 12 + 12 * CLASSES + CLASSES
    other = run("flops", "x.onnx", "--frames", "4", cwd=folder)
    assert "is counted at the size of its clip" in other.stderr


def test_its_filters_are_analysed_and_it_goes_to_triton(folder: Path) -> None:
    filters = run("analyze", "filters", "x.onnx", cwd=folder)
    assert filters.returncode == 0, filters.stderr
    assert "conv1" in filters.stdout
    page = run("analyze", "report", "x.onnx", "-o", "report.html", cwd=folder)
    assert page.returncode == 0, page.stderr
    assert "of another project" in (folder / "report.html").read_text()
    put = run("export", "x.onnx", "--triton", "models", "--name", "foreign", cwd=folder)
    assert put.returncode == 0, put.stderr
    config = (folder / "models" / "foreign" / "config.pbtxt").read_text()
    assert '"architecture"' in config
    assert "foreign" in config


@pytest.mark.parametrize("precision", ["fp16", "int8", BF16])
def test_lower_precisions_pass_the_same_gates(
    folder: Path, tmp_path: Path, precision: Precision
) -> None:
    result = export_onnx(
        folder / "x.onnx",
        tmp_path / "y.onnx",
        precision=precision,
        calibrate=folder / "clips",
        allow=HESITANT,
    )
    assert result.card.precision == precision
    assert isinstance(result.card.model, ForeignSpec)
    assert result.card.lineage.parent == "x.onnx"
    assert all(row.passed for row in result.parity)
    kernels = result.parity[-1]
    assert kernels.check == "kernels, channels beyond rounding"
    assert kernels.detail == f"{8 + 12 + CLASSES} channels of 3 layers"
    graph = onnx.load(result.path).graph
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert stored["classifier.weight"] == onnx.TensorProto.FLOAT
    wanted = {
        "fp16": onnx.TensorProto.FLOAT16,
        "bf16": onnx.TensorProto.BFLOAT16,
        "int8": onnx.TensorProto.INT8,
    }[precision]
    assert wanted in {kind for name, kind in stored.items() if name.startswith("conv1.weight")}


@pytest.mark.parametrize("precision", ["int8", BF16])
def test_a_graph_of_an_old_opset_is_converted_for_what_needs_a_newer_one(
    folder: Path, tmp_path: Path, precision: Precision
) -> None:
    network = built(lambda: TinyNetwork(end="per frame"))
    clip = (3, FRAMES, SIDE, SIDE)
    file = write_onnx(network, tmp_path / "net.onnx", clip, legacy=True, opset=11)
    description = write_toml(tmp_path / "clip.toml", output={"per_frame": True})
    result = import_onnx(file, description, tmp_path / "x.onnx")
    assert [entry.version for entry in onnx.load(result.path).opset_import] == [11]
    videos = folder / "clips"
    lower = export_onnx(result.path, precision=precision, calibrate=videos, allow=HESITANT)
    assert all(row.passed for row in lower.parity)
    assert onnx.load(lower.path).opset_import[0].version > 11


def test_a_weight_that_is_not_its_parents_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the answers leave room for, the comparison of the numbers does not."""
    from stdeploy.export import onnx as exporting

    honest = exporting.graph_in

    def altered(precision: Precision, graph: onnx.ModelProto) -> onnx.ModelProto:
        made = honest(precision, graph)
        tensor = next(t for t in made.graph.initializer if t.name == "conv2.weight")
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[3, 2, 1, 1, 1] += np.float16(0.002)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return made

    monkeypatch.setattr(exporting, "graph_in", altered)
    with pytest.raises(ParityError, match="layer 'conv2', channel 3, its kernel is off by"):
        export_onnx(folder / "x.onnx", tmp_path / "y.onnx", precision="fp16", allow=HESITANT)
    assert not (tmp_path / "y.onnx").exists()


def test_a_damaged_file_is_not_opened(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "x.onnx")
    weights = next(t for t in model.graph.initializer if t.name == "classifier.weight")
    values = onnx.numpy_helper.to_array(weights).copy()
    values[0] *= 1.5
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    path = tmp_path / "x.onnx"
    write_signed(model, path)  # so that the golden clip alone can tell
    with pytest.raises(ParityError, match="answers the golden clip wrongly"):
        stdeploy.Classifier.open(path, backend="onnxruntime")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fuse", "x.onnx"), "holds no weights for torch"),
        (("export", "x.onnx"), "is exported already"),
        (("analyze", "receptive-field", "x.onnx"), "holds no weights for torch"),
        (("classify", "clips/0.mp4", "-m", "net.onnx"), "stdeploy import"),
        (("classify", "clips/0.mp4", "-m", "x.onnx", "--timeline", "dense"), "strides in time"),
        (("export", "x.onnx", "--precision", "int8"), "--calibrate DATA"),
    ],
)
def test_what_does_not_work_says_so_in_one_line(
    folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    failed = run(*arguments, cwd=folder)
    assert failed.returncode == 2
    assert said in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.stderr


def test_the_library_refuses_what_it_cannot_build(folder: Path, tmp_path: Path) -> None:
    card = stdeploy.read_card(folder / "x.onnx")
    with pytest.raises(SpecError, match=r"stdeploy flops FILE\.onnx"):
        stdeploy.count_flops(card.model)
    with pytest.raises(SpecError, match="was imported from another project as a graph"):
        card.buildable("training")
    with pytest.raises(SpecError, match="is in fp32 already"):
        export_onnx(folder / "x.onnx", tmp_path / "y.onnx")
    with pytest.raises(ArtifactError, match="has its precision, form and name already"):
        export_onnx(folder / "x.int8.onnx", tmp_path / "y.onnx", precision="fp16")


def test_a_transformer_in_half_precision_is_opened(folder: Path, tmp_path: Path) -> None:
    """One optimisation of ONNX Runtime crashes the process on such a graph."""
    network = write_onnx(built(Transformer), tmp_path / "net.onnx", (3, FRAMES, SIDE, SIDE))
    import_onnx(network, folder / "clip.toml", tmp_path / "x.onnx")
    done = run(
        *("export", "x.onnx", "--precision", "fp16", "--allow", "top1_changed=1"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    graph = onnx.load(tmp_path / "x.fp16.onnx").graph
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert stored["patches.weight"] == onnx.TensorProto.FLOAT16
    assert stored["layer.norm1.weight"] == onnx.TensorProto.FLOAT
