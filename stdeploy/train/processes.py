"""The processes of a run: those that train, those that decode, and how they are stopped."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Literal, TypeVar, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from stdeploy.errors import BackendError, TrainingError
from stdeploy.hardware import cpu_count
from stdeploy.train.clips import STOPPING
from stdeploy.train.recipe import Optimisation
from stdeploy.video.opencv import without_threads

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
_MOST_DECODERS = 16  # each holds batches that are ready
_Batch = TypeVar("_Batch")


class InterruptedRunError(TrainingError):
    """The run was told to stop by a signal, SIGTERM or Ctrl-C; its state is saved.

    Args:
        message: when, and what to do.
        number: of the signal; 0 where only another process was told.
    """

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.exit_status = 128 + (number or signal.SIGTERM)


class DivergedRunError(TrainingError):
    """The weights of the run, or what it computes with them, are no longer numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run may use.

    Attributes:
        accelerator: "cpu", "cuda", or "auto" for a GPU where there is one.
        devices: processes on each node, one for each GPU; torchrun's, where that was used.
        nodes: machines, each of which starts the same command; likewise.
        save_minutes: how often the state is written within an epoch; it is written after each.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    nodes: int = 1
    save_minutes: float = 10.0


def start_processes(machine: Machine, how: Optimisation) -> Fabric:
    """Devices, precision and processes.

    Raises:
        BackendError: they are not there.
    """
    launched = torch.distributed.is_torchelastic_launched()
    if launched:
        # torchrun has said how many there are.
        local, world = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        machine = dataclasses.replace(machine, devices=local, nodes=world // local)
    gpu = machine.accelerator != "cpu" and torch.cuda.is_available()
    if machine.accelerator == "cuda" and not gpu:
        raise BackendError("a GPU was asked for, but torch sees none; see stdeploy doctor")
    if gpu and machine.devices > torch.cuda.device_count():
        raise BackendError(
            f"{machine.devices} devices were asked for; GPUs that torch sees: "
            f"{torch.cuda.device_count()}"
        )
    if how.precision == "fp16" and not gpu:
        raise BackendError("fp16 training needs a GPU; use precision fp32 or bf16 on a CPU")
    if how.sync_batch_norm and not gpu:
        raise BackendError("sync_batch_norm needs GPUs; leave it out on a CPU")
    if machine.nodes > 1 and not launched and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
        raise BackendError(
            f"{machine.nodes} nodes do not know of each other; start the command on each with "
            "torchrun --nnodes N --node-rank I --master-addr HOST --nproc-per-node M -m stdeploy, "
            "or set MASTER_ADDR and NODE_RANK"
        )
    try:
        fabric = Fabric(
            accelerator="cuda" if gpu else "cpu",
            devices=machine.devices,
            num_nodes=machine.nodes,
            strategy="ddp" if machine.devices * machine.nodes > 1 else "auto",
            precision=_PRECISIONS[how.precision],
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BackendError(f"processes could not be started: {reason}") from error
    return fabric


def check_shares(how: Optimisation, world_size: int) -> None:
    """See that every process gets as many whole parts of a batch as the others.

    Raises:
        TrainingError: it does not.
    """
    share = how.batch_size // world_size
    if share * world_size != how.batch_size or share % how.accumulate:
        raise TrainingError(
            f"batch_size {how.batch_size} cannot be shared out: processes x accumulate is "
            f"{world_size} x {how.accumulate}; make it a multiple of "
            f"{world_size * how.accumulate}"
        )


def decoders_of(how: Optimisation, machine: Machine, device: torch.device) -> int:
    """Processes that decode for each process that trains.

    "auto" leaves one processor to each that trains on a GPU, and three of four where processors
    train themselves.
    """
    if how.workers != "auto":
        return how.workers
    # torchrun has said how many share this machine, if it was used.
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", machine.devices))
    share = cpu_count() // max(1, beside)
    wanted = share - 1 if device.type == "cuda" else share // 4
    return max(1, min(_MOST_DECODERS, wanted))


def augments_on_device(how: Optimisation, device: torch.device) -> bool:
    """Whether clips are resized, cut and coloured by the device that trains."""
    if how.augment_on == "auto":
        return device.type == "cuda"
    return how.augment_on == "device"


def next_of(batches: Iterator[_Batch]) -> _Batch:
    """The next batch.

    Raises:
        TrainingError: a process that decodes has died.
    """
    try:
        return next(batches)
    except RuntimeError as error:  # torch's word for it
        raise TrainingError(
            f"a process that decodes videos has died: {' '.join(str(error).split())[:200]}; go on "
            "with --resume, with fewer optimisation.workers if memory is short"
        ) from error


@contextlib.contextmanager
def before_they_begin() -> Iterator[None]:
    """Start processes that decode in here, so that signals wait until `begin_worker` takes them.

    One that comes before that would end them, and whatever waits for them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        with without_threads():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_workers(batches: object) -> None:
    """End the processes that decode now, not when their iterator is collected.

    An error on its way up keeps it alive until the program ends, and then they would be sent
    SIGTERM, on which they wait; see `begin_worker`.

    Args:
        batches: the iterator of a loader; nothing is done if it has no processes.
    """
    shut_down = getattr(batches, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


@contextlib.contextmanager
def batches_of(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """The batches of a loader, whose processes end with the block, however that ends."""
    with before_they_begin():
        batches = iter(loader)
    try:
        yield batches
    finally:
        end_workers(batches)


def gathered(fabric: Fabric, found: Mapping[str, str]) -> dict[str, str]:
    """What all processes have found, in each of them; all have to ask at the same place."""
    if fabric.world_size == 1:
        return dict(found)
    by_process: list[dict[str, str]] = [{}] * fabric.world_size
    torch.distributed.all_gather_object(by_process, dict(found))
    return {name: text for each in by_process for name, text in each.items()}


@dataclasses.dataclass
class Stop:
    """Whether a run was told to end.

    Attributes:
        number: of the signal that told so; 0 if none did.
    """

    number: int = 0

    def told(self, fabric: Fabric) -> bool:
        """Whether any process was told; all have to ask at the same place, and get one answer."""
        if fabric.world_size == 1:
            return bool(self.number)
        told = torch.tensor(float(bool(self.number)), device=fabric.device)
        return bool(cast(Tensor, fabric.all_reduce(told, reduce_op="sum")) > 0)


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """What SIGTERM and Ctrl-C set, so that the batch in hand is finished and the state saved.

    A second Ctrl-C breaks off. Where Ctrl-C is ignored, it stays so.
    """
    stop = Stop()

    def tell(number: int, _frame: FrameType | None) -> None:
        if number == stop.number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.number = number

    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return
    taken = [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, tell) for number in taken}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
