"""The OpenAPI document against the server, by generated requests."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import Server


@pytest.mark.parametrize("phase", ["coverage", "fuzzing"])
def test_the_server_does_what_its_document_says(server: Server, phase: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("--phases", phase, "--max-examples", "10", "--seed", "1", "--no-color"),
            *("--request-timeout", "60"),  # for machines that are slow
            # No schema can say what is a video, so data that fits it may still be refused.
            *("--exclude-checks", "positive_data_acceptance"),
        ],
        capture_output=True,
        text=True,
        timeout=900,  # only so that it ends
        cwd=tmp_path,  # it leaves a folder
    )
    assert result.returncode == 0, result.stdout[-6000:]
    assert "Tested: 17" in result.stdout
