"""Our TensorRT code against the real bindings of TensorRT 10.16 and 11.0 to 11.4.

Their libraries cannot be installed without NVIDIA's own index, but the bindings are on PyPI. With
empty libraries in place of the real ones they import, mypy's stubgen reads names and signatures
out of them, and mypy holds our code, which knows the module only at run time, against those.
"""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[2] / "stdeploy"
FILES = ("backends/tensorrt_builder.py", "backends/tensorrt.py")
# What the bindings import from the libraries; nothing of it is called here.
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
# Names and arguments that do not exist. Types of arguments are left out: the bindings convert
# tuples to their own classes, which stubs do not say.
CODES = ("[attr-defined]", "[call-arg]", "[name-defined]", "[index]", "[operator]")


VERSIONS = ("10.16", "11.0", "11.1", "11.2", "11.3", "11.4")


@pytest.fixture(scope="module", params=VERSIONS)
def stubs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package `tensorrt` as stubs of one version of the real bindings."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here to make empty libraries with")
    version, folder = request.param, tmp_path_factory.mktemp("tensorrt")
    wheels = request.config.cache.mkdir(f"tensorrt-bindings-{version}")
    if not list(wheels.glob("*.whl")):
        requirement = f"tensorrt-cu13-bindings~={version}.0"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement]
        if subprocess.run(command, cwd=wheels, capture_output=True, check=False).returncode:
            pytest.skip(f"{requirement} cannot be downloaded here")
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    source = folder / "empty.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{version.partition('.')[0]}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library)]
        subprocess.run(["cc", str(source), *options], check=True)
    subprocess.run(
        [
            str(Path(sys.executable).with_name("stubgen")),
            *("--inspect-mode", "--quiet", "-m", "tensorrt_bindings.tensorrt", "-o", "made"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)},
        check=True,
        capture_output=True,
    )
    (folder / "stubs" / "tensorrt").mkdir(parents=True)
    text = (folder / "made" / "tensorrt_bindings" / "tensorrt.pyi").read_text()
    (folder / "stubs" / "tensorrt" / "__init__.pyi").write_text(parsable(text))
    return folder / "stubs"


def parsable(stub: str) -> str:
    """A stub whose lines that are no Python (a default before none) take any arguments."""
    lines = stub.splitlines()
    while True:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            number = (error.lineno or 1) - 1
            indent, _, rest = lines[number].partition("def ")
            lines[number] = f"{indent}def {rest.partition('(')[0]}(*args, **kwargs): ..."
        else:
            return "\n".join(lines)


def complaints(stubs: Path, folder: Path, change=lambda text: text) -> list[str]:
    """What mypy says about names in our files, with the module known while it reads them."""
    copies = []
    for name in FILES:
        text = (PACKAGE / name).read_text()
        assert "distribution.api" in text
        text = text.replace("api = distribution.api", "import tensorrt as api")
        text = text.replace("distribution.api.", "trt.").replace("# type: ignore", "# was ignored")
        copy = folder / name.replace("/", "_")
        copy.write_text(change(text))
        copies.append(str(copy))
    result = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "mypy",
                "--config-file=",
                f"--cache-dir={stubs.parent / 'cache'}",
            ),
            *("--follow-imports=silent", "--ignore-missing-imports", "--check-untyped-defs"),
            *copies,
        ],
        cwd=folder,
        env={**os.environ, "MYPYPATH": f"{stubs}:{PACKAGE.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    lines = result.stdout.splitlines()
    return [line for line in lines if line.endswith(CODES) and "__init__.pyi" not in line]


# TensorRT-RTX alone has these; tests/backends/test_engine_files.py runs them for real.
RTX_ONLY = (
    *("num_compute_capabilities", "set_compute_capability", '"ComputeCapability"'),
    *('"DynamicShapesKernelSpecializationStrategy"', '"CudaGraphStrategy"'),
)


def test_every_name_that_we_use_exists(stubs: Path, tmp_path: Path) -> None:
    found = complaints(stubs, tmp_path)
    assert [line for line in found if not any(name in line for name in RTX_ONLY)] == []


WRONG = {
    "config.set_memory_pool_limit(": "config.max_workspace_size(",
    "context.execute_async_v3(": "context.execute_async_v2(",
    "api.BuilderFlag.TF32": "api.BuilderFlag.TF64",
    "error.node_operator()": "error.node_kind()",
    "engine.get_tensor_name(number)": "engine.get_binding_name(number)",
    "ignore_mismatch=False": "ignore_mismatches=False",
}


def test_names_that_do_not_exist_are_found(stubs: Path, tmp_path: Path) -> None:
    sources = "".join((PACKAGE / name).read_text() for name in FILES)
    assert all(ours in sources for ours in WRONG)

    def spoil(text: str) -> str:
        for ours, wrong in WRONG.items():
            text = text.replace(ours, wrong)
        return text

    found = "\n".join(complaints(stubs, tmp_path, spoil))
    for name in WRONG.values():
        assert f'"{name.strip("(").split(".")[-1].split("(")[0].split("=")[0]}"' in found
