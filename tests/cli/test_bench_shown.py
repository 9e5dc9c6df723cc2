"""What `bench` and `export` show on a terminal while they work, from the first second on."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stdeploy.fusion import fuse_model
from stdeploy.models.checkpoint import save_fused
from tests.helpers.models import card_of, tiny_model

_PROGRAM = "import sys\nfrom stdeploy.cli.main import main\nmain()"


def _on_a_terminal(
    script: str, arguments: Sequence[str], folder: Path
) -> Iterator[tuple[str, bool]]:
    """Texts on standard error as they come, and whether torch is in memory by then."""
    ours, theirs = os.openpty()
    with (folder / "stdout").open("w") as results:
        child = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            cwd=folder,
            stdout=results,
            stderr=theirs,
            env=os.environ | {"COLUMNS": "80", "TERM": "xterm"},
        )
    os.close(theirs)
    maps = Path(f"/proc/{child.pid}/maps")
    while True:
        try:
            text = os.read(ours, 1 << 16).decode(errors="replace")
        except OSError:  # the other end was closed
            break
        loads = maps.read_text() if maps.exists() else ""
        loaded = not loads or "libtorch" in loads  # of a child that has ended it is empty
        yield re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text), loaded
    os.close(ours)
    assert child.wait() == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    model = fuse_model(tiny_model()).float()
    save_fused(folder / "a.fused.safetensors", model, card_of(model))
    return folder


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")
@pytest.mark.parametrize(
    ("arguments", "first", "later"),
    [
        (
            ["export", "-o", "b.onnx"],
            "loading PyTorch and ONNX",
            ["opening a.fused.safetensors"],
        ),
        (
            ["bench", "a.fused.safetensors", "--devices", "cpu", "--rounds", "1"],
            "looking for backends",
            ["opening torch cpu fp32, a.fused", "round 1 of 1, batch 1: torch cpu fp32, a.fused"],
        ),
    ],
    ids=["export", "bench"],
)
def test_something_is_seen_before_torch_is_there(
    folder: Path, arguments: list[str], first: str, later: list[str]
) -> None:
    shown, seen_before_torch = "", False
    for text, loaded in _on_a_terminal(_PROGRAM, arguments, folder):
        shown += text
        seen_before_torch |= first in shown and not loaded
    assert seen_before_torch
    places = [shown.index(words) for words in (first, *later)]
    assert places == sorted(places)
    results = (folder / "stdout").read_text()
    assert results
    assert not any(words in results for words in (first, *later))


def test_what_begins_anew_is_numbered_and_one_count_is_one_bar(folder: Path) -> None:
    script = (
        "import time\n"
        "from stdeploy.cli.console import phase_bars\n"
        "steps = [('comparing', 1, 4), ('comparing', 3, 4), ('b', 1, 3), ('c', 2, 3),\n"
        "         ('comparing', 1, 4), ('one', 0, 1), ('comparing', 1, 4), ('comparing', 0, 9)]\n"
        "with phase_bars('first') as update:\n"
        "    for step in steps:\n"
        "        time.sleep(0.3)\n"
        "        update(*step)\n"
        "    time.sleep(0.3)\n"
    )
    shown = "".join(text for text, _ in _on_a_terminal(script, [], folder))
    titles = re.findall(r"[-\\|/] (\w+(?:, round \d)?) +\S", shown)
    assert list(dict.fromkeys(titles)) == [
        *("first", "comparing", "b", "c", "comparing, round 2", "one", "comparing, round 3"),
    ]
