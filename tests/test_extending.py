"""An architecture, a backend and a data set, each added as CONTRIBUTING.md says: a file, a line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import stdeploy
from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.backends.base import BACKENDS, Registered, RuntimeOptions, runtime_class
from stdeploy.backends.loader import golden_row
from stdeploy.backends.onnxruntime import OnnxRuntime
from stdeploy.bench.worker import cases_for
from stdeploy.errors import ArtifactError, BackendError, DatasetError, SpecError
from stdeploy.fusion import fuse_model, verify
from stdeploy.models.checkpoint import save_checkpoint
from tests.extending.c3d import C3D
from tests.extending.diving48 import read_diving48
from tests.extending.reference import ReferenceRuntime
from tests.helpers.models import TINY_CLIP, card_of, randomise_norms
from tests.helpers.videos import numbered_frames, write_video

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ON_CPU = RuntimeOptions(device="cpu")
VOCABULARY = [["Back", "15som", "05Twis", "FREE"], ["Inward", "15som", "NoTwis", "PIKE"]]

# Runs verbs one after the other in one process, because importing torch takes seconds.
VERBS = """
import contextlib, io, json, sys
from stdeploy.cli.main import main
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["stdeploy", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""


class Ran(NamedTuple):
    """What a verb did."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        assert self.status == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


class Quoted(NamedTuple):
    """What CONTRIBUTING.md says about one extension."""

    example: Path
    place: str
    registry: str
    line: str


def quoted() -> list[Quoted]:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.findall(
        r"\((tests/extending/\w+\.py)\) as\s+`(\S+\.py)`, and\n\n```python\n# (\S+)\n(.*)\n```",
        text,
    )
    return [Quoted(ROOT / example, *rest) for example, *rest in found]


def tiny_c3d(**fields: object) -> C3D:
    torch.manual_seed(0)
    lengths = (3, 1, 3, 3, 5)
    spec = {"architecture": "c3d", "num_classes": 5, "width": 0.125, "temporal_lengths": lengths}
    return randomise_norms(C3D(ModelSpec.parse({**spec, **fields})))


def write_dives(folder: Path) -> Path:
    (folder / "rgb").mkdir(parents=True)
    (folder / "Diving48_vocab.json").write_text(json.dumps(VOCABULARY))
    for name, count in (("train", 4), ("test", 2)):
        entries = [{"vid_name": f"{name}_{n:05d}", "label": n % 2} for n in range(count)]
        (folder / f"Diving48_V2_{name}.json").write_text(json.dumps(entries))
        for number, entry in enumerate(entries):
            frames = numbered_frames(12 + count + number)[:: -1 if entry["label"] else 1]
            write_video(folder / "rgb" / f"{entry['vid_name']}.mp4", frames)
    return folder


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the three files and the three lines, and nothing else."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(Path(stdeploy.__file__).parent, folder / "stdeploy")
    for one in quoted():
        shutil.copy(one.example, folder / one.place)
        registry = folder / one.registry
        head, opening, rest = registry.read_text().partition(" = {\n")
        registry.write_text(f"{head}{opening}{one.line}\n{rest}")
    return folder


@pytest.fixture(scope="module")
def ran(extended: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """All verbs over the three, by name; they leave their files in `work` beside the package."""
    work = extended / "work"
    model = tiny_c3d()
    write_dives(work / "dives")
    (work / "nothing").mkdir()
    save_checkpoint(work / "a.pt", model, card_of(model))
    write_video(work / "video.mp4", numbered_frames(20))
    network = ["model.architecture=c3d", "model.width=0.125", "clip.crop_px=32"]
    step = ["optimisation.epochs=1", "optimisation.batch_size=4", "optimisation.workers=0"]
    recipe = " ".join(f"--set {field}" for field in network + step)
    on = "video.mp4 -m a.onnx --json --backend"
    verbs = {
        "fuse": "fuse a.pt",
        "export": "export a.fused.safetensors",
        "onnxruntime": f"classify {on} onnxruntime",
        "reference": f"classify {on} reference",
        "gpu": f"classify {on} reference --device cuda",
        "flops": "flops a.onnx --json",
        "doctor": "doctor --json",
        "check": "data check dives --json",
        "train": f"train --data dives {recipe} -o b.pt --accelerator cpu",
        "evaluate": "evaluate b.pt --data dives --json",
        "help of flops": "flops --help",
        "help of classify": "classify --help",
        "help of serve": "serve --help",
        "unknown architecture": "flops --architecture none",
        "unknown data": "data check nothing",
    }
    environment = {name: value for name, value in os.environ.items() if "STDEPLOY" not in name}
    result = subprocess.run(
        [sys.executable, "-c", VERBS],
        input=json.dumps([line.split() for line in verbs.values()]),
        cwd=work,
        env={
            **environment,
            "PYTHONPATH": str(extended),
            "STDEPLOY_CACHE": str(extended / "cache"),
            "COLUMNS": "120",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers = [Ran(*json.loads(line)) for line in result.stdout.splitlines()]
    return dict(zip(verbs, answers, strict=True))


def test_each_extension_is_one_file_and_one_line(extended: Path) -> None:
    assert [one.example.name for one in quoted()] == ["c3d.py", "reference.py", "diving48.py"]
    before, after = Path(stdeploy.__file__).parent, extended / "stdeploy"
    sources = {path.relative_to(after) for path in after.rglob("*.py")}
    new = {path for path in sources if not (before / path).is_file()}
    assert new == {Path(one.place).relative_to("stdeploy") for one in quoted()}
    changed = {
        path: set((after / path).read_text().splitlines())
        - set((before / path).read_text().splitlines())
        for path in sources - new
    }
    assert {f"stdeploy/{path}": lines for path, lines in changed.items() if lines} == {
        one.registry: {one.line} for one in quoted()
    }


def test_lists_of_choices_name_the_new_ones(ran: dict[str, Ran]) -> None:
    assert "c3d" in ran["help of flops"].out
    for verb in ("classify", "serve"):
        assert "reference" in ran[f"help of {verb}"].out
    assert "choose one of c3d, i3d-resnet18" in ran["unknown architecture"].err
    assert "Diving48; Something-Something-v2" in ran["unknown data"].err


def test_a_new_architecture_folds_with_random_norms() -> None:
    model = tiny_c3d()
    rows = list(verify(model, fuse_model(model), TINY_CLIP, seed=0))
    assert len(rows) == 2 * (8 + 2)  # eight filters and two clips, in two precisions
    assert all(row.passed for row in rows)
    assert {row.precision: row.tolerance for row in rows}["fp64"] == 1e-10


def test_a_new_architecture_goes_from_checkpoint_to_labels(
    extended: Path, ran: dict[str, Ran]
) -> None:
    assert (ran["fuse"].status, ran["export"].status) == (0, 0), ran["export"].err
    card = read_card(extended / "work" / "a.onnx")
    assert card.model.architecture == "c3d"
    assert card.model.fused
    (row,) = ran["onnxruntime"].rows
    assert sum(prediction["score"] for prediction in row["predictions"]) == pytest.approx(1)
    (cost,) = ran["flops"].rows
    assert set(cost["fused"]["by_stage"]) >= {"conv1", "conv5", "head"}
    assert min(cost["fused"]["by_stage"].values()) > 0


def test_a_new_backend_answers_as_onnx_runtime(extended: Path, ran: dict[str, Ran]) -> None:
    path = extended / "work" / "a.onnx"
    card = read_card(path)
    frames = np.random.default_rng(0).integers(0, 256, (3, *TINY_CLIP.frames_shape), np.uint8)
    with (
        ReferenceRuntime.open(path, card, ON_CPU) as reference,
        OnnxRuntime.open(path, card, RuntimeOptions(device="cpu")) as ours,
    ):
        assert golden_row(reference, card, source=path.name).passed
        np.testing.assert_allclose(reference.run(frames), ours.run(frames), rtol=1e-4, atol=1e-5)


def test_a_new_backend_serves_the_verbs(ran: dict[str, Ran]) -> None:
    (row,), (other,) = ran["reference"].rows, ran["onnxruntime"].rows
    scores, others = (
        {one["label"]: one["score"] for one in found["predictions"]} for found in (row, other)
    )
    assert scores == pytest.approx(others, rel=1e-4)
    assert ran["gpu"].status == 3
    assert "reference runs on the CPU only; leave --device cuda out" in ran["gpu"].err
    found = {finding["topic"]: finding for finding in ran["doctor"].rows}
    assert found["reference, cpu"]["status"] == "works"
    assert "By name only: reference." in found["auto"]["text"]


def test_a_new_backend_is_among_those_that_bench_measures(
    extended: Path, ran: dict[str, Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Measuring takes a process for each backend; here only that this one would get its own.
    runtime = "tests.extending.reference:ReferenceRuntime"
    monkeypatch.setitem(BACKENDS, "reference", Registered(runtime, runs=(".onnx",)))
    cases = cases_for([extended / "work" / "a.onnx"], devices=("cpu",), compiled=True)
    assert "reference cpu fp32" in [case.name for case in cases]


def test_a_new_backend_refuses_what_it_cannot_run(
    extended: Path, ran: dict[str, Ran], tmp_path: Path
) -> None:
    path = extended / "work" / "a.onnx"
    card = read_card(path)
    with pytest.raises(BackendError, match=r"as it was written; run: stdeploy export --precision"):
        ReferenceRuntime.open(path, card, RuntimeOptions(precision="int8"))
    lower = card.model_copy(update={"precision": "bf16"})
    with pytest.raises(BackendError, match="reference has no bf16"):
        ReferenceRuntime.open(path, lower, ON_CPU)
    with (
        ReferenceRuntime.open(path, card, ON_CPU) as runtime,
        pytest.raises(SpecError, match="reference makes no dense timelines"),
    ):
        ReferenceRuntime.open_trunk(path.read_bytes(), runtime)
    (tmp_path / "a.onnx").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="cannot be loaded by onnx"):
        ReferenceRuntime.open(tmp_path / "a.onnx", card, ON_CPU)


def test_a_new_data_set_is_read_checked_trained_on_and_measured(
    extended: Path, ran: dict[str, Ran]
) -> None:
    (checked,) = ran["check"].rows
    assert checked["findings"] == []
    labels = tuple(" ".join(words) for words in VOCABULARY)
    assert checked["classes"]["train"] == dict.fromkeys(labels, 2)
    assert checked["classes"]["validation"] == dict.fromkeys(labels, 1)
    assert ran["train"].status == 0, ran["train"].err
    assert read_card(extended / "work" / "b.pt").labels == labels
    (result,) = ran["evaluate"].rows
    assert result["videos"] == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Diving48_V2_train.json", '[{"vid_name": "a", "label": 2}]', "'a' has label 2, .* 0 to 1"),
        ("Diving48_V2_train.json", '[{"label": 0}]', "is no list of videos"),
        ("Diving48_vocab.json", "[", r"vocab\.json' cannot be read"),
    ],
)
def test_a_data_set_that_does_not_fit_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    folder = write_dives(tmp_path / "dives")
    (folder / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_diving48(folder, "train")


@pytest.mark.parametrize("name", list(BACKENDS))
def test_a_backend_has_the_name_of_its_line(name: str) -> None:
    assert runtime_class(name).name == name
