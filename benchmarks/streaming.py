"""What one new frame costs a network that takes streams, and how exact its answers are.

    python benchmarks/streaming.py [--rounds N] [--threads N] [--networks NAME ...]
        [--kinetics FUSED] [--side N]
    python benchmarks/streaming.py --errors
    python benchmarks/streaming.py --video FILE --timeline [USUAL.onnx] FOR_STREAMS.onnx

Each prints a table. Exactness: of narrow networks of every architecture the streaming form beside
the network that sees the whole video, at 1, 4 and 8 frames a call, 1 and 4 streams, from the first
frame to the last. Cost: of networks at full width the time of one new frame (or of as many as
the network strides over) and the time of one window of 32 frames (Kinetics: 64), by torch, ONNX
Runtime and OpenVINO, each in turn in every round; what is compared is the ratio within a round.
Timeline (--video): windows of a real video one second apart that share their work by stretches that
overlap ("dense"), beside a stream: differences, time, memory, each in a process of its own.

Weights are random, and so are the norms that are folded, but for the Kinetics network, which is the
real one. Widths are full; frames have 112 x 112 pixels unless --side says otherwise.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from planar_networks import OURS, card_of, fused_network, spec_of

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.backends.base import Backend, RuntimeOptions, StreamOptions
from stdeploy.backends.loader import open_backend, open_streams
from stdeploy.export.onnx import save_graph, to_onnx
from stdeploy.export.stream import to_stream_onnx
from stdeploy.export.stream_verification import verify_streaming
from stdeploy.models.checkpoint import load_model, save_fused
from stdeploy.models.streaming import streaming_form

_LENGTHS = (1, 1, 3, 3, 5)
_WINDOW = 64
_CALLS = (1, 4, 8)
_BACKENDS: tuple[Backend, ...] = ("torch", "onnxruntime", "openvino")
_HOP_SECONDS = 1.0


def error_rows(networks: Sequence[str]) -> Iterator[str]:
    """The table of exactness."""
    yield "| network | frames a call | streams | float64 | float32 |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name in networks:
        model = fused_network(spec_of(name, _LENGTHS, width=0.25)).float()
        clip = ClipSpec(num_frames=32, short_side_px=32, crop_px=32)
        for calls in _CALLS if name != "i3d-inception" else _CALLS[2:]:
            spec = streaming_form(model, clip, frames_per_call=calls, window=_WINDOW).spec
            rows = list(verify_streaming(model, clip, spec, seed=0))
            for streams in ("1 stream", "4 streams"):
                found = {row.precision: row.error for row in rows if row.check.endswith(streams)}
                yield (
                    f"| {name} | {calls} | {streams.split()[0]} | {found['fp64']:.1e} | "
                    f"{found['fp32']:.1e} |"
                )


class Files(NamedTuple):
    """A network in three files."""

    fused: Path
    whole: Path
    stream: Path


def files_of(name: str, side: int, kinetics: Path | None, folder: Path) -> Files:
    """Fused weights, the usual .onnx file and the one for streams; no gate judges them here."""
    if kinetics is not None:
        fused = kinetics
        model, card = load_model(fused)
    else:
        model = fused_network(spec_of(name, _LENGTHS)).float()
        card = card_of(model, ClipSpec(num_frames=32, short_side_px=side, crop_px=side))
        fused = folder / f"{name}.fused.safetensors"
        save_fused(fused, model, card)
    files = Files(fused, folder / f"{name}.onnx", folder / f"{name}.stream.onnx")
    save_graph(to_onnx(model, card), card, files.whole)
    network = streaming_form(model, card.clip, frames_per_call=_stride(name), window=_WINDOW)
    card = card.model_copy(update={"form": "stream", "stream": network.spec})
    save_graph(to_stream_onnx(network, card), card, files.stream)
    return files


def _stride(name: str) -> int:
    return 8 if name == "i3d-inception" else 1


def cost_rows(name: str, files: Files, rounds: int, threads: int) -> Iterator[str]:
    """The rows of a network in the table of costs."""
    card, each = read_card(files.whole), _stride(name)
    clip = golden_clip(0, card.clip.frames_shape)[None]
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    for backend in _BACKENDS:
        options = RuntimeOptions(backend=backend, device="cpu", threads=threads)
        of_torch = backend == "torch"
        window = open_backend(files.fused if of_torch else files.whole, card, options)
        streams = open_streams(
            files.fused if of_torch else files.stream,
            options=options,
            asked=StreamOptions(each, _WINDOW),
        )
        stream = streams.begin()
        ways[backend] = (
            lambda window=window: window.run(clip),
            lambda streams=streams, stream=stream: streams.run(clip[:, :each], [stream]),
        )
    seconds: dict[str, list[tuple[float, float]]] = {backend: [] for backend in ways}
    for _ in range(rounds):
        for backend, (window, frame) in ways.items():
            seconds[backend].append((_timed(window, 1), _timed(frame, 5)))
    for backend, pairs in seconds.items():
        ratios = sorted(window / frame for window, frame in pairs)
        whole, new = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        yield (
            f"| {name} | {card.clip.num_frames} x {card.clip.crop_px} px | {backend} | {whole:.0f} "
            f"| {each} | {new:.1f} | {statistics.median(ratios):.1f} | {ratios[0]:.1f} to "
            f"{ratios[-1]:.1f} |"
        )


def _timed(run: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - began) / times


def timeline_rows(artifacts: dict[str, Path], video: Path) -> Iterator[str]:
    """The table of timelines, each in a process of its own."""
    found = {}
    for how, artifact in artifacts.items():
        command = [sys.executable, __file__, "--one", how, str(artifact), str(video)]
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        found[how] = json.loads(said.stdout)
    yield "| how | windows | time, s | memory at most, MiB | largest difference of scores |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    exact = found.get("dense", found["stream"])["scores"]
    for how, said in found.items():
        same = len(said["scores"]) == len(exact)
        off = np.abs(np.array(said["scores"]) - np.array(exact)).max() if same else float("nan")
        yield (
            f"| {how} | {len(said['scores'])} | {said['seconds']:.1f} | {said['mib']:.0f} | "
            f"{off:.1e} |"
        )


def one_timeline(how: str, artifact: Path, video: Path) -> None:
    """A timeline in this process; what it gave goes to standard output."""
    from stdeploy.backends.dense_trunk import DenseTrunk
    from stdeploy.inference.classifier import Classifier

    with Classifier.open(artifact, backend="onnxruntime", device="cpu") as classifier:
        trunk = None
        if how == "dense":
            trunk = DenseTrunk.open(artifact, classifier.card, classifier.runtime)
        began = time.perf_counter()
        classes = len(classifier.card.labels)
        line = classifier.timeline(
            video, hop_seconds=_HOP_SECONDS, top_k=classes, trunk=trunk, cuts=False
        )
        seconds = time.perf_counter() - began
    scores = [[cell.scores[cell.best.index(k)] for k in range(classes)] for cell in line.cells]
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"scores": scores, "seconds": seconds, "mib": mib}))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--networks", nargs="*", default=list(OURS[:3]))
    parser.add_argument("--kinetics", type=Path, help="fused weights of the Kinetics network")
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--timeline", type=Path, nargs="*", help="usual file, file for streams")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one_timeline(asked.one[0], Path(asked.one[1]), Path(asked.one[2]))
        return
    if asked.errors:
        for row in error_rows(OURS):
            print(row, flush=True)
        return
    if asked.video:
        files = [*asked.timeline]
        artifacts = (
            dict(zip(("dense", "stream"), files, strict=True))
            if len(files) == 2
            else {"stream": files[0]}
        )
        for row in timeline_rows(artifacts, asked.video):
            print(row, flush=True)
        return
    print("| network | window | by | window, ms | new frames | ms | ratio | from, to |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        named = [(name, None) for name in asked.networks]
        named += [("i3d-inception", asked.kinetics)] if asked.kinetics else []
        for name, weights in named:
            files_here = files_of(name, asked.side, weights, Path(folder))
            for row in cost_rows(name, files_here, asked.rounds, asked.threads):
                print(row, flush=True)


if __name__ == "__main__":
    main()
