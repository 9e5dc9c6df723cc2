"""The stages that measure; each has the name that it has in plan.py."""

import importlib
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from networks import Where, checkpoint, exported, has_real_weights, spec_of
from results import FAILED, IMPOSSIBLE, PASSED, Outcome

from stdeploy.artifacts.files import fused_path
from stdeploy.artifacts.spec import Form, Precision
from stdeploy.backends.base import RuntimeOptions
from stdeploy.bench.measure import measure
from stdeploy.bench.tables import summary
from stdeploy.bench.worker import cases_for
from stdeploy.errors import StdeployError

# What is used beside torch, by the names that are imported.
_MODULES = (
    *("cv2", "fvcore", "lightning_fabric", "matplotlib", "onnxruntime", "onnxscript", "xdist"),
    *("fastapi", "httpx", "multipart", "prometheus_client", "pydantic_settings", "uvicorn"),
    *("fastapi_offline", "pythonjsonlogger", "tensorboard"),
)
_PRECISIONS_AND_FORMS: tuple[tuple[Precision, Form], ...] = (
    ("fp32", "conv3d"),
    ("fp16", "conv3d"),
    ("fp32", "planar"),
    ("fp16", "planar"),
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
    """The Kinetics network on torch with 3D convolutions, not compiled."""
    _on_torch(outcome, where, "kinetics", lambda way: not way.planar)


def planar(outcome: Outcome, where: Where) -> None:
    """The Kinetics network in planar form on torch in bf16, beside its 3D convolutions."""
    _on_torch(outcome, where, "kinetics", _planar_in_bf16)


def planar_b1(outcome: Outcome, where: Where) -> None:
    """I3D-ResNet-50 b1 likewise."""
    _on_torch(outcome, where, "b1", _planar_in_bf16)


def planar_precisions(outcome: Outcome, where: Where) -> None:
    """The Kinetics network in planar form in fp16 and fp32, its fastest forms."""
    _on_torch(
        outcome,
        where,
        "kinetics",
        lambda way: way.planar and way.cuda_graphs and way.precision != "bf16",
    )


def b1(outcome: Outcome, where: Where) -> None:
    """I3D-ResNet-50 b1 on torch with 3D convolutions, not compiled."""
    _on_torch(outcome, where, "b1", lambda way: not way.planar)


def torch_batch_32(outcome: Outcome, where: Where) -> None:
    """The Kinetics network on torch, 32 clips at a time, in bf16 and as CUDA graphs."""
    _on_torch(outcome, where, "kinetics", _graphs_in_bf16, batches=(32,))


def torch_batch_32_b1(outcome: Outcome, where: Where) -> None:
    """I3D-ResNet-50 b1 likewise."""
    _on_torch(outcome, where, "b1", _graphs_in_bf16, batches=(32,))


def compiled(outcome: Outcome, where: Where) -> None:
    """I3D-ResNet-50 b1 by torch.compile, in planar form and bf16, as CUDA graphs."""
    _on_torch(
        outcome,
        where,
        "b1",
        lambda way: way.compile and way.planar and not way.autotune and _graphs_in_bf16(way),
        compiled=not where.rehearsal,  # tests have compiled on the CPU
    )


def aot(outcome: Outcome, where: Where) -> None:
    """The Kinetics network compiled ahead of time, in planar form."""
    _packaged(outcome, where, "kinetics", autotune=False)


def aot_b1(outcome: Outcome, where: Where) -> None:
    """I3D-ResNet-50 b1 likewise."""
    _packaged(outcome, where, "b1", autotune=False)


def aot_autotuned(outcome: Outcome, where: Where) -> None:
    """I3D-ResNet-50 b1 likewise, with every kernel timed."""
    _packaged(outcome, where, "b1", autotune=True)


def torch_profile(outcome: Outcome, where: Where) -> None:
    """Where torch spends its time on 8 clips, by kernel: of both networks in planar form."""
    from profiling import torch_kernels

    for name in ("kinetics", "b1"):
        for fused_relu in (False, True):
            how = RuntimeOptions(
                backend="torch",
                device="cpu" if where.rehearsal else "cuda",
                precision="fp32" if where.rehearsal else "bf16",
                planar=True,
                fused_relu=fused_relu,
            )
            what = f"{name}, planar{', fused relu' if fused_relu else ''}"
            try:
                said = torch_kernels(fused_path(checkpoint(name, where)), how, batch=8)
                outcome.add(what, PASSED, said)
            except StdeployError as error:
                outcome.add(what, FAILED, str(error))


def _on_torch(
    outcome: Outcome,
    where: Where,
    name: str,
    chosen: Callable[[RuntimeOptions], bool],
    *,
    batches: tuple[int, ...] = (1, 8),
    compiled: bool = False,
) -> None:
    """Measure ways to run a network on torch."""
    path = checkpoint(name, where)
    _benchmark(
        outcome,
        [path, fused_path(path)],
        ("torch",),
        where,
        batches=batches,
        chosen=chosen,
        compiled=compiled,
    )


def _planar_in_bf16(way: RuntimeOptions) -> bool:
    """Every planar form in bf16, and the fastest of the others."""
    return way.precision == "bf16" and (way.planar or way.cuda_graphs)


def _graphs_in_bf16(way: RuntimeOptions) -> bool:
    return way.precision == "bf16" and way.cuda_graphs


def _packaged(outcome: Outcome, where: Where, name: str, *, autotune: bool) -> None:
    """Compile a network, and measure it beside what is not compiled."""
    from stdeploy.artifacts.files import aot_path
    from stdeploy.export.aot import build_package
    from stdeploy.hardware import gpus

    if where.rehearsal:  # one network is compiled for all such stages, which takes a minute
        name, autotune = "kinetics", False
    precision: Precision = "fp32" if where.rehearsal else "bf16"
    path = checkpoint(name, where)
    fused = fused_path(path)
    package = aot_path(fused, "cpu" if where.rehearsal else gpus()[0].slug, precision, "planar")
    if autotune or not package.is_file():
        start = time.monotonic()
        build_package(
            fused,
            precision=precision,
            form="planar",
            batch=8,
            autotune=autotune,
            # Random weights hesitate between classes, which rounding then decides.
            allow={} if where.rehearsal else {"top1_changed": 1.0},
        )
        outcome.add(f"{name}, compiled", PASSED, f"{time.monotonic() - start:.1f} s")
    _benchmark(outcome, [path, package], ("aotinductor",), where, batches=(1, 8, 32))


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


def readers(outcome: Outcome, where: Where) -> None:
    """The CPU and the decoders of the GPU read small clips and clips of 1080p."""
    import reading

    reading.readers(outcome, where)


def serving_nvdec(outcome: Outcome, where: Where) -> None:
    """A server that decodes on the GPU, beside one that does on the CPU."""
    import reading

    reading.serving_nvdec(outcome, where)


def _benchmark(
    outcome: Outcome,
    paths: Sequence[Path],
    backends: tuple[str, ...],
    where: Where,
    *,
    batches: tuple[int, ...] = (1, 8),
    chosen: Callable[[RuntimeOptions], bool] = lambda _way: True,
    compiled: bool = False,
) -> None:
    """Measure artifacts on some backends in turns, beside the network as it was trained.

    That is run in fp32 and in fp16; of the other ways those that are chosen. A CPU, in a rehearsal,
    has few ways: each file is run in one of them.
    """
    devices = ("cpu",) if where.rehearsal else ("cuda",)
    cases = [
        case
        for case in cases_for(paths, devices=devices, compiled=compiled)
        if case.is_baseline
        or (case.options.backend in backends and (where.rehearsal or chosen(case.options)))
    ]
    if where.rehearsal:
        cases = list({case.artifact: case for case in cases}.values())
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
