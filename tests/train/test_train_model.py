"""Training in one call: what is refused before it takes time, what is told, what is kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stdeploy.datasets.csv_list import write_list
from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.errors import ArtifactError, SpecError, StdeployError, TrainingError
from stdeploy.train.progress import Report
from stdeploy.train.train_model import TrainingRun, TrainResult, train_model

SETTINGS = (
    *("model.width=0.125", "model.branches=single", "optimisation.workers=0"),
    *("optimisation.batch_size=8", "optimisation.epochs=1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    make_dataset(folder, train=10, validation=5, seed=1)
    return folder


def trained(data: Path, place: Path, told: list[object], *, resume: bool = False) -> TrainResult:
    """One call in a place, and all that it told in order: runs, reports, and (done, total)."""
    result = train_model(
        data=data,
        output=place / "a.pt",
        run=place / "run",
        settings=SETTINGS,
        resume=resume,
        save_minutes=0,
        accelerator="cpu",
        begin=told.append,
        report=told.append,
        measuring=lambda done, total: told.append((done, total)),
    )
    assert result is not None
    return result


def test_what_was_measured_is_kept_and_not_measured_again(folder: Path, tmp_path: Path) -> None:
    told: list[object] = []
    first = trained(folder, tmp_path, told)
    begun, *reports = told[:-6]
    assert isinstance(begun, TrainingRun)
    assert (begun.path, begun.folder, begun.data) == (tmp_path / "a.pt", tmp_path / "run", folder)
    assert begun.held_out is not None
    assert (len(begun.training.samples), len(begun.held_out.samples)) == (10, 5)
    assert (begun.epochs_done, begun.finished, begun.measured) == (0, False, False)
    assert reports
    assert all(isinstance(report, Report) for report in reports)
    assert told[-6:] == [(done, 5) for done in range(6)]
    assert first.evaluation is not None
    assert len(first.evaluation.judged) == 5
    kept = tmp_path / "run" / "evaluation.json"
    record = json.loads(kept.read_text())
    assert record == {"summary": first.evaluation.in_words(), **first.evaluation.to_record()}
    assert first.summary == record["summary"]

    told.clear()
    again = trained(folder, tmp_path, told, resume=True)
    (begun,) = told
    assert isinstance(begun, TrainingRun)
    assert (begun.epochs_done, begun.finished, begun.measured) == (1, True, True)
    assert again.evaluation is not None
    assert again.evaluation.to_record() == first.evaluation.to_record()
    assert again.evaluation.judged == ()
    assert again.summary == first.summary

    kept.write_text(json.dumps({"summary": "?", "failed": 0, "classes": {}}))  # not all of it
    told.clear()
    anew = trained(folder, tmp_path, told, resume=True)
    begun, *counts = told
    assert isinstance(begun, TrainingRun)
    assert (begun.finished, begun.measured) == (True, False)
    assert counts == [(done, 5) for done in range(6)]
    assert anew.evaluation is not None
    assert len(anew.evaluation.judged) == 5
    assert json.loads(kept.read_text()) == record


def test_nothing_is_measured_where_no_video_validates(folder: Path, tmp_path: Path) -> None:
    write_list(tmp_path / "list.csv", read_something(folder, "train"))
    told: list[object] = []
    result = trained(tmp_path / "list.csv", tmp_path, told)
    assert (result.evaluation, result.summary) == (None, None)
    begun, *reports = told
    assert isinstance(begun, TrainingRun)
    assert begun.held_out is None
    assert all(isinstance(report, Report) for report in reports)
    assert not (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({"nodes": 0}, SpecError, r"nodes = 0: a whole number of at least 1 is allowed"),
        ({"devices": 1.5}, SpecError, r"devices = 1\.5: a whole number"),
        ({"save_minutes": -1}, SpecError, r"save_minutes = -1: a number of at least 0"),
        ({"save_minutes": "10"}, SpecError, r"save_minutes = '10': a number of at least 0"),
        ({"accelerator": "gpu"}, SpecError, r"accelerator 'gpu' is not known; choose auto"),
        ({"recipe": "./none"}, SpecError, r"recipe '\./none' does not exist"),
        ({"weights": "none.pt"}, ArtifactError, r"'none\.pt' does not exist; name a checkpoint"),
        (
            {"weights": "in/kinetics400-i3d.pt"},
            ArtifactError,
            r"`stdeploy pull kinetics400-i3d -o in/kinetics400-i3d\.pt` brings it",
        ),
        ({"settings": ["start.weights=none.pth"]}, ArtifactError, r"'none\.pth' does not exist"),
        ({"output": "a.onnx"}, ArtifactError, r"the name has to end in \.pt"),
        ({"resume": True}, TrainingError, r"'runs/starter' does not exist, so there is nothing"),
        ({"resume": True, "run": "b"}, TrainingError, r"'b' does not exist, so there is nothing"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_data_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keywords: dict[str, object],
    kind: type[StdeployError],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        train_model(**keywords)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [("none", "'none' does not exist"), ("set", "training needs torch, which is not installed")],
)
def test_data_is_read_before_torch_is_imported(folder: Path, data: str, message: str) -> None:
    code = "import sys; sys.modules['torch'] = None; import stdeploy\n"
    code += f"try:\n    stdeploy.train_model(data={data!r})\n"
    code += "except stdeploy.StdeployError as error:\n    print(error)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder.parent, capture_output=True, text=True, check=True
    )
    assert message in ran.stdout
