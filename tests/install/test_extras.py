"""Every extra alone brings what it promises: its libraries load, and our packages over them."""

import importlib.metadata
import pkgutil
from pathlib import Path

import pytest

from tests.data.files import TINY_ONNX
from tests.helpers.one_extra import EXTRAS, environment_with, modules_of, requirements_of
from tests.helpers.program import python, records, stdeploy
from tests.helpers.videos import numbered_frames, write_video

# Extra -> what of stdeploy has to load with it; a package stands for all its modules.
OURS = {
    "analysis": ("analysis",),
    "bench": ("bench",),
    "cpu": ("artifacts", "backends.onnxruntime", "datasets", "doctor", "inference"),
    "docs": (),
    "export": ("export", "fusion"),
    "gpu": ("backends.onnxruntime", "backends.cuda"),
    "mqtt": ("events",),
    "nvdec": ("video",),
    "openvino": ("backends.openvino",),
    "parquet": ("inference.result_files",),
    "pictures": ("plotting",),
    "pyav": ("video",),
    "ray": ("inference.ray_data",),
    "rtx": ("backends.tensorrt", "backends.cuda"),
    "serve": ("serve.server", "serve.settings"),
    "train": ("layers", "models", "fusion", "train"),
    "trt": ("backends.tensorrt", "backends.cuda"),
    "webhook": ("events",),
}
# Modules of these packages that need another extra; verbs load them when that is asked for.
APART = {
    "datasets.synthetic": "train",
    "export.quantise": "cpu",
    "inference.ray_data": "ray",
    **dict.fromkeys(("video.nv12", "video.nvdec", "video.tensor_transform"), "nvdec"),
}


def test_every_extra_is_looked_at() -> None:
    assert set(OURS) == set(EXTRAS) - {"dev"}


def environment(*extras: str, folder: Path) -> dict[str, str]:
    folder.mkdir()
    try:
        return environment_with(*extras, folder=folder)
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed here")


def ours(name: str) -> list[str]:
    package = Path(__file__).parents[2].joinpath("stdeploy", *name.split("."))
    modules = [module.name for module in pkgutil.iter_modules([str(package)])]
    return [f"stdeploy.{name}", *(f"stdeploy.{name}.{m}" for m in modules)]


@pytest.mark.parametrize("extra", OURS)
def test_an_extra_alone_loads_what_it_promises(extra: str, tmp_path: Path) -> None:
    alone = environment(extra, folder=tmp_path / "site")
    libraries = sorted(
        modules_of(r.name.lower() for r in requirements_of(extra)) - {"google", "functorch"}
    )
    modules = [module for name in OURS[extra] for module in ours(name)]
    wanted = [m for m in modules if APART.get(m.removeprefix("stdeploy."), extra) == extra]
    code = "import importlib\n" + "".join(
        f"importlib.import_module({name!r})\n"
        for name in [*(name for name in libraries if name.isidentifier()), *wanted]
    )
    result = python("-c", code, cwd=tmp_path, **alone)
    assert result.returncode == 0, result.stderr


def test_what_an_extra_does_not_bring_is_hidden(tmp_path: Path) -> None:
    """So that the tests here can fail."""
    alone = environment("cpu", folder=tmp_path / "site")
    result = python("-c", "import pytest", cwd=tmp_path, **alone)
    assert "No module named 'pytest'" in result.stderr


def test_rows_as_parquet_need_no_more_than_the_extra(tmp_path: Path) -> None:
    alone = environment("cpu", "parquet", folder=tmp_path / "site")
    write_video(tmp_path / "a.mp4", numbered_frames(30), fps=12.0)
    arguments = ("classify", "a.mp4", "--model", TINY_ONNX, "--output", "rows.parquet")
    result = stdeploy(*arguments, cwd=tmp_path, **alone)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "rows.parquet").read_bytes()[:4] == b"PAR1"


@pytest.mark.parametrize(
    ("extras", "backend"), [(("cpu", "pyav"), "onnxruntime"), (("openvino",), "openvino")]
)
def test_a_video_is_classified(extras: tuple[str, ...], backend: str, tmp_path: Path) -> None:
    alone = environment(*extras, folder=tmp_path / "site")
    write_video(tmp_path / "a.mp4", numbered_frames(30), fps=12.0)
    arguments = ("classify", "a.mp4", "--model", TINY_ONNX, "--backend", backend, "--json")
    result = stdeploy(*arguments, cwd=tmp_path, **alone)
    assert result.returncode == 0, result.stderr
    assert records(result)[0]["predictions"][0]["label"] == "class 4"


@pytest.mark.slow
def test_a_checkpoint_is_fused_with_train_exported_with_export(tmp_path: Path) -> None:
    train = environment("train", folder=tmp_path / "train")
    export = environment("export", "cpu", folder=tmp_path / "export")
    write = (
        "from pathlib import Path; from stdeploy.models.checkpoint import save_checkpoint; "
        "from tests.helpers.models import card_of, tiny_model; "
        "model = tiny_model(); save_checkpoint(Path('ckpt.pt'), model, card_of(model))"
    )
    assert python("-c", write, cwd=tmp_path, **train).returncode == 0
    fused = stdeploy("fuse", "ckpt.pt", cwd=tmp_path, **train)
    assert fused.returncode == 0, fused.stderr
    alone = environment("export", folder=tmp_path / "alone")
    refused = stdeploy("export", cwd=tmp_path, **alone)
    assert refused.returncode == 3
    assert "needs onnxruntime, which is not installed; run: " in refused.stderr
    exported = stdeploy("export", cwd=tmp_path, **export)
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "ckpt.onnx").is_file()
