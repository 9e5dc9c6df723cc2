"""The house as docs/architecture.md draws it: which room may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

PACKAGE = Path(__file__).parents[1] / "stdeploy"

# A room may import itself, the rooms in its row, and whatever those may import.
MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "files": {"errors"},
    "video_files": set(),
    "hardware": set(),
    "picture": {"errors", "files"},
    "spec": {"errors"},
    "parity": {"spec"},
    "golden": {"errors", "parity"},
    "digest": {"errors"},
    "onnx_file": {"digest"},
    "contents": {"files", "onnx_file"},
    "card": {"__init__", "contents", "spec"},
    "edit": {"models"},
    "sidecar": {"card", "hardware"},
    "prediction": {"video"},
    "timeline": {"errors", "video"},
    "dense": set(),
    "ordered": set(),
    "results": {"errors", "files"},
    "layers": {"errors", "spec"},
    "models": {"card", "golden", "layers"},
    "fuse": {"models", "parity"},
    "video": {"errors", "spec"},
    "engine": {"sidecar"},
    "runtime": {"engine", "golden", "models"},
    "classify": {"video", "runtime", "prediction", "timeline", "dense", "ordered"},
    "cluster": {"classify"},
    "serve": {"classify"},
    "show": {"picture", "timeline", "video"},
    "export": {"engine", "models", "runtime", "video", "video_files"},
    "bench": {"picture", "runtime"},
    "doctor": {"engine", "runtime"},
    "pull": {"models"},
    "analysis": {"export", "fuse", "picture", "video"},
    "train": {"analysis", "models", "classify", "picture", "video_files"},
    "__main__": {"cli"},
    "cli": {
        "edit",
        "fuse",
        "export",
        "classify",
        "bench",
        "doctor",
        "pull",
        "train",
        "results",
        "show",
        "cluster",
        "serve",
    },
}
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "cv2")


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def allowed(room: str) -> set[str]:
    rooms = {room}
    for other in MAY_IMPORT[room]:
        rooms |= allowed(other)
    return rooms


def imported_rooms(file: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stdeploy"):
            if node.module == "stdeploy":
                for alias in node.names:
                    inside = (PACKAGE / alias.name).exists() or (
                        PACKAGE / f"{alias.name}.py"
                    ).exists()
                    rooms.add(alias.name if inside else "__init__")
            else:
                rooms.add(room_of(node.module))
        elif isinstance(node, ast.Import):
            rooms |= {room_of(a.name) for a in node.names if a.name.startswith("stdeploy")}
    return rooms


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert imported_rooms(file) <= allowed(room)


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
