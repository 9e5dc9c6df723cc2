"""Engines by TensorRT-RTX, which builds for named GPUs without one; and what refuses them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.digest import DIGEST_FIELD, content_sha256, sidecar_part
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import engine_path, sha256_of, sidecar_path
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.backends.tensorrt_builder import BuildOptions
from stdeploy.errors import ArtifactError, BackendError, SpecError
from stdeploy.export.engine import BuiltEngine, build_engine
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_model
from stdeploy.hardware import Gpu, gpus
from stdeploy.models.checkpoint import save_fused
from stdeploy.models.frames_to_logits import logits_of
from stdeploy.models.registry import ARCHITECTURES
from tests.helpers.models import TINY_CLIP, card_of, tiny_model, write_signed
from tests.helpers.videos import write_golden_videos

ORT = RuntimeOptions(backend="onnxruntime")
TARGETS = BuildOptions(targets=("sm86", " SM89", "sm86"), batches=(2, 4))
H200 = Gpu("NVIDIA H200", (9, 0), 141 << 30)
L4 = Gpu("NVIDIA L4", (8, 9), 24 << 30)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_golden_videos(tmp_path_factory.mktemp("clips"), count=2)


@pytest.fixture(scope="module")
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed here")


@pytest.fixture(scope="module")
def built(rtx: None, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    folder = tmp_path_factory.mktemp("engine")
    model = fuse_model(tiny_model(temporal_lengths=(1, 1, 3, 3, 5))).float()
    save_fused(folder / "a.fused.safetensors", model, card_of(model))
    return build_engine(export_onnx(folder / "a.fused.safetensors").path, TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_architecture_is_exported_parsed_and_built_in_every_precision(
    request: pytest.FixtureRequest, tmp_path: Path, clips: Path, architecture: str
) -> None:
    model = fuse_model(tiny_model(architecture, temporal_lengths=(3, 1, 3, 3, 5))).float()
    fused = tmp_path / "a.fused.safetensors"
    save_fused(fused, model, card_of(model))
    frames = np.random.default_rng(0).integers(0, 256, (3, *TINY_CLIP.frames_shape), np.uint8)
    # int8 of a random network is not asked to be accurate here, only to be taken.
    lax = dict.fromkeys(("max_error", "mean_error", "top1_changed", "kl_nats"), 10.0)
    precisions, exported = ("fp32", "fp16", "int8"), []
    for precision in precisions:
        allow = lax if precision == "int8" else {}
        options: dict[str, Any] = {"precision": precision, "calibrate": clips, "allow": allow}
        onnx_file = export_onnx(fused, **options).path
        if precision == "fp32":
            with open_runtime(onnx_file, options=ORT) as runtime:
                expected = logits_of(model, TINY_CLIP, frames)
                np.testing.assert_allclose(runtime.run(frames), expected, rtol=1e-4, atol=1e-5)
        exported.append(onnx_file)
    # Without TensorRT-RTX what follows is skipped, what was exported has been compared.
    request.getfixturevalue("rtx")
    for precision, onnx_file in zip(precisions, exported, strict=True):
        engine = build_engine(onnx_file, TARGETS)
        assert engine.path.name == f"a.sm86-sm89.{precision}.engine"
        assert EngineSidecar.read(engine.path).card.precision == precision
        assert read_card(engine.path).labels == read_card(onnx_file).labels


def test_sidecar_says_what_the_engine_is(built: BuiltEngine) -> None:
    sidecar = EngineSidecar.read(built.path)
    onnx_file = built.path.with_name("a.onnx")
    assert sidecar == built.sidecar
    assert sidecar.engine_sha256 == sha256_of(built.path)
    assert (sidecar.onnx, sidecar.onnx_sha256) == ("a.onnx", sha256_of(onnx_file))
    assert (sidecar.distribution, sidecar.gpu) == ("tensorrt_rtx", None)
    assert sidecar.version.startswith("1.")
    assert (sidecar.targets, sidecar.batches) == (("sm86", "sm89"), (2, 4))
    assert sidecar.card.lineage.parent == "a.onnx"
    assert sidecar.card.golden == read_card(onnx_file).golden
    assert sidecar.card.parity == ()  # nothing was run
    assert "not run" in built.notes[0]
    names = sorted(path.name for path in built.path.parent.iterdir())
    assert names == [
        "a.fused.safetensors",
        "a.onnx",
        built.path.name,
        sidecar_path(built.path).name,
    ]


def copy_of(built: BuiltEngine, folder: Path) -> Path:
    for path in (built.path, sidecar_path(built.path)):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / built.path.name


def change_sidecar(engine: Path, **fields: object) -> None:
    path = sidecar_path(engine)
    changed = {**json.loads(path.read_text()), **fields}
    changed[DIGEST_FIELD] = content_sha256([sidecar_part(changed)])
    path.write_text(json.dumps(changed))


def test_altered_engine_is_refused_before_anything_is_loaded(
    built: BuiltEngine, tmp_path: Path
) -> None:
    engine = copy_of(built, tmp_path)
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"not the file that its sidecar .* because it is code"):
        open_runtime(engine)


def test_engine_without_or_with_a_broken_sidecar_is_refused(
    built: BuiltEngine, tmp_path: Path
) -> None:
    engine = copy_of(built, tmp_path)
    change_sidecar(engine, batches="many")
    with pytest.raises(ArtifactError, match="batches"):
        open_runtime(engine)
    sidecar_path(engine).write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_runtime(engine)
    sidecar_path(engine).unlink()
    with pytest.raises(ArtifactError, match=r"needs 'a\.sm86-sm89\.fp32\.engine\.json'"):
        open_runtime(engine)


@pytest.mark.skipif(bool(gpus()), reason="about hosts without a GPU")
def test_engine_on_a_host_without_a_gpu_is_refused(built: BuiltEngine) -> None:
    with pytest.raises(BackendError, match=r"\(sm86, sm89\), and there is none here; use a\.onnx"):
        open_runtime(built.path)


def test_engine_that_does_not_fit_the_host_says_why(built: BuiltEngine) -> None:
    sidecar = built.sidecar
    assert sidecar.mismatch(sidecar.version, L4) is None
    reason = sidecar.mismatch(sidecar.version, H200)
    assert reason == "it was built for sm86, sm89, here is NVIDIA H200 (sm90)"
    reason = sidecar.mismatch("1.8.0.1", L4)
    assert reason == f"it was built by tensorrt_rtx {sidecar.version}, here is 1.8.0.1"
    assert sidecar.mismatch(sidecar.version, L4) is None
    wide = sidecar.model_copy(update={"hardware_compatible": True, "targets": ("sm80",)})
    assert wide.mismatch(wide.version, H200) is None
    assert wide.mismatch(wide.version, Gpu("Tesla T4", (7, 5), 16 << 30)) is not None
    lasting = sidecar.model_copy(update={"version_compatible": True, "version": "10.16.1"})
    assert lasting.mismatch("11.4.0", L4) is None
    assert lasting.mismatch("10.9.0", L4) is not None
    command = "stdeploy export runs/a.onnx --trt --batches 2,4"
    assert sidecar.rebuild_command(Path("runs/a.sm90.fp32.engine")) == command


@pytest.mark.skipif(bool(gpus()), reason="about hosts without a GPU")
def test_no_target_and_no_gpu_says_what_to_run_where(built: BuiltEngine) -> None:
    with pytest.raises(BackendError, match=r"no NVIDIA GPU here; .*--target sm86,sm89,sm120"):
        build_engine(built.path.with_name("a.onnx"), BuildOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": (8, 4)}, "need 1 <= best <= largest"),
        ({"targets": ("sm86/sm89",)}, "--target sm86/sm89"),
        ({"targets": ("sm61",)}, r"--target sm61: TensorRT-RTX builds for .*sm86, sm89"),
        ({"targets": ("sm86",), "hardware_compatible": True}, "no compatibility options"),
    ],
)
def test_targets_that_cannot_be_are_refused(
    built: BuiltEngine, options: dict, message: str
) -> None:
    before = sorted(built.path.parent.iterdir())
    with pytest.raises(SpecError, match=message):
        build_engine(built.path.with_name("a.onnx"), BuildOptions(**options))
    assert sorted(built.path.parent.iterdir()) == before


def test_unsupported_nodes_are_named(built: BuiltEngine, tmp_path: Path) -> None:
    proto = onnx.load(built.path.with_name("a.onnx"))
    node = next(node for node in proto.graph.node if node.op_type == "Relu")
    node.op_type, node.domain = "Rectify", "somebody.else"
    proto.opset_import.append(onnx.helper.make_opsetid("somebody.else", 1))
    write_signed(proto, tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match=f"Rectify node '{node.name}'"):
        build_engine(tmp_path / "a.onnx", TARGETS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_progress_of_a_build_is_told(built: BuiltEngine, tmp_path: Path) -> None:
    told: list[str] = []
    onnx_file = tmp_path / "a.onnx"
    onnx_file.write_bytes(built.path.with_name("a.onnx").read_bytes())
    build_engine(onnx_file, TARGETS, progress=lambda what, _done, _total: told.append(what))
    assert any(what.startswith("building: ") for what in told)


def test_names_of_engines() -> None:
    assert engine_path(Path("x/a.onnx"), "sm86", "fp32") == Path("x/a.sm86.fp32.engine")
    assert engine_path(Path("a.int8.onnx"), "sm86", "int8") == Path("a.sm86.int8.engine")
    assert H200.slug == "nvidia-h200"
    assert Gpu("NVIDIA RTX 4090 (Laptop)", (8, 9), 1).slug == "nvidia-rtx-4090-laptop"
