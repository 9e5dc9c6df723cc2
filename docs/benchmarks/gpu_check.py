"""Every GPU test, and the benchmark of two real-sized networks, on an NVIDIA GPU in one go.

    make gpu-check

It needs no network and no build, and Python with torch for CUDA and what
`pip install '.[export,bench,gpu,rtx,dev]'` brings beside it (with onnxruntime-gpu, not
onnxruntime). It is meant for nine minutes: the tests are stopped after their share, and the
second network is left out where the first took too long, but one that has begun is not stopped.
It writes <gpu>.json and <gpu>.md beside this file, and fails if a test failed or was skipped.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch

from stdeploy.bench.cases import cases_for
from stdeploy.bench.measure import Report, measure
from stdeploy.bench.report import draw, to_markdown, write_text
from stdeploy.card import ModelCard
from stdeploy.doctor import versions
from stdeploy.engine.plan import BuildOptions
from stdeploy.errors import DownloadError, StdeployError
from stdeploy.export.flops import count
from stdeploy.export.onnx import ExportOptions, export_onnx
from stdeploy.export.tensorrt import build_engine
from stdeploy.fuse import fuse_model
from stdeploy.hardware import driver_cuda_version, gpus
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model, save_checkpoint, save_fused
from stdeploy.models.inference import golden_of
from stdeploy.models.registry import build
from stdeploy.pull.kinetics import CLIP, SPEC, pull_kinetics_i3d
from stdeploy.spec import ClipSpec, ModelSpec

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TESTS_SECONDS = 210
LAST_START_SECONDS = 360
BATCHES = (1, 8)


def run_tests(report: Path) -> list[str]:
    """Run the GPU tests; what failed or was skipped, in words."""
    environment = {**os.environ, "STDEPLOY_REQUIRE_GPU": "1"}
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", f"--junit-xml={report}"]
    try:
        result = subprocess.run(
            command, cwd=ROOT, env=environment, timeout=TESTS_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"the tests took more than {TESTS_SECONDS} s"]
    if not report.is_file():
        return ["pytest did not run; see above"]
    complaints = [f"pytest ended with {result.returncode}"] if result.returncode else []
    for case in ElementTree.parse(report).iter("testcase"):
        for kind in ("failure", "error", "skipped"):
            for found in case.iter(kind):
                reason = (found.get("message") or "").splitlines()
                complaints.append(f"{case.get('name')} {kind}: {' '.join(reason)[:200]}")
    return complaints


def b1(folder: Path) -> ModelCard:
    """I3D-ResNet-50 b1 of the paper's Table 2, 87 classes, random weights: time needs no more."""
    spec = ModelSpec(architecture="i3d-resnet50", temporal_lengths=(1, 1, 3, 3, 5), num_classes=87)
    torch.manual_seed(0)
    return _write(folder, "b1", build(spec).eval(), ClipSpec(num_frames=32))


def kinetics(folder: Path) -> ModelCard:
    """The Kinetics model, with its real weights where they have been downloaded before."""
    checkpoint = folder / "kinetics400-i3d.pt"
    try:
        pull_kinetics_i3d(checkpoint, lambda _done, _total: None)
    except DownloadError:
        print("the Kinetics weights are not in the cache; random weights instead", flush=True)
        torch.manual_seed(0)
        return _write(folder, "kinetics400-i3d", build(SPEC).eval(), CLIP)
    model, card = load_model(checkpoint)
    return _write(folder, "kinetics400-i3d", model, card.clip, card.labels)


def _write(
    folder: Path,
    name: str,
    model: ActionModel,
    clip: ClipSpec,
    labels: tuple[str, ...] | None = None,
) -> ModelCard:
    """Checkpoint and fused weights. `stdeploy fuse` would verify them; the tests have."""
    names = labels or tuple(f"class {number}" for number in range(model.spec.num_classes))
    golden = golden_of(model, clip)
    card = ModelCard(model=model.spec, clip=clip, labels=names, golden=golden)
    save_checkpoint(folder / f"{name}.pt", model, card)
    fused = fuse_model(model).float()
    card = card.model_copy(update={"model": fused.spec})
    save_fused(folder / f"{name}.fused.safetensors", fused, card)
    return card


def artifacts(folder: Path, name: str, notes: list[str]) -> list[Path]:
    """Checkpoint, fused weights, ONNX files and engines of a network; failures become notes."""
    fused = folder / f"{name}.fused.safetensors"
    made = [folder / f"{name}.pt", fused]
    for precision in ("fp32", "fp16"):
        try:
            onnx_file = export_onnx(fused, options=ExportOptions(precision=precision)).path
            made.append(onnx_file)
            options = BuildOptions(batches=(BATCHES[-1], BATCHES[-1]))
            made.append(build_engine(onnx_file, options).path)
        except StdeployError as error:
            notes.append(f"{name} {precision}: {error}")
    return made


def benchmark(folder: Path, name: str, card: ModelCard, notes: list[str]) -> Report:
    """All ways of one network on the GPU, in turns."""
    paths = artifacts(folder, name, notes)
    clip = card.clip
    return measure(
        list(cases_for(paths, devices=("cuda",), compiled=True)),
        batches=BATCHES,
        rounds=3,
        turn_seconds=0.5,
        macs=(
            count(card.model, num_frames=clip.num_frames, side_px=clip.crop_px).macs
            if importlib.util.find_spec("fvcore")
            else None
        ),
        progress=lambda what, done, total: print(f"{name}: {what} {done}/{total}", flush=True),
    )


def main() -> int:
    """Run tests and benchmarks, write the results, say what is wrong."""
    if not gpus():
        print("no NVIDIA GPU here; make gpu-check is for hosts with one", file=sys.stderr)
        return 3
    gpu, start = gpus()[0], time.monotonic()
    notes: list[str] = []
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        complaints = run_tests(folder / "tests.xml")
        for name, make in (("b1", b1), ("kinetics400-i3d", kinetics)):
            if time.monotonic() - start > LAST_START_SECONDS:
                notes.append(f"{name} was left out: the time was used up before it")
                continue
            try:
                report = benchmark(folder, name, make(folder), notes)
            except StdeployError as error:
                notes.append(f"{name}: {error}")
                continue
            reports.append(report)
            notes += [f"{name}: {row.name}: {row.failed}" for row in report.rows if row.failed]
            # After each: what was measured is not lost if the time runs out.
            _save(gpu.slug, reports, complaints, notes)
            if importlib.util.find_spec("matplotlib"):
                draw(report, FOLDER / f"{gpu.slug}-{name}.svg")
    print(f"{time.monotonic() - start:.0f} s; written: {FOLDER / gpu.slug}.json and .md")
    for line in (*notes, *complaints):
        print(line, file=sys.stderr)
    return 1 if complaints or notes else 0


def _save(slug: str, reports: list[Report], complaints: list[str], notes: list[str]) -> None:
    content = {
        "versions": versions(),
        "driver_cuda": driver_cuda_version(),
        "failed_or_skipped_tests": complaints,
        "notes": notes,
        "reports": [dataclasses.asdict(report) for report in reports],
    }
    write_text(json.dumps(content, indent=1) + "\n", FOLDER / f"{slug}.json")
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [f"# {gpus()[0].name}", "", f"Written by `make gpu-check`. {installed}.", ""]
    lines += [f"- {line}" for line in (*notes, *complaints)]
    tables = "\n".join(to_markdown(report) for report in reports)
    write_text("\n".join(lines) + "\n" + tables, FOLDER / f"{slug}.md")


if __name__ == "__main__":
    sys.exit(main())
