"""The stages that run networks on ONNX Runtime; each has the name that it has in plan.py."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarking import benchmark
from networks import Where, checkpoint, exported
from results import FAILED, IMPOSSIBLE, PASSED, Outcome

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import Form, Precision
from stdeploy.backends.onnxruntime import cuda_options, preload_cuda

# What is profiled, with options that differ from ours, in order of worth. With `use_tf32=0` fp16
# was no faster than fp32 on an H100.
_PROFILED: tuple[tuple[Form, Precision, Mapping[str, str]], ...] = (
    ("conv3d", "fp16", {}),
    ("conv3d", "fp16", {"use_tf32": "0"}),
    ("conv3d", "fp16", {"prefer_nhwc": "1"}),
    ("conv3d", "fp32", {}),
    ("planar", "fp16", {}),
    ("planar", "fp16", {"prefer_nhwc": "1"}),
    ("planar", "fp32", {}),
    ("conv3d", "fp16", {"cudnn_conv_algo_search": "HEURISTIC"}),
    ("conv3d", "fp16", {"fuse_conv_bias": "1"}),
)


def kinetics_onnx(outcome: Outcome, where: Where) -> None:
    """The same on ONNX Runtime, beside the network as it was trained; also as CUDA graphs."""
    files = [exported("kinetics", how, where) for how in ("fp32", "fp16")]
    path = checkpoint("kinetics", where)
    benchmark(
        outcome,
        [path, *files],
        ("onnxruntime",),
        where,
        chosen=lambda case: not case.options.channels_last,
    )


def planar_onnx(outcome: Outcome, where: Where) -> None:
    """The Kinetics network in planar form on ONNX Runtime, beside its 3D convolutions."""
    files = [exported("kinetics", "fp32", where, "planar"), *_halves(where)]
    path = checkpoint("kinetics", where)
    benchmark(
        outcome,
        [path, *files],
        ("onnxruntime",),
        where,
        chosen=lambda case: (
            not case.options.channels_last
            and (case.card.form == "planar" or not case.options.cuda_graphs)
        ),
    )


def onnx_channels_last(outcome: Outcome, where: Where) -> None:
    """Both forms on ONNX Runtime with channels last, in fp16 also as CUDA graphs."""
    files = [exported("kinetics", "fp32", where), *_halves(where)]
    path = checkpoint("kinetics", where)
    benchmark(
        outcome,
        [path, *files],
        ("onnxruntime",),
        where,
        chosen=lambda case: (
            case.options.channels_last
            and (case.precision == "fp16" or not case.options.cuda_graphs)
        ),
    )


def onnx_batch_32(outcome: Outcome, where: Where) -> None:
    """Both forms on ONNX Runtime in fp16, with either layout, and fp32; 32 clips at a time."""
    files = [exported("kinetics", "fp32", where), *_halves(where)]
    path = checkpoint("kinetics", where)
    benchmark(
        outcome,
        [path, *files],
        ("onnxruntime",),
        where,
        batches=(32,),
        chosen=lambda case: (
            not case.options.cuda_graphs
            and (case.precision == "fp16" or not case.options.channels_last)
        ),
    )


def onnx_profile(outcome: Outcome, where: Where) -> None:
    """Where ONNX Runtime spends its time on a clip: by operator, and by kernel of the GPU.

    Every kernel is waited for: the CUDA provider tells how long it took to start one, not how long
    that ran.
    """
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    from profiling import by_kernel, profiled, told

    device = "CPU" if where.rehearsal else "CUDA"
    for form, precision, changes in _PROFILED:
        model = exported("kinetics", precision, where, form)
        card = read_card(model)
        frames = golden_clip(card.golden.seed, card.clip.frames_shape)[None]
        options = cuda_options(precision) | changes
        providers: list[Any] = ["CPUExecutionProvider"]
        if not where.rehearsal:
            preload_cuda(importlib.import_module("onnxruntime"))
            providers.insert(0, ("CUDAExecutionProvider", options))
        name = " ".join([form, precision, *(f"{key}={value}" for key, value in changes.items())])
        try:
            operators, milliseconds = profiled(model, providers, frames)
            outcome.add(name, PASSED, f"{milliseconds:.2f} ms a run; {told(operators, device)}")
            outcome.add(f"{name}, kernels", PASSED, by_kernel(model, providers, frames))
        except Exception as error:  # ONNX Runtime's own classes share no narrower base
            reason = " ".join(str(error).split())[:300]
            outcome.add(name, IMPOSSIBLE if changes else FAILED, reason)


def _halves(where: Where) -> list[Path]:
    """The Kinetics network in fp16, in both forms."""
    forms: tuple[Form, ...] = ("conv3d", "planar")
    return [exported("kinetics", "fp16", where, form) for form in forms]
