"""A graph of a stranger runs for the first time in a process of its own.

ONNX Runtime optimises a graph when it opens it, in code that a graph can crash, and a crash is no
exception.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stdeploy.errors import ArtifactError

_MOST_SECONDS = 600.0
_FATAL = 4  # of ONNX Runtime's severities


def try_out(
    path: Path,
    inputs: Mapping[str, Sequence[int]],
    *,
    element: str = "float32",
    source: str,
    most_seconds: float = _MOST_SECONDS,
) -> None:
    """Open and run a graph once, on zeros, in another process.

    What it raises there is not reported: it will be raised here, by whoever runs it next.

    Args:
        path: of the .onnx file.
        inputs: shapes by name.
        element: type of their elements.
        source: the file, for errors.
        most_seconds: that it may take.

    Raises:
        ArtifactError: the process died, or did not end.
    """
    asked = {"path": str(path), "element": element, "inputs": {n: [*s] for n, s in inputs.items()}}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(asked),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=most_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(
            f"{source!r} takes more than {most_seconds:.0f} s for one clip; nothing was written"
        ) from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ArtifactError(
            f"{source!r} makes ONNX Runtime crash ({name}), so it cannot be compared; export it "
            "with another opset or exporter"
        )


def _run(asked: Mapping[str, Any]) -> None:
    import numpy as np

    from stdeploy.optional_packages import require

    ort = require("onnxruntime", extra="cpu", purpose="running an imported network")
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL
    settings.enable_cpu_mem_arena = False
    session = ort.InferenceSession(asked["path"], settings, providers=["CPUExecutionProvider"])
    feed = {name: np.zeros(shape, asked["element"]) for name, shape in asked["inputs"].items()}
    session.run(None, feed)


if __name__ == "__main__":
    _run(json.load(sys.stdin))
