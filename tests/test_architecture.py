"""The packages as docs/architecture.md draws them: which layer may import which."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

PACKAGE = Path(__file__).parents[1] / "stdeploy"

# A package may import itself, the packages in its row, and whatever those may import.
MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "optional_packages": {"errors"},
    "hardware": set(),
    "artifacts": {"__init__", "optional_packages", "hardware"},
    "layers": {"artifacts"},
    "models": {"layers"},
    "card_editing": {"models"},
    "fusion": {"models"},
    "video": {"artifacts"},
    "datasets": {"video"},
    "events": {"artifacts"},
    "backends": {"models"},
    "inference": {"backends", "datasets"},
    "plotting": {"inference"},
    "serve": {"events", "inference"},
    "export": {"backends", "datasets"},
    "importing": {"export"},
    "bench": {"backends", "plotting"},
    "doctor": {"backends", "video"},
    "pull": {"models"},
    "analysis": {"export", "fusion", "plotting"},
    "train": {"analysis", "inference", "pull"},
    "__main__": {"cli"},
    "cli": {
        "analysis",
        "bench",
        "card_editing",
        "doctor",
        "events",
        "export",
        "fusion",
        "importing",
        "plotting",
        "pull",
        "serve",
        "train",
    },
}
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "cv2")


def package_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def allowed(package: str) -> set[str]:
    packages = {package}
    for other in MAY_IMPORT[package]:
        packages |= allowed(other)
    return packages


def imported_packages(file: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stdeploy"):
            if node.module == "stdeploy":
                for alias in node.names:
                    inside = (PACKAGE / alias.name).exists() or (
                        PACKAGE / f"{alias.name}.py"
                    ).exists()
                    packages.add(alias.name if inside else "__init__")
            else:
                packages.add(package_of(node.module))
        elif isinstance(node, ast.Import):
            packages |= {package_of(a.name) for a in node.names if a.name.startswith("stdeploy")}
    return packages


# The front door names everything and imports nothing before it is asked; see test_front_door.py.
FILES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    package = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert imported_packages(file) <= allowed(package)


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import stdeploy",
        "import stdeploy.cli.main",
        "from typer.testing import CliRunner; from stdeploy.cli.main import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
    ids=["import", "cli", "help"],
)
def test_help_loads_nothing_heavy(code: str) -> None:
    assert loaded_after(code) == set()


def test_looking_at_filters_loads_nothing_heavy(tmp_path: Path) -> None:
    """torch alone takes seconds; a .safetensors file is read, and drawn, without it."""
    weights, picture = tmp_path / "a.safetensors", tmp_path / "a.png"
    save_file({"conv3.0.weight": np.ones((2, 2, 3, 3, 3), np.float32)}, weights)
    command = ["analyze", "filters", str(weights), "--save-plot", str(picture)]
    code = (
        "from typer.testing import CliRunner; from stdeploy.cli.main import app;"
        f"assert CliRunner().invoke(app, {command!r}).exit_code == 0"
    )
    assert loaded_after(code) == set()
    assert picture.exists()


def test_importing_changes_nothing_of_the_process() -> None:
    """Settings of OpenCV and switches of backends come when a video or backend is opened."""
    code = """
import importlib, os, pkgutil, sys
import stdeploy
import cv2, torch  # what they set is their business
before = dict(os.environ)
for module in pkgutil.walk_packages(stdeploy.__path__, "stdeploy."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
changed = {n for n in {*before, *os.environ} if before.get(n) != os.environ.get(n)}
ours = [name for name in changed if name.startswith(("OPENCV", "ORT_"))]
print(len([name for name in sys.modules if name.startswith("stdeploy.")]) > 100, ours)
print("openvino_telemetry" in sys.modules, "onnxruntime" in sys.modules, "openvino" in sys.modules)
"""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENCV", "ORT_"))
    }
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["True []", "False False False"]
