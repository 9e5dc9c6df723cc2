"""The stages that measure; each has the name that it has in plan.py."""

import importlib
import importlib.util
import shutil
import time

from networks import Where, checkpoint, exported, has_real_weights, spec_of
from results import FAILED, IMPOSSIBLE, PASSED, Outcome

from stdeploy.artifacts.files import fused_path
from stdeploy.artifacts.spec import Form
from stdeploy.errors import BackendError, StdeployError

# What is used beside torch, by the names that are imported.
_MODULES = (
    *("cv2", "fvcore", "lightning_fabric", "matplotlib", "onnxruntime", "onnxscript", "xdist"),
    *("fastapi", "httpx", "multipart", "prometheus_client", "pydantic_settings", "uvicorn"),
    *("fastapi_offline", "pythonjsonlogger", "tensorboard"),
)


def host(outcome: Outcome, where: Where) -> None:
    """What is installed, and what `stdeploy doctor` says."""
    for name in _MODULES:
        if importlib.util.find_spec(name) is None:
            outcome.add(name, IMPOSSIBLE, "not installed")
    from stdeploy.doctor import examine

    for found in examine():
        status = PASSED if found.status in ("works", "fact") else IMPOSSIBLE
        outcome.add(found.topic, status, found.text)
    from stdeploy.backends.aot_package import cuda_headers

    try:
        with cuda_headers("cpu" if where.rehearsal else "cuda"):
            outcome.add("compiler for AOTInductor", PASSED, shutil.which("g++") or "no g++")
    except BackendError as error:
        outcome.add("compiler for AOTInductor", IMPOSSIBLE, str(error))


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
