"""stdeploy's `auto` beside the libraries' own tools on the same network, in turns.

    python benchmarks/library_overhead.py b1.onnx

Wants b1.fused.safetensors beside it, for torch. What stdeploy puts around a library must cost
next to nothing: `auto` is to stay within 5 % of the fastest tool.
"""

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.files import FUSED_SUFFIX
from stdeploy.backends.base import RuntimeOptions
from stdeploy.bench.worker import Case, Worker

_TORCH = """
import sys, torch
from pathlib import Path
from torch.utils.benchmark import Timer
from stdeploy.models.checkpoint import load_model
model, card = load_model(Path(sys.argv[1]))
clip = torch.rand(1, 3, *card.clip.frames_shape[:3])
with torch.inference_mode():
    model(clip)
    timer = Timer("model(clip)", globals={"model": model, "clip": clip},
                  num_threads=torch.get_num_threads())
    print("MEDIAN", timer.blocked_autorange(min_run_time=float(sys.argv[2])).median * 1e3)
"""

_ONNXRUNTIME = """
import statistics, sys, time
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
shape = [1, *session.get_inputs()[0].shape[1:]]
frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
session.run(None, {"frames": frames})
taken = []
while sum(taken) < float(sys.argv[2]):
    start = time.perf_counter()
    session.run(None, {"frames": frames})
    taken.append(time.perf_counter() - start)
print("MEDIAN", statistics.median(taken) * 1e3)
"""


def tools(artifact: Path, card: ModelCard, seconds: float) -> dict[str, list[str]]:
    """Command lines, each of which prints a median latency in milliseconds."""
    fused = artifact.with_name(artifact.name.partition(".")[0] + FUSED_SUFFIX)
    shape = ",".join(str(size) for size in (1, *card.clip.frames_shape))
    found = {
        "onnxruntime, InferenceSession": [
            *(sys.executable, "-c", _ONNXRUNTIME, str(artifact), str(seconds))
        ],
        "openvino, benchmark_app": [
            *(str(Path(sys.executable).with_name("benchmark_app")), "-m", str(artifact)),
            *("-d", "CPU", "-hint", "latency", "-api", "sync", "-infer_precision", "f32"),
            *("-shape", f"frames[{shape}]", "-t", str(max(1, round(seconds)))),
        ],
    }
    if card.precision == "fp32":
        command = [sys.executable, "-c", _TORCH, str(fused), str(seconds)]
        found["torch, utils.benchmark, fused"] = command
    return found


def milliseconds(command: list[str]) -> float:
    """Run a tool and read the median that it prints."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"MEDIAN (\S+)|Median:\s+(\S+) ms", result.stdout)
    if result.returncode or found is None:
        sys.exit(f"{command[0]} failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return float(found[1] or found[2])


def main() -> None:
    """Measure in turns, and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path, help="an .onnx file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    artifact, seconds = arguments.artifact.resolve(), arguments.turn_seconds
    card = read_card(artifact)
    ours = Worker(Case(artifact, card, RuntimeOptions(device="cpu")))
    try:
        print(f"stdeploy, auto: {ours.load().device}", flush=True)

        def auto() -> float:
            return statistics.median(ours.turn(1, seconds).seconds) * 1e3

        ways: dict[str, Callable[[], float]] = {"stdeploy, auto": auto}
        for name, command in tools(artifact, card, seconds).items():
            ways[name] = lambda command=command: milliseconds(command)  # type: ignore[misc]
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(arguments.rounds):
            for name, way in ways.items():
                taken[name].append(way())
            print(f"round {number + 1} of {arguments.rounds}", flush=True)
    finally:
        ours.close()
    own = taken["stdeploy, auto"]
    for name, values in taken.items():
        # Of each turn: what slows the machine for a minute slows both.
        ratio = statistics.median(theirs / mine for theirs, mine in zip(values, own, strict=True))
        print(f"{name:<32}{statistics.median(values):>9.0f} ms   auto is x {ratio:.3f} as fast")


if __name__ == "__main__":
    main()
