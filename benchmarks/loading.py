"""How decoding for training scales with its processes, and whether its memory stays flat.

    python benchmarks/loading.py DATA --recipe finetune --weights kinetics400-i3d.pt

DATA is any data set that `stdeploy train` takes. Clips are read as training reads them, by 0 to N
processes in turns, with nothing else at work; the first pass of each is not counted.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import DataLoader

from stdeploy.datasets.loader import read_split
from stdeploy.train.clips import Batch, Example, ShuffledKeys, TrainingClips, begin_worker, collate
from stdeploy.train.initialisation import start
from stdeploy.train.recipe import Recipe

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Loader:
    """Training clips by some number of processes, as in the loop."""

    def __init__(self, clips: TrainingClips, workers: int, batch_size: int) -> None:
        self.workers = workers
        self.keys = ShuffledKeys(len(clips), seed=0, batch_size=batch_size)
        self.batches: DataLoader[Example] = DataLoader(
            clips,
            batch_size=batch_size,
            sampler=self.keys,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=begin_worker,
            persistent_workers=workers > 0,
        )

    def epoch(self) -> tuple[float, list[int]]:
        """Clips a second, and the memory of all processes after each batch, in bytes."""
        clips, memory = 0, []
        start = time.perf_counter()
        for batch in self.batches:
            assert isinstance(batch, Batch), batch
            clips += len(batch.labels)
            memory.append(resident([os.getpid(), *children()]))
        rate = clips / (time.perf_counter() - start)
        self.keys.epoch += 1
        return rate, memory


def resident(processes: Sequence[int]) -> int:
    """Memory that these processes do not share with others, in bytes."""
    total = 0
    for number in processes:
        size, shared = Path(f"/proc/{number}/statm").read_text().split()[1:3]
        total += (int(size) - int(shared)) * _PAGE
    return total


def children() -> list[int]:
    """Processes that this one has started."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(number) for number in text.split()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="finetune")
    parser.add_argument("--weights", default="")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    recipe = Recipe.load(options.recipe, [f"start.weights={options.weights}"])
    videos = read_split(options.data, "train")
    clip = start(recipe, videos.labels).clip
    batch_size = recipe.optimisation.batch_size
    loaders = [
        Loader(TrainingClips(videos, clip, recipe.augmentation, 0), workers, batch_size)
        for workers in (int(text) for text in options.workers.split(","))
    ]
    for loader in loaders:
        loader.epoch()  # processes start, files are read from the disk, videos are scanned
    rates: dict[int, list[float]] = {loader.workers: [] for loader in loaders}
    for _ in range(options.rounds):
        for loader in loaders:
            rate, memory = loader.epoch()
            rates[loader.workers].append(rate)
            tenth = max(1, len(memory) // 10)
            early, late = (statistics.fmean(part) for part in (memory[:tenth], memory[-tenth:]))
            print(
                f"{loader.workers} processes: {rate:.2f} clips/s; memory {early / 2**20:.0f} MiB "
                f"in the first tenth of the epoch, {late / 2**20:.0f} MiB in the last",
                flush=True,
            )
    first = options.workers.split(",")[0]
    for workers, found in rates.items():
        times = statistics.median(a / b for a, b in zip(found, rates[int(first)], strict=True))
        print(f"{workers} processes: {times:.2f} times the clips of {first}")


if __name__ == "__main__":
    main()
