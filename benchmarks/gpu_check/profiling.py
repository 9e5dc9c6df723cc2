"""Where ONNX Runtime and torch spend their time: by operator and provider, and by kernel."""

import collections
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime

_COPIES = ("MemcpyFromHost", "MemcpyToHost", "Transpose", "Cast", "Reshape", "Concat")
_KERNELS_TOLD = 6
_RUNS, _WARM_UP_RUNS = 5, 3
_TIMED_RUNS = 9


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """What one kind of operator took on one provider.

    Attributes:
        op_type: as in the graph that the session made, such as "FusedConv".
        provider: "CPU" or "CUDA", ...
        nodes: how many there are of them.
        milliseconds: of all of them, a run.
    """

    op_type: str
    provider: str
    nodes: int
    milliseconds: float


def by_operator(events: Iterable[Mapping[str, Any]], runs: int) -> list[OperatorTime]:
    """Sum the events of a profile.

    Args:
        events: of the file that ONNX Runtime writes with `enable_profiling`.
        runs: that it was made in.

    Returns:
        The operator that takes longest first.
    """
    microseconds: collections.Counter[tuple[str, str]] = collections.Counter()
    nodes: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        provider = event["args"].get("provider", "").removesuffix("ExecutionProvider")
        key = (event["args"]["op_name"], provider)
        microseconds[key] += event["dur"]
        nodes[key].add(event["name"])
    return [
        OperatorTime(op_type, provider, len(nodes[op_type, provider]), spent / runs / 1e3)
        for (op_type, provider), spent in microseconds.most_common()
    ]


def told(operators: Sequence[OperatorTime], device: str) -> str:
    """The table in a line: shares by operator, what only moves numbers, what another provider does.

    Args:
        operators: of a profile.
        device: provider that the session is meant to use, "CPU" or "CUDA".
    """
    total = sum(each.milliseconds for each in operators) or 1.0
    shares = ", ".join(
        f"{each.op_type} x{each.nodes} {100 * each.milliseconds / total:.0f} %"
        for each in operators[:_KERNELS_TOLD]
    )
    moving = ", ".join(
        f"{name} x{count}"
        for name in _COPIES
        if (count := sum(each.nodes for each in operators if each.op_type == name))
    )
    strangers = ", ".join(
        f"{each.op_type} x{each.nodes}" for each in operators if each.provider != device
    )
    return (
        f"{total:.2f} ms in operators: {shares}; moving: {moving or 'none'}; "
        f"not on {device}: {strangers or 'none'}"
    )


def profiled(
    model: Path, providers: Sequence[Any], frames: np.ndarray
) -> tuple[list[OperatorTime], float]:
    """Operators of a session, and the milliseconds of a run without the profile.

    Args:
        model: an .onnx file.
        providers: as `InferenceSession` takes them.
        frames: what it takes.
    """
    import onnxruntime

    device = "cuda" if len(providers) > 1 else "cpu"
    clips = onnxruntime.OrtValue.ortvalue_from_numpy(frames, device, 0)

    def run(session: Any, count: int) -> float:
        binding = session.io_binding()
        binding.bind_ortvalue_input("frames", clips)
        binding.bind_output("logits", device)
        start = time.perf_counter()
        for _ in range(count):
            session.run_with_iobinding(binding)
        return (time.perf_counter() - start) / count * 1e3

    with tempfile.TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(model), settings, providers=list(providers))
        first = session.get_providers()[0]
        if first.removesuffix("ExecutionProvider").lower() != device:
            raise RuntimeError(f"the session uses {first}")
        run(session, _RUNS)
        # The first run chooses algorithms: it is longer than all others, and left out.
        events = json.loads(Path(session.end_profiling()).read_text())
        milliseconds = run(session, _RUNS)
    starts = [event["ts"] for event in events if event["name"] == "model_run"]
    later = [event for event in events if event["ts"] >= sorted(starts)[1]]
    return by_operator(later, _RUNS - 1), milliseconds


def by_kernel(model: Path, providers: Sequence[Any], frames: np.ndarray) -> str:
    """Kernels of the GPU by torch's profiler, which sees those of the whole process, in a line.

    Args:
        model: an .onnx file.
        providers: as `InferenceSession` takes them.
        frames: what it takes.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), settings, providers=list(providers))
    return _kernels_of(lambda: session.run(None, {"frames": frames}))


def torch_kernels(artifact: Path, options: RuntimeOptions, batch: int) -> tuple[str, float]:
    """Kernels of the GPU, or operators of the CPU, of a runtime on torch.

    Frames lie on the device already: copying them there takes as long as a good part of the
    network, and is no part of what is asked here.

    Args:
        artifact: what it opens.
        options: with which.
        batch: clips at a time.

    Returns:
        A line about the kernels, and the median seconds of a run without the profile.
    """
    import torch

    with open_runtime(artifact, options=options) as runtime:
        shape = read_card(artifact).clip.frames_shape
        clips = np.stack([golden_clip(seed, shape) for seed in range(batch)])
        frames = torch.from_numpy(clips).to(options.device)
        said = _kernels_of(lambda: runtime.run(frames))
        taken = []
        for _ in range(_TIMED_RUNS):
            start = time.perf_counter()
            runtime.run(frames)  # its answer comes to the host, so it is waited for
            taken.append(time.perf_counter() - start)
        return said, statistics.median(taken)


def _kernels_of(run: Callable[[], object]) -> str:
    import torch
    from torch.profiler import ProfilerActivity

    for _ in range(_WARM_UP_RUNS):
        run()
    activity = ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        for _ in range(_RUNS):
            run()
    on_gpu = activity is ProfilerActivity.CUDA
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profile.key_averages()
    }
    spent = {name: each / _RUNS / 1e3 for name, each in times.items() if each > 0}
    total = sum(spent.values())
    if not total:
        return "no kernels of a GPU"
    longest = sorted(spent.items(), key=lambda item: -item[1])[:_KERNELS_TOLD]
    shares = "; ".join(f"{name[:90]} {100 * each / total:.0f} %" for name, each in longest)
    return f"{total:.2f} ms in kernels: {shares}"
