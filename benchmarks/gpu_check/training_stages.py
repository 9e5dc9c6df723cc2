"""The stages that measure training; what they do is ../training_speed.py."""

import sys
from pathlib import Path

import torch
from networks import Where
from results import IMPOSSIBLE, PASSED, Outcome

from stdeploy.bench.worker import matmul_flops

sys.path.append(str(Path(__file__).parents[1]))

from training_speed import (
    COMPILED,
    WAYS,
    Network,
    Way,
    from_files,
    from_memory,
    share_of_peak,
    starter_data,
)


def training_speed(outcome: Outcome, where: Where) -> None:
    """I3D-ResNet-50 b1 in bf16 from memory, each way of bringing batches to it; larger batches."""
    _ways(outcome, where, WAYS)
    device, network, peak = _here(where)
    for batch in (3,) if where.rehearsal else (16, 32):
        what = f"{WAYS[-1].name}, batch {batch}"
        try:
            found = from_memory(
                network, WAYS[-1:], batch_size=batch, device=device, steps=_steps(where), rounds=1
            )
        except torch.OutOfMemoryError:
            outcome.add(what, IMPOSSIBLE, "does not fit into the memory of this GPU")
            return
        ((rate, _),) = found.values()
        said = f"{rate:.4g} clips/s, {share_of_peak(network, rate, peak)}"
        outcome.add(what, PASSED, said)


def training_compiled(outcome: Outcome, where: Where) -> None:
    """The same network as torch compiles it, beside the same without."""
    # A rehearsal has compiled in tests; here that takes minutes.
    _ways(outcome, where, COMPILED[:1] if where.rehearsal else COMPILED)


def training_waits(outcome: Outcome, where: Where) -> None:
    """How much of its time the starter recipe waits for data: as it was, and as it is."""
    device = _here(where)[0]
    ways = {
        "one process decodes and augments": ("workers=1", "augment_on=cpu"),
        "as many as there are processors to spare, augmented on the device": (
            *("workers=auto", "augment_on=device"),
        ),
    }
    with starter_data(16 if where.rehearsal else 200) as data:
        for name, settings in ways.items():
            rates = from_files(data, settings, device=device, epochs=2 if where.rehearsal else 4)
            told = ", ".join(f"{rate:.4g} clips/s ({wait:.0%} waiting)" for rate, wait in rates)
            outcome.add(f"starter, {name}", PASSED, f"by epoch: {told}")


def _ways(outcome: Outcome, where: Where, ways: tuple[Way, ...]) -> None:
    """Each way from memory, kept as soon as it has had a turn; then beside the first."""
    device, network, peak = _here(where)
    batch = 2 if where.rehearsal else 8

    def found(way: Way, rate: float) -> None:
        said = f"{rate:.4g} clips/s, {share_of_peak(network, rate, peak)}"
        outcome.add(f"{way.name}, batch {batch}, first turn", PASSED, said)

    table = from_memory(
        network,
        ways,
        batch_size=batch,
        device=device,
        steps=_steps(where),
        rounds=1 if where.rehearsal else 3,
        found=found,
    )
    for name, (rate, times) in table.items():
        said = f"{rate:.4g} clips/s, {times:.2f} times the first"
        outcome.add(f"{name}, batch {batch}", PASSED, said)


def _here(where: Where) -> tuple[str, Network, float | None]:
    """The device, the network, and operations per second of a product of matrices."""
    device = "cpu" if where.rehearsal else "cuda"
    network = Network.on(device, tiny=where.rehearsal)
    return device, network, matmul_flops(device, network.precision)


def _steps(where: Where) -> int:
    return 1 if where.rehearsal else 8
