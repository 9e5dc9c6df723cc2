"""The stage that runs streams; it has the name that it has in plan.py."""

import time
from collections.abc import Callable

import numpy as np
from networks import Where, checkpoint
from results import FAILED, PASSED, Outcome

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.files import fused_path
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import DeviceType, RuntimeOptions, StreamOptions
from stdeploy.backends.loader import open_runtime, open_streams
from stdeploy.errors import StdeployError

_CALLS, _STREAMS = 30, (1, 8, 32)


def streams(outcome: Outcome, where: Where) -> None:
    """A new frame of 1, 8 and 32 streams beside a window: b1 on torch, eager and as CUDA graphs."""
    fused = fused_path(checkpoint("b1", where))
    device: DeviceType = "cpu" if where.rehearsal else "cuda"
    precision: Precision = "fp32" if where.rehearsal else "bf16"
    clip = read_card(fused).clip
    frames = golden_clip(0, clip.frames_shape)
    for cuda_graphs in (False,) if where.rehearsal else (False, True):
        how = RuntimeOptions(
            backend="torch", device=device, precision=precision, cuda_graphs=cuda_graphs
        )
        name = f"b1, {precision}{', CUDA graphs' if cuda_graphs else ''}"
        try:
            with open_runtime(fused, options=how) as runtime:
                window = _seconds(lambda runtime=runtime: runtime.run(frames[None]))
            with open_streams(fused, options=how, asked=StreamOptions(1, 64)) as network:
                for count in _STREAMS[:1] if where.rehearsal else _STREAMS:
                    together = [network.begin() for _ in range(count)]
                    new = np.repeat(frames[None, :1], count, axis=0)
                    frame = _seconds(lambda new=new, together=together: network.run(new, together))
                    said = f"{1e3 * frame:.2f} ms a call, {count / frame:.0f} frames/s; a window "
                    said += f"{1e3 * window:.2f} ms, {window / frame * count:.1f} frames' worth"
                    outcome.add(f"{name}, {count} streams", PASSED, said)
        except StdeployError as error:
            outcome.add(name, FAILED, str(error))


def _seconds(run: Callable[[], object]) -> float:
    """Median time of a call, after three that warm up."""
    times = []
    for _ in range(3 + _CALLS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times[3:]))
