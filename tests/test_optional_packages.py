"""What people are told to run, run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_REQUIRE = """
from stdeploy.optional_packages import require
require("no_such_module", extra="pyav", purpose="this test")
"""


@pytest.mark.parametrize("activated", [True, False])
def test_the_command_for_an_extra_works_where_it_is_pasted(tmp_path: Path, activated: bool) -> None:
    ours = str(Path(sys.executable).parent)
    shell = {
        "cwd": tmp_path,
        "env": os.environ | {"PATH": ours if activated else str(tmp_path)},
        "capture_output": True,
        "text": True,
        "check": False,
    }
    refused = subprocess.run([sys.executable, "-c", _REQUIRE], **shell)
    message, _, command = refused.stderr.splitlines()[-1].partition("; run: ")
    assert message.endswith("this test needs no_such_module, which is not installed")
    pip = "pip" if activated else f"{sys.executable} -m pip"
    assert command == f"{pip} install 'stdeploy[pyav]'"
    # This environment has the extra: pip has to find that out without any index.
    pasted = subprocess.run(f"{command} --dry-run --no-index", shell=True, **shell)
    assert pasted.returncode == 0, pasted.stderr
    assert "Requirement already satisfied: stdeploy[pyav]" in pasted.stdout
