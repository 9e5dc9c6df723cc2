"""Networks of the order experiment trained at once: one by one, in a stack, in processes.

    python benchmarks/stacked_training.py [--device cpu|cuda] [--networks N] [--steps N]
        [--rounds N]

Prints clips a second of N networks of the arms b1 and "multi eta 2", and ratios to one by one, each
way in turn in every round, so that a machine that slows down slows all of them. The processes have
a thread each; they are measured on a CPU alone, and start before the clock does.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.synchronize import Barrier

import torch

from stdeploy.hardware import cpu_count
from stdeploy.models.registry import build
from stdeploy.train.order_experiment import ARMS, Arm
from stdeploy.train.order_runs import settings_of
from stdeploy.train.order_task import ORDERS, stacked_order_clips
from stdeploy.train.stacked_training import StackedNetworks, StackedOptimiser

SETTINGS = settings_of("small")
COMPARED = tuple(arm for arm in ARMS if arm.name in ("b1", "multi eta 2"))


def trainer(arm: Arm, networks: int, device: str, steps: int) -> Callable[[int], None]:
    """A function that makes one step of a stack of networks."""
    torch.manual_seed(0)
    models = [build(arm.spec(len(ORDERS), SETTINGS.width)).to(device) for _ in range(networks)]
    for model in models:
        model.head.dropout.p = 0.0  # as in the experiment
    stack = StackedNetworks(models)
    optimiser = StackedOptimiser(
        stack, steps=steps, learning_rate=SETTINGS.learning_rate, warmup_steps=1
    )
    task = SETTINGS.task()

    def step(number: int) -> None:
        seeds = [1000 * number + network for network in range(networks)]
        clips = stacked_order_clips(task, SETTINGS.batch_size, seeds=seeds, device=device)
        optimiser.step(clips.frames, clips.labels)

    step(0)
    return step


def seconds_of(step: Callable[[int], None], steps: int, device: str) -> float:
    """How long some steps take."""
    began = time.perf_counter()
    for number in range(steps):
        step(number + 1)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_processes(arm: Arm, networks: int, steps: int) -> float:
    """Seconds of networks that train in as many processes as there are processors."""
    processes = min(cpu_count(), networks)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    shares = [networks // processes + (n < networks % processes) for n in range(processes)]
    workers = [context.Process(target=_work, args=(arm, each, steps, barrier)) for each in shares]
    for worker in workers:
        worker.start()
    barrier.wait()  # all are warm
    began = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - began
    for worker in workers:
        worker.join()
    return seconds


def _work(arm: Arm, networks: int, steps: int, barrier: Barrier) -> None:
    torch.set_num_threads(1)
    turns = [trainer(arm, 1, "cpu", steps + 1) for _ in range(networks)]
    barrier.wait()
    for step in turns:
        seconds_of(step, steps, "cpu")
    barrier.wait()


def rounds_of(
    arm: Arm, networks: int, steps: int, rounds: int, device: str
) -> Mapping[str, list[float]]:
    """Clips a second of every way in every round."""
    alone = trainer(arm, 1, device, steps + 1)
    stacked = trainer(arm, networks, device, steps + 1)
    clips = networks * steps * SETTINGS.batch_size
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        found.setdefault("one by one", []).append(
            clips / (networks * seconds_of(alone, steps, device))
        )
        found.setdefault("in a stack", []).append(clips / seconds_of(stacked, steps, device))
        if device == "cpu":
            found.setdefault("in processes", []).append(clips / in_processes(arm, networks, steps))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--networks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| arm | way | clips/s | beside one by one |\n| --- | --- | ---: | ---: |")
    for arm in COMPARED:
        found = rounds_of(
            arm, arguments.networks, arguments.steps, arguments.rounds, arguments.device
        )
        for way, speeds in found.items():
            ratios = [one / other for one, other in zip(speeds, found["one by one"], strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(
                f"| {arm.name} | {way} | {statistics.median(speeds):.0f} | "
                f"{statistics.median(ratios):.2f} ({spread}) |"
            )


if __name__ == "__main__":
    main()
