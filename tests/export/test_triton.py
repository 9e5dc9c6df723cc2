"""Model repositories of Triton, held against Triton's own schema and ONNX Runtime's signature."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.digest import CARD_KEY
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import sha256_of, sidecar_path
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.export import triton
from stdeploy.export.onnx import export_onnx
from stdeploy.export.triton import write_triton
from stdeploy.fusion import fuse_model
from stdeploy.inference.classifier import Classifier
from stdeploy.models.checkpoint import save_fused
from tests.helpers.full_disk import files_of_at_most
from tests.helpers.models import card_of, tiny_model, write_signed
from tests.helpers.odd_videos import coloured_frames, encode
from tests.helpers.program import stdeploy

README = Path(__file__).parents[2] / "export" / "README.md"
ORT = RuntimeOptions(backend="onnxruntime", threads=1)
NASTY = ("plain", 'quoted "x" \\ back', "\u00a0spaces\u3000", "Übung: 跳舞 💃", "")


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("triton") / "ckpt.fused.safetensors"
    model = fuse_model(tiny_model()).float()
    save_fused(path, model, card_of(model))
    return path


@pytest.fixture(scope="module")
def artifact(fused: Path) -> Path:
    return export_onnx(fused).path


def with_card(artifact: Path, folder: Path, *, name: str | None = None, **fields: Any) -> Path:
    """A copy of an .onnx file with other facts on its card."""
    card = ModelCard.parse(json.loads(read_card(artifact).to_json()) | fields)
    proto = onnx.load(artifact)
    onnx.helper.set_model_props(proto, {CARD_KEY: card.to_json()})
    path = folder / (name or artifact.name)
    write_signed(proto, path)
    return path


def engine(artifact: Path, folder: Path, **fields: Any) -> Path:
    """Bytes that pass for an engine, with a sidecar that describes them."""
    path = folder / "ckpt.nvidia-l4.fp32.engine"
    path.write_bytes(b"bytes of TensorRT" * 999)
    sidecar = {
        "card": read_card(artifact),
        "engine_sha256": sha256_of(path),
        "flavour": "tensorrt",
        "version": "10.16.1.11",
        "gpu": "NVIDIA L4",
        "targets": ("sm89",),
        "hardware_compatible": False,
        "version_compatible": False,
        "batches": (4, 16),
        "onnx": artifact.name,
        "onnx_sha256": sha256_of(artifact),
    }
    written = EngineSidecar(**sidecar | fields)
    sidecar_path(path).write_text(written.model_dump_json())
    return path


def config_of(model: Path) -> Any:
    """config.pbtxt as Triton reads it."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    return text_format.Parse((model / "config.pbtxt").read_text("utf-8"), schema.ModelConfig())


def parameters_of(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def files_under(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_config_says_what_onnx_runtime_finds_in_the_file(artifact: Path, tmp_path: Path) -> None:
    made = write_triton(artifact, tmp_path / "new" / "repository", batches=(4, 8))
    assert (made.folder, made.added) == (tmp_path / "new" / "repository" / "ckpt" / "1", True)
    model = made.folder.parent
    assert files_under(model.parent) == [
        "ckpt/1/model.onnx",
        "ckpt/config.pbtxt",
        "ckpt/labels.txt",
    ]
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
    (frames,), (logits,) = session.get_inputs(), session.get_outputs()
    config = config_of(model)
    assert config.name == "ckpt"
    assert config.platform == "onnxruntime_onnx"
    assert config.max_batch_size == 8
    assert [(i.name, list(i.dims)) for i in config.input] == [(frames.name, frames.shape[1:])]
    assert [(o.name, list(o.dims)) for o in config.output] == [(logits.name, logits.shape[1:])]
    assert (frames.type, logits.type) == ("tensor(uint8)", "tensor(float)")
    kinds = type(config.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    assert kinds[config.input[0].data_type].name == "TYPE_UINT8"
    assert kinds[config.output[0].data_type].name == "TYPE_FP32"
    assert config.output[0].label_filename == "labels.txt"
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 5000
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (1, "KIND_AUTO")
    assert [(w.name, w.batch_size) for w in config.model_warmup] == [("batch 1", 1), ("batch 8", 8)]
    for warmup in config.model_warmup:
        (name, given), *rest = warmup.inputs.items()
        assert (name, list(given.dims), given.random_data) == ("frames", [8, 32, 32, 3], True)
        assert given.data_type == config.input[0].data_type
        assert rest == []
    card = read_card(artifact)
    parameters = parameters_of(config)
    assert parameters.pop("artifact_sha256.1") == sha256_of(artifact)
    assert parameters.pop("architecture") == "i3d-resnet18"
    assert parameters.pop("precision") == "fp32"
    clip = {name.removeprefix("clip."): value for name, value in parameters.items()}
    assert (clip["num_frames"], clip["frame_stride"], clip["fps"]) == ("8", "2", "12.0")
    assert (clip["short_side_px"], clip["crop_px"]) == ("40", "32")
    assert clip.keys() == card.clip.model_dump().keys()
    assert read_card(model / "1" / "model.onnx") == card


@pytest.mark.parametrize(
    ("batches", "preferred"), [((1, 8), [8]), ((8, 8), [8]), ((2, 5), [2, 5]), ((1, 1), None)]
)
def test_batches_are_those_asked_for(
    artifact: Path, tmp_path: Path, batches: tuple[int, int], preferred: list[int] | None
) -> None:
    config = config_of(write_triton(artifact, tmp_path, batches=batches).folder.parent)
    assert config.max_batch_size == batches[1]
    assert config.HasField("dynamic_batching") == (preferred is not None)
    assert list(config.dynamic_batching.preferred_batch_size) == (preferred or [])
    assert [w.batch_size for w in config.model_warmup] == sorted({1, batches[1]})


def test_an_engine_has_its_own_batches_and_says_what_the_server_has_to_be(
    artifact: Path, tmp_path: Path
) -> None:
    path = engine(artifact, tmp_path)
    made = write_triton(path, tmp_path / "repository", name="actions", batches=(1, 1))
    assert files_under(tmp_path / "repository") == [
        "actions/1/model.plan",
        "actions/config.pbtxt",
        "actions/labels.txt",
    ]
    assert (made.folder / "model.plan").read_bytes() == path.read_bytes()
    assert made.note == "runs on Triton with TensorRT 10.16.1.11 on NVIDIA L4"
    config = config_of(made.folder.parent)
    assert (config.name, config.platform, config.max_batch_size) == ("actions", "tensorrt_plan", 16)
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    (group,) = config.instance_group
    assert group.Kind.Name(group.kind) == "KIND_GPU"
    assert parameters_of(config)["artifact_sha256.1"] == sha256_of(path)


def test_a_version_compatible_engine_says_how_to_start_the_server(
    artifact: Path, tmp_path: Path
) -> None:
    path = engine(artifact, tmp_path, version_compatible=True)
    note = write_triton(path, tmp_path / "repository").note
    assert note.endswith("newer with --backend-config=tensorrt,version-compatible=true")


def test_an_altered_engine_is_refused_and_nothing_is_left(artifact: Path, tmp_path: Path) -> None:
    path = engine(artifact, tmp_path)
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(ArtifactError, match="not the file that its sidecar describes"):
        write_triton(path, tmp_path / "repository")
    assert list((tmp_path / "repository").iterdir()) == []


def test_labels_and_names_of_any_characters_arrive(artifact: Path, tmp_path: Path) -> None:
    model = json.loads(read_card(artifact).to_json())["model"]
    strange = 'a "b"\\c\n\x00\x7f\u2028 é'
    path = with_card(artifact, tmp_path, labels=NASTY, model=model | {"architecture": strange})
    made = write_triton(path, tmp_path / "repository").folder.parent
    config = config_of(made)
    assert parameters_of(config)["architecture"] == 'a "b"\\c\\n\\x00\\x7f\\u2028 é'
    # As Triton reads them: lines end at \n and nowhere else.
    text = (made / "labels.txt").read_bytes().decode()
    assert text.endswith("\n")
    assert tuple(text[:-1].split("\n")) == NASTY


def test_a_label_that_holds_the_end_of_a_line_is_refused(artifact: Path, tmp_path: Path) -> None:
    proto = onnx.load(artifact)
    (prop,) = [prop for prop in proto.metadata_props if prop.key == CARD_KEY]
    prop.value = prop.value.replace("class 2", r"two\nlines")
    path = tmp_path / "a.onnx"
    write_signed(proto, path)
    with pytest.raises(ArtifactError, match=r"label 2 holds a control character: 'two\\nlines'"):
        write_triton(path, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_another_artifact_of_the_same_kind_becomes_the_next_version(
    artifact: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    first = write_triton(artifact, repository)
    # What an administrator has changed stays: only what clients rely on has to be alike.
    config = first.folder.parent / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 3") + "# ours\n\n")
    other = with_card(artifact, tmp_path, metrics={"top1": 0.5})
    second = write_triton(other, repository)
    assert (second.folder, second.added) == (repository / "ckpt" / "2", True)
    assert sha256_of(first.folder / "model.onnx") == sha256_of(artifact)
    assert sha256_of(second.folder / "model.onnx") == sha256_of(other)
    merged = config_of(repository / "ckpt")
    assert merged.instance_group[0].count == 3
    assert "# ours" in config.read_text()
    digests = {k: v for k, v in parameters_of(merged).items() if "sha256" in k}
    assert digests == {
        "artifact_sha256.1": sha256_of(artifact),
        "artifact_sha256.2": sha256_of(other),
    }
    assert write_triton(other, repository) == triton.TritonModel(second.folder, added=False)
    # The first again is the newest again, which Triton serves.
    third = write_triton(artifact, repository)
    assert (third.folder.name, third.added) == ("3", True)
    # Triton passes over this one.
    (repository / "ckpt" / "040").mkdir()
    (repository / "ckpt" / "10").mkdir()
    assert write_triton(other, repository).folder.name == "11"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": list("abcde")}, r"labels\.txt' names other classes"),
        ({"precision": "fp16"}, "lacks the line of this artifact `parameters .*fp16"),
    ],
)
def test_another_model_of_the_same_name_is_refused(
    artifact: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    write_triton(artifact, tmp_path / "repository")
    before = [(p, p.read_bytes()) for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    (tmp_path / "other").mkdir()
    other = with_card(artifact, tmp_path / "other", **fields)
    with pytest.raises(ArtifactError, match=message):
        write_triton(other, tmp_path / "repository")
    with pytest.raises(ArtifactError, match="max_batch_size: 4"):
        write_triton(artifact, tmp_path / "repository", batches=(1, 4))
    assert [(p, p.read_bytes()) for p, _ in before] == before
    names = sorted(path.name for path in (tmp_path / "repository" / "ckpt").iterdir())
    assert names == ["1", "config.pbtxt", "labels.txt"]


def test_a_folder_that_is_not_ours_is_left_alone(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "ckpt" / "1").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="holds no model of stdeploy"):
        write_triton(artifact, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="holds no model of stdeploy"):
        write_triton(artifact, tmp_path, name="file")
    with pytest.raises(ArtifactError, match="cannot write to"):
        write_triton(artifact, tmp_path / "file" / "repository")
    assert files_under(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_nothing_of_it(artifact: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    with files_of_at_most(10_000), pytest.raises(ArtifactError, match="File too large"):
        write_triton(artifact, repository)
    assert list(repository.iterdir()) == []
    write_triton(artifact, repository)
    other = with_card(artifact, tmp_path, metrics={"top1": 0.5})
    with files_of_at_most(10_000), pytest.raises(ArtifactError, match="File too large"):
        write_triton(other, repository)
    names = sorted(path.name for path in (repository / "ckpt").iterdir())
    assert names == ["1", "config.pbtxt", "labels.txt"]


def test_a_version_that_appears_meanwhile_is_not_overwritten(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_triton(artifact, tmp_path / "repository")
    put = triton._put

    def overtaken(source: Path, target: Path) -> str:
        theirs = tmp_path / "repository" / "ckpt" / "2"
        theirs.mkdir()
        (theirs / "model.onnx").write_text("theirs")
        return put(source, target)

    monkeypatch.setattr(triton, "_put", overtaken)
    other = with_card(artifact, tmp_path, metrics={"top1": 0.5})
    with pytest.raises(ArtifactError, match="written by another process meanwhile"):
        write_triton(other, tmp_path / "repository")
    model = tmp_path / "repository" / "ckpt"
    assert (model / "2" / "model.onnx").read_text() == "theirs"
    assert sorted(p.name for p in model.iterdir()) == ["1", "2", "config.pbtxt", "labels.txt"]


def test_others_may_read_what_is_written(artifact: Path, tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        model = write_triton(artifact, tmp_path).folder.parent
    finally:
        os.umask(previous)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (model, *model.rglob("*"))}
    assert modes == {
        "ckpt": 0o755,
        "1": 0o755,
        "model.onnx": 0o644,
        "config.pbtxt": 0o644,
        "labels.txt": 0o644,
    }


@pytest.mark.parametrize("name", ["", "..", ".hidden", "-x", "a/b", "two words", "x\n", "é"])
def test_names_that_cannot_be_folders_and_parts_of_urls_are_refused(
    artifact: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SpecError, match="cannot be named"):
        write_triton(artifact, tmp_path / "repository", name=name)
    assert not (tmp_path / "repository").exists()


def test_what_triton_cannot_run_is_refused(artifact: Path, fused: Path, tmp_path: Path) -> None:
    half = with_card(artifact, tmp_path, precision="bf16")
    with pytest.raises(SpecError, match=r"no convolution in bf16.*--precision fp16"):
        write_triton(half, tmp_path / "repository")
    ahead = engine(artifact, tmp_path, flavour="tensorrt_rtx", gpu=None)
    with pytest.raises(SpecError, match="not of TensorRT-RTX"):
        write_triton(ahead, tmp_path / "repository")
    with pytest.raises(ArtifactError, match=r"nothing that Triton runs; give an \.onnx"):
        write_triton(fused, tmp_path / "repository")
    with pytest.raises(SpecError, match="need 1 <= best <= largest"):
        write_triton(artifact, tmp_path / "repository", batches=(4, 2))
    assert not (tmp_path / "repository").exists()


def test_the_verb_exports_first_or_takes_what_is_there(fused: Path, tmp_path: Path) -> None:
    (tmp_path / "ckpt.fused.safetensors").write_bytes(fused.read_bytes())
    result = stdeploy("export", "--triton", "models", "--batches", "2,4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "models/ckpt/1"
    assert config_of(tmp_path / "models" / "ckpt").max_batch_size == 4
    onnx_file = tmp_path / "ckpt.onnx"
    assert sha256_of(tmp_path / "models/ckpt/1/model.onnx") == sha256_of(onnx_file)
    result = stdeploy("export", "ckpt.onnx", "--triton", "models", "--name", "b", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "models/b/1\n")
    again = stdeploy("export", "ckpt.onnx", "--triton", "models", "--name", "b", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "models/b/1\n")
    assert "holds this artifact already" in again.stderr
    path = engine(onnx_file, tmp_path)
    result = stdeploy("export", path.name, "--triton", "models", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "models/ckpt.nvidia-l4.fp32/1\n")
    assert "TensorRT 10.16.1.11" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--name", "x"), "add --triton"),
        (("--triton", "d", "--name", "a/b"), "cannot be named"),
        (("--triton", "d", "--precision", "bf16"), "no convolution in bf16"),
        (("--triton", "d", "--trt", "--target", "sm89"), "not of TensorRT-RTX"),
        (("x.onnx", "--triton", "d", "--precision", "fp16"), "has its precision, form and name"),
        (("x.engine", "--triton", "d", "--batches", "1,2"), "has its batches already"),
        (("x.onnx", "--triton", "d"), "does not exist"),
    ],
)
def test_options_that_cannot_be_are_refused_before_any_work(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = stdeploy("export", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def protocol(artifact: Path) -> Iterator[tuple[int, list[str]]]:
    """The two requests of the Open Inference Protocol that the README makes, answered by ORT.

    Yields:
        Port, and the paths that were asked for.
    """
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            cut = int(self.headers["Inference-Header-Content-Length"])
            (tensor,) = json.loads(body[:cut])["inputs"]
            frames = np.frombuffer(body[cut:], np.uint8).reshape(tensor["shape"])
            assert (tensor["name"], tensor["datatype"]) == ("frames", "UINT8")
            with open_runtime(artifact, options=ORT) as runtime:
                logits = runtime.run(frames)
            output = {
                "name": "logits",
                "datatype": "FP32",
                "shape": logits.shape,
                "data": logits.ravel().tolist(),
            }
            answer = json.dumps({"model_name": "ckpt", "outputs": [output]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


def test_the_client_of_the_readme_classifies_like_the_library(
    artifact: Path, tmp_path: Path, protocol: tuple[int, list[str]]
) -> None:
    pytest.importorskip("tritonclient.http")
    port, asked = protocol
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert code.count("127.0.0.1:8000") == 1
    (tmp_path / "client.py").write_text(code.replace(":8000", f":{port}"))
    (tmp_path / "ckpt.onnx").write_bytes(artifact.read_bytes())
    encode(tmp_path / "video.mp4", coloured_frames(40), "libx264")
    result = subprocess.run(
        [sys.executable, "client.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    with Classifier.open(artifact, runtime_options=ORT) as classifier:
        expected = classifier.classify(tmp_path / "video.mp4")
    lines = [f"{score:.3f}  {label}" for label, score in expected.top(5)]
    assert result.stdout.splitlines() == lines
    assert asked == ["/v2/models/ckpt/infer"]
