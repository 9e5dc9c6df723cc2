"""The stages that measure; each has the name that it has in plan.py."""

import dataclasses
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

from networks import Where, checkpoint, exported, has_real_weights, spec_of
from results import FAILED, IMPOSSIBLE, PASSED, Outcome

from stdeploy.artifacts.files import fused_path
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
    start = time.monotonic()
    checkpoint("kinetics", where)
    weights = "real" if has_real_weights() and not where.rehearsal else "random"
    outcome.add("kinetics, fused", PASSED, f"{weights} weights, {time.monotonic() - start:.1f} s")
    for precision in ("fp32", "fp16"):
        start = time.monotonic()
        try:
            exported("kinetics", precision, where)
        except StdeployError as error:
            outcome.add(f"kinetics, {precision}", FAILED, str(error))
            continue
        outcome.add(f"kinetics, {precision}", PASSED, f"{time.monotonic() - start:.1f} s")


def kinetics(outcome: Outcome, where: Where) -> None:
    """The Kinetics network on torch, without torch.compile."""
    path = checkpoint("kinetics", where)
    _benchmark(outcome, [path, fused_path(path)], ("torch",), where)


def kinetics_onnx(outcome: Outcome, where: Where) -> None:
    """The same on ONNX Runtime, beside the network as it was trained."""
    files = [exported("kinetics", how, where) for how in ("fp32", "fp16")]
    path = checkpoint("kinetics", where)
    _benchmark(outcome, [path, *files], ("onnxruntime",), where)


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
    files = [exported("kinetics", "fp32", where)]
    files += [exported("kinetics", how, where, "planar") for how in ("fp32", "fp16")]
    path = checkpoint("kinetics", where)
    _benchmark(outcome, [path, *files], ("onnxruntime",), where)


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
    planar: bool = False,
) -> None:
    """Measure artifacts on some backends in turns, beside the network as it was trained.

    Of torch either the 3D convolutions or, with `planar`, the planar form.
    """
    devices = ("cpu",) if where.rehearsal else ("cuda",)
    cases = [
        case
        for case in cases_for(paths, devices=devices, compiled=False)
        if (case.options.backend in backends and case.options.planar == planar) or _is_trained(case)
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
        batches=(1,) if where.rehearsal else (1, 8),
        rounds=1 if where.rehearsal else 2,
        turn_seconds=0.0 if where.rehearsal else 0.3,
        macs=macs,
        progress=lambda what, done, total: print(f"{what} {done}/{total}", flush=True),
    )
    outcome.report = dataclasses.asdict(report)
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
