"""The planar form of fused networks beside their 3D convolutions: errors, then times.

    python benchmarks/planar_form.py [--rounds N] [--threads N] [--networks NAME ...]
        [--precisions fp32 int8] [--seeds N]

Prints two tables. Errors: of every architecture with several temporal lengths, and of networks of
other projects that have strides in time, in float64 and in float32, by torch, relative to the
largest logit; for several draws of weights and clips. Times: of one clip in every runtime and both
forms, each in turn in every round, so that a machine that slows down slows all of them alike; what
is compared is the ratio within a round. Weights are random, and so are the norms that are folded;
in int8 every layer is quantised, with ranges of a few synthetic clips, and no gate judges it.
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
from planar_networks import OF_OTHERS, OURS, card_of, fused_network, spec_of, written

from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.parity import relative_error
from stdeploy.artifacts.spec import ClipSpec, Form, Precision, TemporalLengths
from stdeploy.backends.base import Backend, RuntimeOptions
from stdeploy.backends.loader import open_backend
from stdeploy.export.onnx import FORMS
from stdeploy.models.checkpoint import save_fused
from stdeploy.models.planar import planar_form

LENGTHS: tuple[TemporalLengths, ...] = ((1, 1, 3, 3, 5), (7, 3, 3, 3, 3), (5, 5, 5, 5, 5))
CLIP = ClipSpec(num_frames=32, short_side_px=128, crop_px=112)
SMALL = (16, 64)  # frames and side of the clips that are compared in float64
RANGE_CLIPS = 4  # that int8 takes its ranges from
Ways = dict[tuple[str, Form], Callable[[], np.ndarray]]


def errors(name: str, lengths: TemporalLengths, seed: int) -> tuple[float, float]:
    """Relative errors of the planar form in float64 and in float32, for one draw of weights."""
    frames, side = SMALL
    model = fused_network(spec_of(name, lengths), seed=seed)
    x = torch.randn((2, 3, frames, side, side), dtype=torch.float64)
    found = []
    for dtype in (torch.float64, torch.float32):
        model = model.to(dtype)
        with torch.inference_mode():
            expected = model(x.to(dtype)).double().numpy()
            actual = planar_form(model, frames)(x.to(dtype)).double().numpy()
        found.append(relative_error(expected, actual))
    return found[0], found[1]


def error_rows(networks: Sequence[str], seeds: int) -> Iterator[str]:
    """The first table: of all draws the largest in float64, smallest to largest in float32."""
    yield f"| network | lengths | float64, largest of {seeds} | float32 |"
    yield "| --- | --- | ---: | ---: |"
    ours = itertools.product(networks, LENGTHS)
    for name, lengths in itertools.chain(ours, ((name, None) for name in OF_OTHERS)):
        drawn = [errors(name, lengths or LENGTHS[0], seed) for seed in range(seeds)]
        exact, single = zip(*drawn, strict=True)
        shown = "-".join(map(str, lengths or spec_of(name, LENGTHS[0]).temporal_lengths))
        yield f"| {name} | {shown} | {max(exact):.1e} | {min(single):.1e} to {max(single):.1e} |"


@contextlib.contextmanager
def runtimes(
    name: str, folder: Path, threads: int, precisions: Sequence[Precision]
) -> Iterator[Ways]:
    """Every way to run a clip, by what runs it and the form."""
    model = fused_network(spec_of(name, LENGTHS[0])).float()
    card = card_of(model, CLIP)
    fused = folder / f"{name}.fused.safetensors"
    save_fused(fused, model, card)
    clips = np.stack([golden_clip(seed, CLIP.frames_shape) for seed in range(RANGE_CLIPS)])
    frames = golden_clip(RANGE_CLIPS, CLIP.frames_shape)[None]
    with contextlib.ExitStack() as stack:
        ways: Ways = {}

        def add(title: str, form: Form, file: Path, backend: Backend, planar: bool) -> None:
            options = RuntimeOptions(backend=backend, device="cpu", threads=threads, planar=planar)
            described = cards.get(file, card)
            runtime = stack.enter_context(open_backend(file, described, options))
            ways[title, form] = lambda: runtime.run(frames)

        cards = {}
        for form in FORMS:
            add("torch fp32", form, fused, "torch", form == "planar")
            for precision in precisions:
                file = folder / f"{name}.{form}.{precision}.onnx"
                cards[file] = written(
                    file, model, card, precision=precision, form=form, clips=clips
                )
                for backend in ("onnxruntime", "openvino"):
                    add(f"{backend} {precision}", form, file, backend, planar=False)
        yield ways


def time_rows(ways: Ways, name: str, rounds: int) -> Iterator[str]:
    """The second table's rows of a network."""
    logits = {way: run() for way, run in ways.items()}
    exact = logits["torch fp32", "conv3d"]
    seconds: dict[tuple[str, Form], list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - began)
    for runtime in dict.fromkeys(runtime for runtime, _ in ways):
        usual, planar = seconds[runtime, "conv3d"], seconds[runtime, "planar"]
        ratios = [b / a for a, b in zip(usual, planar, strict=True)]
        error = relative_error(
            logits[runtime, "conv3d"].astype(float), logits[runtime, "planar"].astype(float)
        )
        from_fp32 = [
            relative_error(exact.astype(float), logits[runtime, form].astype(float))
            for form in FORMS
        ]
        yield (
            f"| {name} | {runtime} | {1e3 * statistics.median(usual):.0f} | "
            f"{1e3 * statistics.median(planar):.0f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {error:.1e} | "
            f"{' '.join(f'{each:.1e}' for each in from_fp32)} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--networks", nargs="+", default=OURS, choices=OURS)
    parser.add_argument("--precisions", nargs="+", default=("fp32", "int8"))
    arguments = parser.parse_args()
    if arguments.seeds:
        for row in error_rows(arguments.networks, arguments.seeds):
            print(row, flush=True)
    print(
        "\n| network | runtime | 3D, ms | planar, ms | planar / 3D | logits | off fp32, 3D planar |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            settings = (arguments.threads, arguments.precisions)
            with runtimes(name, Path(folder), *settings) as ways:
                for row in time_rows(ways, name, arguments.rounds):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
