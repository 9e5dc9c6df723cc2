"""The folder of a run: its files, which one a new run gets, which can go on.

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

Importing this loads neither torch nor what draws, so that a command line is checked at once.
"""

import contextlib
import csv
import datetime
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import clear_unfinished, naming, whole_file
from stdeploy.errors import MissingExtraError, SpecError, TrainingError
from stdeploy.hardware import cpu_count, cpu_name, gpus
from stdeploy.train.filter_shares import (
    FilterShares,
    mean_of_stages,
    read_shares,
    write_shares,
)
from stdeploy.train.recipe import Recipe, changed_fields

if TYPE_CHECKING:
    from lightning_fabric import Fabric

RECIPE = "recipe.json"
ENVIRONMENT = "environment.json"
LOG = "log.txt"
METRICS = "metrics.csv"
STATE = "last.state"
BEST = "best.pt"
EVALUATION = "evaluation.json"

_RUNS = Path("runs")
_TOP1 = "validation_top1"
_MOST_FIELDS_TOLD = 3  # fields of a recipe

# The line that people read, under "summary", and what `stdeploy evaluate --json` gives.
EvaluationRecord = dict[str, object]
_SHOWN = {"summary", "failed", "classes"}  # what is said of it once more


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


class RunFolder:
    """Writes what a run leaves behind. Only one process of a run has it.

    Args:
        path: of the folder; made when the run begins.
        resume: whether an earlier run in it goes on.

    Raises:
        TrainingError: it holds a run and resume is False, or none and resume is True.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.state = path / STATE
        self.best = path / BEST
        if self.state.exists() and not resume:
            raise TrainingError(
                f"{str(path)!r} holds a run already; go on with --resume, or give another --run"
            )
        if resume:
            check_resumable(path)
        self._board: Any = None
        self._shares = path / "filters.csv"

    def begin(
        self,
        recipe: Recipe,
        versions: Mapping[str, str],
        *,
        step: int,
        rows: Sequence[Mapping[str, float]],
    ) -> None:
        """Make the folder, and write what is known before the first step.

        Args:
            recipe: of the run.
            versions: of the packages that matter.
            step: steps that are done already; what was logged after them is dropped.
            rows: metrics of the epochs that are done already.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        clear_unfinished(self.path)
        if not step:  # of a run whose state was deleted
            (self.path / EVALUATION).unlink(missing_ok=True)
        self._metrics(rows)
        self._write(RECIPE, recipe.model_dump_json(indent=1))
        environment = {
            "command": sys.argv,
            "python": platform.python_version(),
            "versions": dict(versions),
            "processor": cpu_name(),
            "processors": cpu_count(),
            "gpus": [gpu.name for gpu in gpus()],
        }
        self._write(ENVIRONMENT, json.dumps(environment, indent=1))
        losses = self.path / "losses.csv"
        kept = losses.read_text().splitlines()[1 : step + 1] if step and losses.is_file() else []
        self._write("losses.csv", "\n".join(["step,loss,learning_rate", *kept]))
        self.log(f"resumed after step {step}" if step else "begun")
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            return  # an extra; everything is in the .csv files too
        self._board = SummaryWriter(str(self.path), purge_step=step)

    def step(self, number: int, loss: float, learning_rate: float) -> None:
        """Log one step, counted from 1 over the whole run."""
        losses = self.path / "losses.csv"
        with naming(losses), losses.open("a") as file:
            # Enough digits to give the same number back.
            file.write(f"{number},{loss!r},{learning_rate:.6g}\n")
        if self._board is not None:
            self._board.add_scalar("loss", loss, number)
            self._board.add_scalar("learning rate", learning_rate, number)

    def epochs(self, rows: list[dict[str, float]]) -> None:
        """Write the metrics of all epochs that are done."""
        self._metrics(rows)
        if self._board is not None:
            for name, value in rows[-1].items():
                self._board.add_scalar(f"epoch/{name}", value, int(rows[-1]["epoch"]))
            self._board.flush()

    def filters(self, rows: Sequence[FilterShares]) -> None:
        """Add what the filters are like after an epoch, in place of what was said of it before."""
        epoch = rows[0].epoch
        earlier = [row for row in read_shares(self._shares) if row.epoch < epoch]
        write_shares(self._shares, [*earlier, *rows])
        if self._board is not None:
            for stage, means in mean_of_stages(rows).items():
                for name, value in means.items():
                    self._board.add_scalar(f"filters/{stage} {name}", value, epoch)

    def log(self, line: str) -> None:
        """Add a line to log.txt, with the time."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with naming(self.path / LOG), (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{now} {line}\n")

    def finish(self, card: ModelCard, rows: list[dict[str, float]]) -> None:
        """Write the card, and draw the curve where matplotlib is installed."""
        from stdeploy.train.plots import draw_curve, draw_filter_shares

        self._write("card.json", card.model_dump_json(indent=1))
        self.log("finished")
        if self._board is not None:
            self._board.close()
        try:
            draw_curve(rows, self.path / "curve.png")
            if self._shares.is_file():
                draw_filter_shares(read_shares(self._shares), self.path / "filters.png")
        except MissingExtraError as error:
            self.log(f"{error}; so there is no picture")

    def _metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        if not rows:
            return
        with (
            whole_file(self.path / METRICS) as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def _write(self, name: str, text: str) -> None:
        with whole_file(self.path / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def open_run(fabric: "Fabric", path: Path, *, resume: bool) -> RunFolder | None:
    """The folder of a run, in the first process; what forbids it ends all processes.

    Raises:
        TrainingError: see RunFolder.
    """
    folder, refusal = None, None
    if fabric.is_global_zero:
        try:
            folder = RunFolder(path, resume=resume)
        except TrainingError as error:
            refusal = error
    refusal = fabric.broadcast(refusal)
    if refusal is not None:
        raise refusal
    return folder


def refusal_to_resume(folder: Path, recipe: Recipe) -> TrainingError:
    """What there is to say where a run cannot go on with this recipe and data.

    Args:
        folder: of the run, whose fingerprint is another.
        recipe: that it should go on with.
    """
    changed, others = list[str](), "another recipe, "
    with contextlib.suppress(OSError, ValueError, SpecError):  # damaged, or another version's
        text = (folder / RECIPE).read_text(encoding="utf-8")
        changed = changed_fields(Recipe.parse(json.loads(text)), recipe)
        others = ""
    others += "other videos, other labels or another number of processes, or of an earlier stdeploy"
    if changed:
        told, rest = changed[:_MOST_FIELDS_TOLD], changed[_MOST_FIELDS_TOLD:]
        more = f"; and {len(rest)} more" if rest else ""
        others = f"another recipe ({'; '.join(told)}{more})"
    return TrainingError(
        f"{str(folder)!r} holds a run with {others}; a run is resumed with exactly what it was "
        "begun with, and a new one wants another --run"
    )


def refusal_of_place(folder: Path, *, begun_on_device: bool) -> TrainingError:
    """What there is to say where a recipe asks for clips to be augmented elsewhere than before.

    Args:
        folder: of the run.
        begun_on_device: where that run augments them.
    """
    begun, asked = ("device", "cpu") if begun_on_device else ("cpu", "device")
    return TrainingError(
        f"{str(folder)!r} holds a run whose clips are augmented with optimisation.augment_on = "
        f"{begun!r}, not {asked!r}; leave the setting out to go on so, or begin a new run with "
        "another --run"
    )


def better_epoch(folder: Path) -> tuple[int, float, float] | None:
    """An epoch of a run that did better in its quick look than the last: it is in best.pt.

    Returns:
        Its number, its validation accuracy and that of the last epoch, 0..1; None if there is none.
    """
    try:
        with (folder / METRICS).open(newline="") as file:
            rows = [(int(row["epoch"]), float(row[_TOP1])) for row in csv.DictReader(file)]
        best, last = max(rows, key=lambda row: row[1]), rows[-1]
    except (OSError, KeyError, ValueError):  # people may do with it what they like
        return None
    return (*best, last[1]) if best[1] > last[1] else None


def write_evaluation(folder: Path, record: EvaluationRecord) -> None:
    """Keep what was measured at the end, whole or not at all."""
    with whole_file(folder / EVALUATION) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_evaluation(folder: Path) -> EvaluationRecord | None:
    """What was measured at the end of a run; None if nothing was, or the file is damaged."""
    try:
        record = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.keys() >= _SHOWN else None
