"""The folder of a run by the names of its files; which one a new run gets, and which can go on.

recipe.json        all settings, the defaults too
environment.json   versions, machine, command
log.txt            what the program said
losses.csv         loss and learning rate of every step
metrics.csv        a line for every epoch
filters.csv        with --log-filters: where the energy of every temporal filter lies, each epoch
filters.png        the same, drawn at the end
events.out.*       the same for TensorBoard
last.state         to resume from
best.pt            checkpoint of the epoch with the highest validation accuracy
card.json          of the final checkpoint
curve.png          loss and accuracy, drawn at the end
evaluation.json    accuracy of the final checkpoint, through the whole chain
"""

import json
import shlex
from pathlib import Path

from stdeploy.errors import TrainingError

RECIPE = "recipe.json"
ENVIRONMENT = "environment.json"
LOG = "log.txt"
METRICS = "metrics.csv"
STATE = "last.state"
BEST = "best.pt"
EVALUATION = "evaluation.json"

_RUNS = Path("runs")


def folder_of(name: str, *, resume: bool) -> Path:
    """runs/NAME, or where that is taken runs/NAME-2, ...; the last of them to resume."""
    number, folder, taken = 1, _RUNS / name, list[Path]()
    while folder.exists():
        taken.append(folder)
        number += 1
        folder = _RUNS / f"{name}-{number}"
    if not resume or not taken:
        return folder
    return next((each for each in reversed(taken) if (each / STATE).is_file()), taken[-1])


def check_resumable(folder: Path) -> None:
    """See that a run can go on.

    Raises:
        TrainingError: there is none in this folder, with the command of one that can.
    """
    if (folder / STATE).is_file():
        return
    why = "does not exist"
    if folder.is_dir():
        why = f"was stopped before its first save{_diverged(folder)}"
    what_then = "leave --resume out, or name the run's folder with --run"
    states = sorted(_RUNS.glob(f"*/{STATE}"), key=lambda path: path.stat().st_mtime)
    if states:
        other = states[-1].parent
        command = _command_of(other)
        how = f": `{command}`" if command else ", with the settings that it was begun with"
        what_then = f"{str(other)!r} can go on{how}"
    raise TrainingError(f"{str(folder)!r} {why}, so there is nothing to resume; {what_then}")


def _diverged(folder: Path) -> str:
    """Why a run ended, in brackets, if it was because it diverged."""
    try:
        *_, last = (folder / LOG).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    _, found, reason = last.partition(" diverged: ")
    return f" ({reason})" if found else ""


def _command_of(folder: Path) -> str | None:
    """What resumes a run, as it was begun; None where that is not known."""
    try:
        environment = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        _, *arguments = map(str, environment["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if arguments[:1] != ["train"]:  # by the library, or another program
        return None
    again = [] if "--resume" in arguments else ["--resume"]
    return shlex.join(["stdeploy", *arguments, *again])
