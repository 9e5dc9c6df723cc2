"""The stages that run networks on torch; each has the name that it has in plan.py."""

import time
from collections.abc import Callable

from benchmarking import benchmark, macs_of
from networks import Where, checkpoint
from results import FAILED, IMPOSSIBLE, PASSED, Outcome

from stdeploy.artifacts.files import fused_path
from stdeploy.artifacts.spec import Precision
from stdeploy.backends.base import DeviceType, RuntimeOptions
from stdeploy.bench.worker import matmul_flops
from stdeploy.errors import BackendError, StdeployError


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
    """Where torch spends its time on 8 clips, by kernel: of both networks in planar form.

    And how much of a product of matrices that is, with frames that lie on the GPU already.
    """
    from profiling import torch_kernels

    batch = 8
    device: DeviceType = "cpu" if where.rehearsal else "cuda"
    precision: Precision = "fp32" if where.rehearsal else "bf16"
    peak = matmul_flops(device, precision)
    for name in ("b1", "kinetics"):
        path = checkpoint(name, where)
        macs = macs_of(path)
        for fused_relu in (False, True):
            how = RuntimeOptions(
                backend="torch",
                device=device,
                precision=precision,
                planar=True,
                fused_relu=fused_relu,
            )
            what = f"{name}, planar{', fused relu' if fused_relu else ''}"
            try:
                said, seconds = torch_kernels(fused_path(path), how, batch=batch)
            except StdeployError as error:
                outcome.add(what, FAILED, str(error))
                continue
            rate = f"{seconds * 1e3:.2f} ms a run"
            if macs is not None and peak is not None:
                rate += f", {2 * macs * batch / seconds / peak:.0%} of a product of matrices"
            outcome.add(what, PASSED, f"{rate}; {said}")


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
    benchmark(
        outcome,
        [path, fused_path(path)],
        ("torch",),
        where,
        batches=batches,
        chosen=lambda case: chosen(case.options),
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
    from stdeploy.backends.aot_package import cuda_headers
    from stdeploy.export.aot import build_package
    from stdeploy.hardware import gpus

    try:
        with cuda_headers("cpu" if where.rehearsal else "cuda"):
            pass
    except BackendError as error:
        outcome.add(f"{name}, compiled", IMPOSSIBLE, str(error))
        return
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
    benchmark(outcome, [path, package], ("aotinductor",), where, batches=(1, 8, 32))
