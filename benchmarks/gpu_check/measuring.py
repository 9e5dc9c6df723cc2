"""The stages that measure; each has the name that it has in plan.py."""

import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from networks import Where, checkpoint, exported, has_real_weights, spec_of
from results import FAILED, IMPOSSIBLE, PASSED, Outcome

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.files import fused_path
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import Form, Precision
from stdeploy.backends.onnxruntime import cuda_options, preload_cuda
from stdeploy.bench.measure import measure
from stdeploy.bench.tables import summary
from stdeploy.bench.worker import Case, cases_for
from stdeploy.errors import StdeployError

# What is used beside torch, by the names that are imported.
_MODULES = (
    *("cv2", "fvcore", "lightning_fabric", "matplotlib", "onnxruntime", "onnxscript", "xdist"),
    *("fastapi", "httpx", "multipart", "prometheus_client", "pydantic_settings", "uvicorn"),
    *("fastapi_offline", "pythonjsonlogger", "tensorboard"),
)
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


def host(outcome: Outcome, where: Where) -> None:
    """What is installed, and what `stdeploy doctor` says."""
    del where
    for name in _MODULES:
        if importlib.util.find_spec(name) is None:
            outcome.add(name, IMPOSSIBLE, "not installed")
    from stdeploy.doctor import examine

    for found in examine():
        status = PASSED if found.status in ("works", "fact") else IMPOSSIBLE
        outcome.add(found.topic, status, found.text)


def artifacts(outcome: Outcome, where: Where) -> None:
    """Fuse and export the Kinetics network; each .onnx file passes its gate, or is not there."""
    _artifacts(outcome, where, "conv3d")


def artifacts_planar(outcome: Outcome, where: Where) -> None:
    """The same in planar form."""
    _artifacts(outcome, where, "planar")


def _artifacts(outcome: Outcome, where: Where, form: Form) -> None:
    start = time.monotonic()
    checkpoint("kinetics", where)
    weights = "real" if has_real_weights() and not where.rehearsal else "random"
    outcome.add("kinetics, fused", PASSED, f"{weights} weights, {time.monotonic() - start:.1f} s")
    for precision in ("fp32", "fp16"):
        start = time.monotonic()
        try:
            exported("kinetics", precision, where, form)
        except StdeployError as error:
            outcome.add(f"kinetics, {form} {precision}", FAILED, str(error))
            continue
        outcome.add(f"kinetics, {form} {precision}", PASSED, f"{time.monotonic() - start:.1f} s")


def kinetics(outcome: Outcome, where: Where) -> None:
    """The Kinetics network on torch, without torch.compile."""
    path = checkpoint("kinetics", where)
    _benchmark(outcome, [path, fused_path(path)], ("torch",), where)


def kinetics_onnx(outcome: Outcome, where: Where) -> None:
    """The same on ONNX Runtime, beside the network as it was trained; also as CUDA graphs."""
    files = [exported("kinetics", how, where) for how in ("fp32", "fp16")]
    path = checkpoint("kinetics", where)
    _benchmark(
        outcome,
        [path, *files],
        ("onnxruntime",),
        where,
        chosen=lambda case: not case.options.channels_last,
    )


def onnx_channels_last(outcome: Outcome, where: Where) -> None:
    """Both forms on ONNX Runtime with channels last, in fp16 also as CUDA graphs."""
    files = [exported("kinetics", "fp32", where), *_halves(where)]
    path = checkpoint("kinetics", where)
    _benchmark(
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
    _benchmark(
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


def torch_batch_32(outcome: Outcome, where: Where) -> None:
    """The Kinetics network on torch, without torch.compile, 32 clips at a time."""
    path = checkpoint("kinetics", where)
    _benchmark(outcome, [path, fused_path(path)], ("torch",), where, batches=(32,))


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


def b1(outcome: Outcome, where: Where) -> None:
    """I3D-ResNet-50 b1 on torch."""
    path = checkpoint("b1", where)
    _benchmark(outcome, [path, fused_path(path)], ("torch",), where)


def planar(outcome: Outcome, where: Where) -> None:
    """The Kinetics network in planar form on torch."""
    path = checkpoint("kinetics", where)
    _benchmark(outcome, [path, fused_path(path)], ("torch",), where, planar=True)


def planar_b1(outcome: Outcome, where: Where) -> None:
    """I3D-ResNet-50 b1 in planar form on torch."""
    path = checkpoint("b1", where)
    _benchmark(outcome, [path, fused_path(path)], ("torch",), where, planar=True)


def planar_onnx(outcome: Outcome, where: Where) -> None:
    """The Kinetics network in planar form on ONNX Runtime, beside its 3D convolutions."""
    files = [exported("kinetics", "fp32", where, "planar"), *_halves(where)]
    path = checkpoint("kinetics", where)
    _benchmark(
        outcome,
        [path, *files],
        ("onnxruntime",),
        where,
        chosen=lambda case: (
            not case.options.channels_last
            and (case.card.form == "planar" or not case.options.cuda_graphs)
        ),
    )


def _halves(where: Where) -> list[Path]:
    """The Kinetics network in fp16, in both forms."""
    return [exported("kinetics", "fp16", where, form) for form in get_args(Form)]


def determinism(outcome: Outcome, where: Where) -> None:
    """What deterministic training costs a step of both networks."""
    import torch
    from lightning_fabric import Fabric
    from torch import nn

    from stdeploy.models.frames_to_logits import FrameNormalisation
    from stdeploy.models.registry import build
    from stdeploy.train.determinism import (
        cost_of_determinism,
        deterministic_algorithms,
        replace_max_pools,
    )

    device = "cpu" if where.rehearsal else "cuda"
    for name in ("kinetics", "b1"):
        spec, clip = spec_of(name, where)
        for precision in ("32-true", "bf16-mixed")[: 1 if where.rehearsal else 2]:
            model = build(spec).train().to(device)
            replace_max_pools(model)
            graph = nn.Sequential(FrameNormalisation(clip).to(device), model)
            fabric = Fabric(accelerator=device, devices=1, precision=precision)
            what = f"{name}, {precision}, 4 clips"
            try:
                with deterministic_algorithms():
                    cost = cost_of_determinism(fabric, graph, (4, *clip.frames_shape))
            except torch.OutOfMemoryError:
                outcome.add(what, IMPOSSIBLE, "does not fit into the memory of this GPU")
                continue
            except StdeployError as error:
                outcome.add(what, FAILED, str(error))
                continue
            outcome.add(what, PASSED, str(cost))
            del model, graph
            if not where.rehearsal:
                torch.cuda.empty_cache()


def serving(outcome: Outcome, where: Where) -> None:
    """Eight clients keep a server of the Kinetics network busy."""
    from load import MODULES, serve_and_ask

    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        outcome.add("server", IMPOSSIBLE, f"{', '.join(missing)} not installed")
        return
    artifact = fused_path(checkpoint("kinetics", where))
    how = ("--device", "cpu", "--threads", "1") if where.rehearsal else ("--device", "cuda")
    precision = () if where.rehearsal else ("--precision", "bf16")
    answers = serve_and_ask(artifact, (*how, *precision), seconds=2.0 if where.rehearsal else 15.0)
    outcome.add("server", PASSED if answers.well else FAILED, str(answers))


def _benchmark(
    outcome: Outcome,
    paths: Sequence[Path],
    backends: tuple[str, ...],
    where: Where,
    *,
    planar: bool = False,
    batches: tuple[int, ...] = (1, 8),
    chosen: Callable[[Case], bool] = lambda _case: True,
) -> None:
    """Measure artifacts on some backends in turns, beside the network as it was trained.

    Of torch either the 3D convolutions or, with `planar`, the planar form; of all ways those that
    are chosen. A CPU, in a rehearsal, has one way, which is always taken.
    """
    devices = ("cpu",) if where.rehearsal else ("cuda",)
    cases = [
        case
        for case in cases_for(paths, devices=devices, compiled=False)
        if _is_trained(case)
        or (
            case.options.backend in backends
            and case.options.planar == planar
            and (where.rehearsal or chosen(case))
        )
    ]
    card = cases[0].card
    macs = None
    if importlib.util.find_spec("fvcore"):
        from stdeploy.export.flops import count_flops

        macs = count_flops(
            card.model, num_frames=card.clip.num_frames, side_px=card.clip.crop_px
        ).macs
    report = measure(
        cases,
        batches=(1,) if where.rehearsal else batches,
        rounds=1 if where.rehearsal else 2,
        turn_seconds=0.0 if where.rehearsal else 0.3,
        macs=macs,
        progress=lambda what, done, total: print(f"{what} {done}/{total}", flush=True),
        so_far=outcome.put_report,
    )
    for row in report.rows:
        if row.failed:
            outcome.add(f"{row.name}, batch {row.batch}", FAILED, row.failed)
    best = report.winner()
    if best is not None:
        said = f"{best.name}, {best.clips_per_second:.3g} clips/s"
        outcome.add(f"fastest, batch {best.batch}", PASSED, said)
    print("\n".join(summary(report)))


def _is_trained(case: Case) -> bool:
    """Whether this is what `x unfused` is relative to."""
    return case.is_baseline and case.precision == "fp32"
