"""How many clips a second a network trains on, from memory and from files, and what decides it.

    python benchmarks/training_speed.py [--steps 5] [--batch 2] [--compiled]

From memory: steps on one batch that lies there, in turns, each way of bringing it to the network
beside the first. From files: what a process that decodes gives, and the starter recipe. On a GPU
it is I3D-ResNet-50 b1 on 32 frames of 224 px in bf16, on a CPU an eighth of its width on 16 frames
of 112 px. The yardstick is a product of matrices; a step counts as three forward passes.
"""

import argparse
import contextlib
import csv
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.bench.worker import matmul_flops
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample
from stdeploy.datasets.something_something import read_something
from stdeploy.datasets.synthetic import make_dataset
from stdeploy.layers.temporal import TemporalBranch
from stdeploy.models.registry import build
from stdeploy.train.augment import Augmentation, Draw
from stdeploy.train.batches import DeviceBatches
from stdeploy.train.clips import Batch, TrainingClips, collate
from stdeploy.train.determinism import searched_algorithms
from stdeploy.train.device_augment import Cut, UncutClip, UncutClips
from stdeploy.train.processes import Machine, start_processes
from stdeploy.train.recipe import Recipe
from stdeploy.train.trainer import train
from stdeploy.train.training_step import Learner
from stdeploy.video.opencv import limit_threads

_LABELS = tuple(f"class {number}" for number in range(10))
_SIZE = (256, 340)  # of decoded frames that clips are made of in memory
_FRAMES = 120  # of a video that is decoded
_WARM_UP = 2  # steps that are not counted: memory is taken, algorithms are chosen


@dataclasses.dataclass(frozen=True)
class Way:
    """A way of bringing batches to the network.

    Attributes:
        name: in tables.
        settings: of the recipe's [optimisation].
        pinned: whether batches lie in memory from which a GPU copies by itself.
        ahead: whether the next is fetched while a step is computed.
        uncut: whether clips are made on the device.
    """

    name: str
    settings: tuple[str, ...] = ()
    pinned: bool = True
    ahead: bool = True
    uncut: bool = False


WAYS = (
    Way("channels first, memory not pinned", ("channels_last=no",), pinned=False, ahead=False),
    Way("channels last", ("channels_last=yes",), pinned=False, ahead=False),
    Way("and fetched ahead from pinned memory", ("channels_last=yes",)),
    Way("and augmented on the device", ("channels_last=yes",), uncut=True),
)
COMPILED = (WAYS[2], Way("and compiled", ("channels_last=yes", "compile=true")))


@dataclasses.dataclass(frozen=True)
class Network:
    """What is trained.

    Attributes:
        spec: the network.
        clip: what it sees.
        precision: of the arithmetic.
    """

    spec: ModelSpec
    clip: ClipSpec
    precision: str

    @classmethod
    def on(cls, device: str, *, tiny: bool = False) -> "Network":
        """I3D-ResNet-50 b1 with its branches; narrow and on smaller clips on a CPU."""
        spec = ModelSpec(
            architecture="i3d-resnet50",
            temporal_lengths=(1, 1, 3, 3, 5),
            branches="multi",
            eta=2.0,
            num_classes=len(_LABELS),
            width=1.0 if device == "cuda" else 0.125,
        )
        if device == "cuda":
            return cls(spec, ClipSpec(num_frames=32), "bf16")
        frames, side = (8, 32) if tiny else (16, 112)
        clip = ClipSpec(num_frames=frames, short_side_px=side + 16, crop_px=side)
        return cls(spec, clip, "fp32")

    def recipe(self, batch_size: int, settings: Sequence[str] = ()) -> Recipe:
        """That trains it with all that is varied in a picture, but for saturation and hue."""
        model = self.spec.model_dump(exclude={"num_classes"}, exclude_defaults=True)
        fields = {
            "model": {"architecture": self.spec.architecture, **model},
            "clip": self.clip.model_dump(),
            "augmentation": {"ego_motion_sigma_px": 2.0, "flip": True, "brightness": 0.2},
            "optimisation": {
                "epochs": 100,
                "batch_size": batch_size,
                "learning_rate": 1e-4,
                "precision": self.precision,
            },
        }
        return Recipe.parse(fields).with_settings([f"optimisation.{one}" for one in settings])

    def macs(self) -> int:
        """Multiply-accumulates of its convolutions for a clip; shapes alone are computed."""
        model, found = build(self.spec).to("meta"), list[int]()
        for module in model.modules():
            if isinstance(module, TemporalBranch):
                module.register_forward_hook(
                    lambda branch, _, out: found.append(
                        out.numel() * branch.coefficients[0].numel()
                    )
                )
        side = self.clip.crop_px
        with torch.no_grad():
            model(torch.empty((1, 3, self.clip.num_frames, side, side), device="meta"))
        return sum(found)


class MemoryTraining:
    """Steps on one batch that lies in memory.

    Args:
        network: what is trained.
        way: how the batch comes to it.
        batch_size: clips in a step.
        device: "cpu" or "cuda".
    """

    def __init__(self, network: Network, way: Way, batch_size: int, device: str) -> None:
        recipe = network.recipe(batch_size, way.settings)
        fabric = start_processes(Machine(accelerator=device), recipe.optimisation)
        self._learner = Learner(recipe, _LABELS, fabric)
        self._learner.begin_epoch()
        batch = _batch(recipe, uncut=way.uncut)
        if way.pinned and device == "cuda":
            batch = batch.pin_memory()
        self._batches = DeviceBatches(
            _again(batch), fabric.device, ahead=way.ahead if device == "cuda" else False
        )
        self._size, self._device, self._done = batch_size, fabric.device, 0

    def clips_per_second(self, steps: int) -> float:
        """Over some steps; the first of all are not counted."""
        if not self._done:
            self._steps(_WARM_UP)
        start = time.perf_counter()
        self._steps(steps)
        return steps * self._size / (time.perf_counter() - start)

    def _steps(self, steps: int) -> None:
        with searched_algorithms(self._device.type == "cuda"):
            for _ in range(steps):
                self._learner.step(self._batches, self._done, 10_000, lambda _: None)
                self._done += 1
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _again(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def _batch(recipe: Recipe, *, uncut: bool) -> Batch:
    """Clips of noise, the same for all ways."""
    rng, clip = np.random.default_rng(0), recipe.clip_spec()
    clips = []
    for _ in range(recipe.optimisation.batch_size):
        draw = Draw.of(recipe.augmentation, clip, rng)
        cut = Cut.of(_SIZE, clip.crop_px, clip.num_frames, draw)
        frames = rng.integers(0, 256, (clip.num_frames, *_SIZE, 3), dtype=np.uint8)
        taken = np.stack([cut.taken(frame) for frame in frames])
        clips.append(UncutClip(taken, cut, draw.colour))
    made = UncutClips.of(clips)
    return Batch(made if uncut else made.finished(), torch.arange(len(clips)) % 10, ())


def from_memory(
    network: Network,
    ways: Sequence[Way],
    *,
    batch_size: int,
    device: str,
    steps: int,
    rounds: int,
    found: Callable[[Way, float], None] = lambda *_: None,
) -> dict[str, tuple[float, float]]:
    """Clips a second of each way, and how many times the first way's, as medians of rounds.

    Args:
        network: what is trained.
        ways: the first is what the others are relative to.
        batch_size: clips in a step.
        device: "cpu" or "cuda".
        steps: in a turn.
        rounds: each way has a turn in each.
        found: is told the first turn of each way when it ends.
    """
    trainings: list[MemoryTraining] = []
    rates: list[list[float]] = []
    for way in ways:  # one after the other, so that what is found first is known first
        trainings.append(MemoryTraining(network, way, batch_size, device))
        rates.append([trainings[-1].clips_per_second(steps)])
        found(way, rates[-1][0])
    for _ in range(rounds - 1):
        for training, of_way in zip(trainings, rates, strict=True):
            of_way.append(training.clips_per_second(steps))
    return {
        way.name: (
            statistics.median(of_way),
            statistics.median(a / b for a, b in zip(of_way, rates[0], strict=True)),
        )
        for way, of_way in zip(ways, rates, strict=True)
    }


def decoded(folder: Path, *, size: tuple[int, int], rounds: int) -> tuple[float, float, float]:
    """Clips that one process decodes of videos of a size in a second of a processor, for R50.

    Returns:
        Where it augments them; where it leaves that to the device; how many times as many, as the
        median of rounds.
    """
    videos = _videos(folder, *size)
    wild = Augmentation(ego_motion_sigma_px=2.0, flip=True, brightness=0.2)
    both = [TrainingClips(videos, ClipSpec(), wild, 0, uncut=uncut) for uncut in (False, True)]
    rates: list[list[float]] = [[], []]
    limit_threads(1)  # as in a process that decodes
    for number in range(rounds + 1):
        for clips, found in zip(both, rates, strict=True):
            start = time.process_time()
            collate([clips[(number, video)] for video in range(len(clips))])
            if number:  # packets are read in the first
                found.append(len(clips) / (time.process_time() - start))
    cut, uncut = rates
    times = statistics.median(b / a for a, b in zip(cut, uncut, strict=True))
    return statistics.median(cut), statistics.median(uncut), times


def _videos(folder: Path, width: int, height: int) -> LabelledVideos:
    rng = np.random.default_rng(0)
    wide = width + 4 * _FRAMES  # the camera moves along it
    scene = cv2.resize(
        rng.integers(0, 256, (height // 4, wide // 4, 3), dtype=np.uint8), (wide, height)
    )
    samples = []
    for number in range(4):
        path = folder / f"{width}x{height}-{number}.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (width, height))
        for frame in range(_FRAMES):
            writer.write(np.ascontiguousarray(scene[:, 4 * frame : 4 * frame + width]))
        writer.release()
        samples.append(Sample(path, number))
    return LabelledVideos(_LABELS, tuple(samples))


@contextlib.contextmanager
def starter_data(videos: int) -> Iterator[Path]:
    """A synthetic data set of so many training videos, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_dataset(data, train=videos, validation=20, seed=0)
        yield data


def from_files(
    data: Path, settings: Sequence[str], *, device: str, epochs: int
) -> list[tuple[float, float]]:
    """Clips a second and share of the time waiting, of each epoch of the starter recipe."""
    named = [f"optimisation.{one}" for one in (*settings, f"epochs={epochs}")]
    recipe = Recipe.load("starter", named)
    with tempfile.TemporaryDirectory() as folder:
        train(
            recipe,
            read_something(data, "train"),
            Path(folder) / "a.pt",
            run=Path(folder) / "run",
            validation=read_something(data, "validation"),
            machine=Machine(accelerator="cuda" if device == "cuda" else "cpu"),
        )
        with (Path(folder) / "run" / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    return [(float(row["clips_per_second"]), float(row["wait_share"])) for row in rows]


def share_of_peak(network: Network, clips_per_second: float, peak: float | None) -> str:
    """In words; a step is three forward passes, of two operations a multiply-accumulate."""
    arithmetic = clips_per_second * network.macs() * 6
    if peak is None:
        return f"{arithmetic / 1e12:.3g} TFLOP/s"
    return f"{arithmetic / 1e12:.3g} TFLOP/s, {arithmetic / peak:.0%} of a product of matrices"


def main() -> None:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="clips in a step; 2 on a CPU, 16 on a GPU")
    parser.add_argument("--compiled", action="store_true", help="compare torch.compile instead")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, batch = Network.on(device), options.batch or (16 if device == "cuda" else 2)
    peak = matmul_flops(device, network.precision)
    table = from_memory(
        network,
        COMPILED if options.compiled else WAYS,
        batch_size=batch,
        device=device,
        steps=options.steps,
        rounds=options.rounds,
        found=lambda way, rate: print(f"<!-- {way.name}: {rate:.3g} -->", flush=True),
    )
    print(f"\n| {network.precision}, batch {batch} | clips/s | times the first | |")
    print("| --- | ---: | ---: | --- |")
    for name, (rate, times) in table.items():
        print(f"| {name} | {rate:.3g} | {times:.2f} | {share_of_peak(network, rate, peak)} |")
    if options.compiled:
        return
    print("\n| videos | augmented | handed over | times |")
    print("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for size in ((340, 256), (640, 360), (1280, 720)):
            cut, uncut, times = decoded(Path(folder), size=size, rounds=options.rounds)
            print(f"| {size[0]} x {size[1]} | {cut:.3g} | {uncut:.3g} | {times:.2f} |", flush=True)
    print("\n| starter | clips/s | waiting |\n| --- | ---: | ---: |")
    with starter_data(80) as data:
        for place in ("cpu", "device"):
            rates = from_files(data, [f"augment_on={place}"], device=device, epochs=3)[1:]
            rate, wait = (statistics.fmean(column) for column in zip(*rates, strict=True))
            print(f"| augmented on {place} | {rate:.3g} | {wait:.0%} |", flush=True)


if __name__ == "__main__":
    main()
