"""Packages of AOTInductor: compiled here, opened as users do, refused where they do not fit."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import cpp_extension
from typer.testing import CliRunner

from stdeploy.artifacts.aot_sidecar import AotSidecar
from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.files import sidecar_path
from stdeploy.artifacts.golden import golden_clip
from stdeploy.backends import aot_package, aotinductor
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.card_editing import edit_card
from stdeploy.cli.main import app
from stdeploy.errors import ArtifactError, BackendError, ParityError, SpecError
from stdeploy.export import aot
from stdeploy.export.aot import BuiltPackage, build_package
from stdeploy.hardware import cpu_name, gpus

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler here")


@pytest.fixture(scope="module")
def built(exported_folder: Path) -> BuiltPackage:
    return build_package(exported_folder / "a.fused.safetensors", form="planar", device="cpu")


@pytest.fixture
def package(built: BuiltPackage, tmp_path: Path) -> Path:
    for path in (built.path, sidecar_path(built.path), built.path.with_name(built.sidecar.fused)):
        shutil.copy(path, tmp_path)
    return tmp_path / built.path.name


def test_a_package_gives_the_logits_of_the_fused_network(
    built: BuiltPackage, exported_folder: Path
) -> None:
    assert built.path.name == "a.cpu.planar.fp32.aot.pt2"
    card = read_card(built.path)
    assert card == built.sidecar.card
    assert (card.form, card.precision) == ("planar", "fp32")
    checks = [row.check for row in built.parity]
    assert "planar form, noise" in checks
    assert "aotinductor, batch 5" in checks
    frames = np.stack([golden_clip(seed, card.clip.frames_shape) for seed in range(3)])
    with (
        open_runtime(exported_folder / "a.fused.safetensors") as fused,
        open_runtime(built.path) as runtime,
    ):
        assert (runtime.name, runtime.device, runtime.precision) == (
            "aotinductor",
            "CPU, planar",
            "fp32",
        )
        for batch in (1, 3, 2):
            logits = runtime.run(frames[:batch])
            np.testing.assert_allclose(logits, fused.run(frames[:batch]), rtol=0, atol=1e-5)


def test_nothing_is_loaded_that_is_not_what_was_built(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[bytes] = []
    monkeypatch.setattr(aotinductor, "load_package", loaded.append)
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"because it is code; run: stdeploy export .* --aot"):
        open_runtime(package)
    sidecar_path(package).unlink()
    with pytest.raises(ArtifactError, match=r"needs 'a\.cpu\.planar\.fp32\.aot\.pt2\.json'"):
        open_runtime(package)
    assert not loaded


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"torch": "2.1.0"}, "it was compiled by torch 2.1.0, here is "),
        ({"target": "Intel 8086"}, f"compiled for Intel 8086, here is {cpu_name()}"),
    ],
)
def test_a_package_of_another_host_is_refused(
    package: Path, changed: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aotinductor, "load_package", lambda _content: pytest.fail("loaded"))
    AotSidecar.read(package).model_copy(update=changed).write(package)
    with pytest.raises(ArtifactError) as refused:
        open_runtime(package)
    assert message in str(refused.value)
    assert (
        f"run: stdeploy export {package.with_name('a.fused.safetensors')} --aot --device cpu "
        "--batches 1,1 --form planar, or pass --rebuild"
    ) in str(refused.value)


def test_what_a_package_for_a_gpu_asks_for(built: BuiltPackage) -> None:
    sidecar = built.sidecar.model_copy(
        update={"gpu": "NVIDIA H100", "target": "sm90", "torch": "2.13.0+cu130", "batch": 8}
    )
    assert sidecar.mismatch("2.13.0+cu130", "sm90", "NVIDIA H200") is None
    assert sidecar.mismatch("2.13.0+cu130", "sm89", "NVIDIA L4") == (
        "it was compiled for sm90 on NVIDIA H100, here is NVIDIA L4 (sm89)"
    )
    assert "--device cuda --batches 8,8" in sidecar.rebuild_command(built.path)


def test_rebuild_compiles_it_again(package: Path) -> None:
    AotSidecar.read(package).model_copy(update={"torch": "2.1.0"}).write(package)
    with open_runtime(package, options=RuntimeOptions(rebuild=True)) as runtime:
        assert runtime.name == "aotinductor"
    again = AotSidecar.read(package)
    assert again.torch != "2.1.0"
    assert [row.check for row in again.card.parity] == ["aotinductor, golden clip"]
    open_runtime(package).close()
    package.with_name("a.fused.safetensors").write_bytes(b"another file")
    again.model_copy(update={"torch": "2.1.0"}).write(package)
    with pytest.raises(ArtifactError, match=r"is not the file that .* was compiled from"):
        open_runtime(package, options=RuntimeOptions(rebuild=True))


def test_its_card_can_be_edited(package: Path) -> None:
    edit_card(package, {"views": "3"})
    assert read_card(package).clip.views == 3
    open_runtime(package).close()


def test_what_a_package_is_not_is_refused(built: BuiltPackage) -> None:
    with pytest.raises(BackendError, match="in fp32, as it was written"):
        open_runtime(built.path, options=RuntimeOptions(precision="bf16"))
    with pytest.raises(BackendError, match="which has no CUDA graphs"):
        open_runtime(built.path, options=RuntimeOptions(cuda_graphs=True))
    with pytest.raises(SpecError, match="aotinductor has no --planar"):
        open_runtime(built.path, options=RuntimeOptions(planar=True))
    with pytest.raises(ArtifactError, match="torch does not run"):
        open_runtime(built.path, options=RuntimeOptions(backend="torch"))
    with pytest.raises(BackendError, match="leave --device cuda out"):
        open_runtime(built.path, options=RuntimeOptions(device="cuda"))


def test_a_package_that_answers_wrongly_is_not_written(
    exported_folder: Path, built: BuiltPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(exported_folder / "a.fused.safetensors", tmp_path)
    # What was compiled before, instead of compiling again: answers are spoilt by one part in 100.
    right = aot.AotInductorRuntime.run

    def precompiled(_fused: Path, _model: Any, _card: Any, path: Path, **_how: Any) -> AotSidecar:
        shutil.copy(built.path, path)
        built.sidecar.write(path)
        return built.sidecar

    monkeypatch.setattr(aot, "write_package", precompiled)
    monkeypatch.setattr(aot.AotInductorRuntime, "run", lambda self, f: right(self, f) * 1.01)
    with pytest.raises(ParityError, match=r"the package of 'a\.fused\.safetensors' differs"):
        build_package(tmp_path / "a.fused.safetensors", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["a.fused.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--aot", "--trt", "--pt2"], "leave --pt2, --trt out"),
        (["--autotune"], "add --aot"),
        (["--aot", "--precision", "int8"], "torch compiles no int8; choose fp32, fp16 or bf16"),
        (["--aot", "--precision", "fp16", "--device", "cpu"], "choose bf16"),
        *([] if gpus() else [(["--aot", "--device", "cuda"], "torch sees no NVIDIA GPU")]),
    ],
)
def test_what_cannot_be_compiled_is_told(
    exported_folder: Path, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(
        app, ["export", str(exported_folder / "a.fused.safetensors"), *arguments]
    )
    assert result.exit_code != 0
    assert message in str(result.exception or result.output)
    with pytest.raises(ArtifactError, match="torch compiles no graph"):
        build_package(exported_folder / "a.onnx")


def test_headers_are_looked_for_before_anything_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "cuda.h").write_text('#include "crt/host_defines.h"\n')
    with pytest.raises(BackendError, match=r"headers of CUDA .*crt/host_defines\.h.*; install"):
        aot_package.check_compiler([str(tmp_path)], ["cuda.h"])
    (tmp_path / "crt").mkdir()
    (tmp_path / "crt" / "host_defines.h").write_text("#define __host__\n")
    aot_package.check_compiler([str(tmp_path)], ["cuda.h"])


def test_headers_of_pip_are_found_where_there_is_no_toolkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two folders, as where one package was brought later."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.delenv("CPATH", raising=False)
    runtime, rest = (tmp_path / name / "nvidia" / "cu13" / "include" for name in "ab")
    for folder in (runtime, rest / "crt"):
        folder.mkdir(parents=True)
    for header in aot_package._CUDA_HEADERS:
        (runtime / header).write_text('#include "crt/host_defines.h"\n')
    for name in "ab":
        monkeypatch.syspath_prepend(tmp_path / name)
    assert set(aot_package.pip_headers()) >= {runtime, rest}
    with (
        pytest.raises(BackendError, match="pip install nvidia-cuda-crt"),
        aot_package.cuda_headers("cuda"),
    ):
        pass
    (rest / "crt" / "host_defines.h").write_text("")
    with aot_package.cuda_headers("cuda"):
        assert cpp_extension.CUDA_HOME in (str(runtime.parent), str(rest.parent))
        aot_package.check_compiler([], aot_package._CUDA_HEADERS)  # by its environment
    assert cpp_extension.CUDA_HOME is None
    assert "CPATH" not in os.environ


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match="'no-such-compiler' cannot be started"):
        aot_package.check_compiler([], [])
