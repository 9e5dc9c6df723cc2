"""Planar graphs of every architecture through TensorRT-RTX, for GPUs that are not here.

    python benchmarks/planar_engines.py [--networks NAME ...] [--targets sm86 ...] [--full]

Each network is exported in planar form in every precision, and an engine is built for each target:
whether its parser and builder take the graph, and how large the engine is. No engine is run.
Networks are narrow (--full: as wide as they are, in fp16 alone, at 32 x 224 x 224), weights are
random; the ranges of int8 are those of two synthetic clips, because no answer is judged.
"""

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from planar_networks import OF_OTHERS, OURS, card_of, fused_network, spec_of, written

from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import ClipSpec, Precision
from stdeploy.backends.tensorrt_builder import BuildOptions, build_plan, import_distribution
from stdeploy.errors import ArtifactError, BackendError

NETWORKS = (*OURS, "plain", *OF_OTHERS)
TARGETS = ("sm86", "sm89", "sm120")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
LENGTHS = (1, 1, 3, 3, 5)
NARROW, NARROW_CLIP = 0.125, ClipSpec(num_frames=8, short_side_px=40, crop_px=32)
FULL_CLIP = ClipSpec(num_frames=32, short_side_px=256, crop_px=224)


def rows(
    name: str, precisions: Sequence[Precision], targets: Sequence[str], *, full: bool
) -> list[str]:
    """A row of the table for each precision: size for each target, or why not."""
    clip = FULL_CLIP if full else NARROW_CLIP
    model = fused_network(spec_of(name, LENGTHS, width=1.0 if full else NARROW)).float()
    card = card_of(model, clip)
    clips = np.stack([golden_clip(seed, clip.frames_shape) for seed in (1, 2)])
    distribution = import_distribution("tensorrt_rtx")
    found = []
    for precision in precisions:
        told = []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.planar.onnx"
            made = written(path, model, card, precision=precision, form="planar", clips=clips)
            for target in targets:
                try:
                    plan = build_plan(path, made, distribution, BuildOptions(targets=(target,)))
                except (ArtifactError, BackendError) as error:
                    told.append(str(error).replace("|", "/"))
                    continue
                told.append(f"{len(plan) / 1e6:.1f} MB")
        found.append(f"| {name} | {precision} | {' | '.join(told)} |")
    return found


def main() -> None:
    """Build, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--full", action="store_true", help="Full width, fp16 alone.")
    arguments = parser.parse_args()
    print(f"TensorRT-RTX {import_distribution('tensorrt_rtx').version}")
    print(f"| network | precision | {' | '.join(arguments.targets)} |")
    print(f"| --- | --- |{' ---: |' * len(arguments.targets)}")
    precisions = ("fp16",) if arguments.full else PRECISIONS
    for row in itertools.chain.from_iterable(
        rows(name, precisions, arguments.targets, full=arguments.full)
        for name in arguments.networks
    ):
        print(row, flush=True)


if __name__ == "__main__":
    main()
