"""One stage of `make gpu-check`, in a process of its own: `python stage.py NAME FILE PARENT`.

FILE holds what an earlier call found, and is written anew with every finding, so that a stage that
is ended early has not run for nothing. Tests that passed before are not run again. PARENT is the
process that has started it, without which it ends.
"""

import importlib
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import pytest  # noqa: E402 - after the folders that the next are found in
from plan import REHEARSED_TESTS, Stage, by_name  # noqa: E402
from results import FAILED, IMPOSSIBLE, PASSED, Outcome  # noqa: E402

# Where the stages that measure are looked for.
_MEASURING = ("measuring", "on_torch", "on_onnxruntime", "on_streams", "reading", "training_stages")
# In a rehearsal a second process would load torch for longer than it then ran tests.
AT_ONCE, AT_ONCE_IN_REHEARSAL = 6, 1
_TESTS = "tests/gpu/"
# Other people's warnings are printed, ours are errors: the settings of `make test` make all so.
_WARNINGS = "filterwarnings=default\nerror:::stdeploy\nerror:::tests"


class Recorder:
    """Writes down every test as it ends.

    Args:
        outcome: gets a finding a test.
    """

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of a test has ended: setup, call or teardown."""
        if report.passed and report.when != "call":
            return
        said = "" if report.passed else _reason(report)
        status = {"passed": PASSED, "failed": FAILED, "skipped": IMPOSSIBLE}[report.outcome]
        self._outcome.add(report.nodeid.removeprefix(_TESTS), status, said)


def _reason(report: pytest.TestReport) -> str:
    """Of a test that did not pass, in one line."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return " ".join(text.split())[:300]


def run_tests(stage: Stage, outcome: Outcome, *, rehearsal: bool) -> int:
    """Run the tests of a stage that have not passed yet."""
    outcome.findings = [found for found in outcome.findings if found.status == PASSED]
    tests = list(stage.tests)
    if rehearsal:
        *tests, chosen = tests if "-k" in tests else [*tests, "-k", ""]
        tests.append(f"({chosen}) and {REHEARSED_TESTS}" if chosen else REHEARSED_TESTS)
    for found in outcome.findings:
        tests += ["--deselect", _TESTS + found.name]
    if importlib.util.find_spec("xdist"):
        tests += ["--numprocesses", str(AT_ONCE_IN_REHEARSAL if rehearsal else AT_ONCE)]
    # pytest-benchmark warns beside xdist; where it is not installed, this asks for nothing.
    options = ["-q", "-p", "no:benchmark", "-p", "no:cacheprovider", "-o", _WARNINGS]
    status = int(pytest.main([*options, *tests], plugins=[Recorder(outcome)]))
    nothing_left = status == pytest.ExitCode.NO_TESTS_COLLECTED and bool(outcome.findings)
    return 0 if nothing_left else status


def _function(name: str) -> Callable[[Outcome, Any], None]:
    """What a stage that measures runs: the function of its name."""
    for module in _MEASURING:
        found = getattr(importlib.import_module(module), name, None)
        if found is not None:
            function: Callable[[Outcome, Any], None] = found
            return function
    raise LookupError(f"no stage {name!r} in {', '.join(_MEASURING)}")


def end_with(parent: int) -> None:
    """End this process and all that it has started when the one that started it is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Run it."""
    name, path = sys.argv[1], Path(sys.argv[2])
    end_with(int(sys.argv[3]))
    rehearsal = bool(os.environ.get("STDEPLOY_REHEARSE_GPU"))
    outcome, stage = Outcome.read(path).kept_in(path), by_name(name)
    if stage.tests:
        return run_tests(stage, outcome, rehearsal=rehearsal)
    from networks import Where

    outcome.findings = []
    _function(name)(outcome, Where(rehearsal, path.parent))
    outcome.write(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
