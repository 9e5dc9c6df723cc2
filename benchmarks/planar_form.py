"""The planar form of fused networks beside their 3D convolutions: errors, then times.

    python benchmarks/planar_form.py [--rounds N] [--threads N] [--networks NAME ...]
        [--precisions fp32 int8]

Prints two tables. Errors: of every architecture with several temporal lengths, in float64 and in
float32, by torch, relative to the largest logit. Times: of one clip in every runtime and both
forms, each in turn in every round, so that a machine that slows down slows all of them alike; what
is compared is the ratio within a round. Weights are random, and so are the norms that are folded.
"""

import argparse
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import relative_error
from stdeploy.artifacts.spec import ClipSpec, Form, ModelSpec, TemporalLengths
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_model
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import save_fused
from stdeploy.models.frames_to_logits import golden_of
from stdeploy.models.planar import planar_form
from stdeploy.models.registry import build

ARCHITECTURES = ("i3d-resnet18", "i3d-resnet50", "s3d-resnet50", "i3d-inception")
LENGTHS: tuple[TemporalLengths, ...] = ((1, 1, 3, 3, 5), (7, 3, 3, 3, 3), (5, 5, 5, 5, 5))
CLIP = ClipSpec(num_frames=32, short_side_px=128, crop_px=112)
SMALL = (16, 64)  # frames and side of the clips that are compared in float64
CLASSES = 51
# Random networks hesitate, and no answer is judged here.
ANY_ANSWER = {"max_error": 1.0, "mean_error": 1.0, "top1_changed": 1.0, "kl_nats": 100.0}


def fused_network(architecture: str, lengths: TemporalLengths) -> ActionModel:
    """A fused network in float64, of random weights and norms."""
    torch.manual_seed(0)
    spec = ModelSpec(
        architecture=architecture,
        num_classes=CLASSES,
        temporal_lengths=lengths,
        branches="single",
        eta=1.0,
    )
    model = build(spec)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return fuse_model(model.eval())


def errors(architecture: str, lengths: TemporalLengths) -> tuple[float, float]:
    """Relative errors of the planar form in float64 and in float32."""
    frames, side = SMALL
    model = fused_network(architecture, lengths)
    x = torch.randn((2, 3, frames, side, side), dtype=torch.float64)
    found = []
    for dtype in (torch.float64, torch.float32):
        model = model.to(dtype)
        with torch.inference_mode():
            expected = model(x.to(dtype)).double().numpy()
            actual = planar_form(model, frames)(x.to(dtype)).double().numpy()
        found.append(relative_error(expected, actual))
    return found[0], found[1]


@contextlib.contextmanager
def runtimes(
    architecture: str, folder: Path, videos: Path, threads: int, precisions: Sequence[str]
) -> Iterator[dict[tuple[str, Form], Callable[[], np.ndarray]]]:
    """Every way to run a clip, by what runs it and the form."""
    model = fused_network(architecture, LENGTHS[0]).float()
    fused = folder / f"{architecture}.fused.safetensors"
    card = ModelCard(
        model=model.spec,
        clip=CLIP,
        labels=tuple(f"class {number}" for number in range(CLASSES)),
        golden=golden_of(model, CLIP),
    )
    save_fused(fused, model, card)
    frames = golden_clip(1, CLIP.frames_shape)[None]
    with contextlib.ExitStack() as stack:
        ways = {}
        for form in ("conv3d", "planar"):
            opened = [("torch fp32", fused, "torch")]
            for precision in precisions:
                file = export_onnx(
                    fused,
                    precision=precision,
                    form=form,
                    calibrate=videos if precision == "int8" else None,
                    allow=ANY_ANSWER if precision == "int8" else None,
                ).path
                opened += [(f"{b} {precision}", file, b) for b in ("onnxruntime", "openvino")]
            for name, file, backend in opened:
                options = RuntimeOptions(
                    backend=backend,
                    device="cpu",
                    threads=threads,
                    planar=backend == "torch" and form == "planar",
                )
                runtime = stack.enter_context(open_runtime(file, options=options))
                ways[name, form] = lambda runtime=runtime: runtime.run(frames)
        yield ways


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--networks", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--precisions", nargs="+", default=("fp32", "int8"))
    arguments = parser.parse_args()
    print("| network | lengths | float64 | float32 |\n| --- | --- | ---: | ---: |")
    for architecture, lengths in itertools.product(arguments.networks, LENGTHS):
        exact, single = errors(architecture, lengths)
        shown = "-".join(map(str, lengths))
        print(f"| {architecture} | {shown} | {exact:.1e} | {single:.1e} |", flush=True)
    print("\n| network | runtime | 3D, ms | planar, ms | planar / 3D | logits |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "videos", train=20, validation=10, seed=1)
        for architecture in arguments.networks:
            folders = (folder, folder / "videos")
            settings = (arguments.threads, arguments.precisions)
            with runtimes(architecture, *folders, *settings) as ways:
                logits = {way: run() for way, run in ways.items()}
                seconds: dict[tuple[str, Form], list[float]] = {way: [] for way in ways}
                for _ in range(arguments.rounds):
                    for way, run in ways.items():
                        began = time.perf_counter()
                        run()
                        seconds[way].append(time.perf_counter() - began)
            for runtime in dict.fromkeys(runtime for runtime, _ in ways):
                usual, planar = seconds[runtime, "conv3d"], seconds[runtime, "planar"]
                ratios = [b / a for a, b in zip(usual, planar, strict=True)]
                spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
                error = relative_error(
                    logits[runtime, "conv3d"].astype(float), logits[runtime, "planar"].astype(float)
                )
                print(
                    f"| {architecture} | {runtime} | {1e3 * statistics.median(usual):.0f} | "
                    f"{1e3 * statistics.median(planar):.0f} | "
                    f"{statistics.median(ratios):.2f} ({spread}) | {error:.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
