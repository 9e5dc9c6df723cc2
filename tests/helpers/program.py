"""The program as its users run it: a process of its own, its output and its exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def stdeploy(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a folder; `env` goes over the variables of this process."""
    return python("-m", "stdeploy", *arguments, cwd=cwd, **env)


def python(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with a cache of artifacts beside it."""
    environment = {k: v for k, v in os.environ.items() if k != "STDEPLOY_DEBUG"}
    environment["STDEPLOY_CACHE"] = str(cwd.parent / "stdeploy-cache")
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**environment, "COLUMNS": "100", **env},
        check=False,
    )


Inside = Callable[..., subprocess.CompletedProcess[str]]


def records(result: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]
