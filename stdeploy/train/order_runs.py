"""Runs of the order experiment: the 2D start, then arm after arm, each kept when it is done."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from stdeploy.artifacts.files import whole_file
from stdeploy.artifacts.values import Spec
from stdeploy.errors import SpecError
from stdeploy.models.base import ActionModel
from stdeploy.models.registry import build
from stdeploy.train.initialisation import inflate_network
from stdeploy.train.order_experiment import ARMS, Arm
from stdeploy.train.order_task import (
    ORDERS,
    OrderTask,
    order_clips,
    shapes_shown,
    stacked_order_clips,
)
from stdeploy.train.parallel_runs import Run, run_all
from stdeploy.train.stacked_training import StackedNetworks, StackedOptimiser

_SHAPES = 4
_START_FRAMES = 8  # short clips for the 2D network, in which shapes fill more of the time
_CURVE_CLIPS = 1000
_AT_ONCE = 250  # clips of a validation batch
_CURVE_POINTS = 12
_LAST_STEPS = 50  # whose mean is the loss of training in the end
# Which clips a seed stands for; every arm gets the same ones.
_TRAINING, _START, _VALIDATION = range(3)
_MOST_STEPS = 10**7

Validation = Literal["alike", "moving camera", "other speeds"]


class OrderSettings(Spec):
    """How large the experiment is.

    Attributes:
        height_px: of a frame.
        width_px: likewise.
        num_frames: T.
        gaps: see `OrderTask`.
        width: of the network.
        seeds: networks of each arm.
        steps: of training.
        batch_size: clips in a step.
        learning_rate: at its highest.
        start_steps: of the 2D network that all arms start from.
        validation_clips: in each of the validation sets.
        rates: sampling rates of the augmented arms, beside 1, which counts in the end.
        camera_sigma_px: ego-motion of the augmented arms, and of the set with a moving camera.
        speed: events of the set with other speeds are up to this factor faster or slower.
        stack: seeds of an arm that are trained at once; see `StackedNetworks`.
    """

    height_px: int = 16
    width_px: int = 16
    num_frames: int = 32
    gaps: tuple[int, int] = (2, 12)
    width: float = Field(default=0.5, gt=0)
    seeds: int = Field(default=5, ge=1, le=100)
    steps: int = Field(default=1500, ge=1, lt=_MOST_STEPS)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=0.3, gt=0)
    start_steps: int = Field(default=600, ge=1, lt=_MOST_STEPS)
    validation_clips: int = Field(default=5000, ge=100)
    rates: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    camera_sigma_px: float = Field(default=0.3, ge=0)
    speed: float = Field(default=1.6, ge=1)
    stack: int = Field(default=1, ge=1, le=100)

    def task(
        self, *, rates: tuple[float, ...] = (1.0,), speed: float = 1.0, camera: bool = False
    ) -> OrderTask:
        """Clips of this size."""
        return OrderTask(
            num_frames=self.num_frames,
            height_px=self.height_px,
            width_px=self.width_px,
            gaps=self.gaps,
            rates=rates,
            speed=speed,
            camera_sigma_px=self.camera_sigma_px if camera else 0.0,
        )

    def training_task(self, arm: Arm) -> OrderTask:
        """Clips that an arm learns from."""
        if arm.augmented:
            return self.task(rates=self.rates, camera=True)
        return self.task()

    def validation_tasks(self) -> Mapping[Validation, OrderTask]:
        """Clips that all arms are asked about."""
        return {
            "alike": self.task(),
            "moving camera": self.task(camera=True),
            "other speeds": self.task(speed=self.speed),
        }


def settings_of(size: Literal["small", "full"]) -> OrderSettings:
    """Settings of an experiment: for two processors, or for a GPU, which trains more seeds."""
    return OrderSettings(seeds=5 if size == "small" else 8)


class ArmResult(Spec):
    """What came out of an arm; lists have a value for each seed.

    Attributes:
        losses: mean of the last steps of training.
        accuracies: by the validation set, in per cent.
        by_gap: accuracies on the clips that are alike, by the gap in frames.
        curve: steps done, then the losses and the accuracies on the first 1,000 clips.
        seconds: that training took.
    """

    losses: tuple[float, ...]
    accuracies: dict[Validation, tuple[float, ...]]
    by_gap: dict[int, tuple[float, ...]]
    curve: tuple[tuple[int, tuple[float, ...], tuple[float, ...]], ...]
    seconds: float


def _say_nothing(_text: str) -> None:
    """A function of a module, which other processes can be given."""


def run_arms(
    arms: Sequence[Arm],
    settings: OrderSettings,
    folder: Path,
    *,
    device: str = "cpu",
    at_once: int = 1,
    tell: Callable[[str], None] = _say_nothing,
) -> Iterator[tuple[Arm, ArmResult]]:
    """Train arms that are not in the folder yet, and give the results of all.

    Args:
        arms: in this order.
        settings: of the experiment.
        folder: keeps the start and a result for each arm; the same call goes on after a break.
        device: "cpu" or "cuda".
        at_once: arms at a time, each in a process of its own.
        tell: is told how an arm goes; a function of a module, for the processes.

    Raises:
        SpecError: the folder holds results of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder / "settings.json", settings)
    kept = {arm: folder / f"{arm.name.replace(', ', '-').replace(' ', '-')}.json" for arm in arms}
    if not all(path.is_file() for path in kept.values()):
        start = _start(folder / "start.safetensors", settings, device, tell)
    else:
        start = {}
    runs = [
        Run(arm.name, partial(_kept_arm, arm, settings, start, path, device, tell))
        for arm, path in kept.items()
    ]
    yield from zip(arms, run_all(runs, at_once=at_once), strict=True)


def _kept_arm(
    arm: Arm,
    settings: OrderSettings,
    start: Mapping[str, Tensor],
    path: Path,
    device: str,
    tell: Callable[[str], None],
) -> ArmResult:
    """The result of an arm from its file; without one it is trained."""
    if path.is_file():
        return ArmResult.parse(json.loads(path.read_text()))
    result = train_arm(arm, settings, start, device=device, tell=tell)
    _write(path, result)
    return result


def train_arm(
    arm: Arm,
    settings: OrderSettings,
    start: Mapping[str, Tensor],
    *,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda _text: None,
) -> ArmResult:
    """Train all seeds of an arm and measure them.

    Args:
        arm: which.
        settings: of the experiment.
        start: 2D weights by the names of `ActionModel.counterparts`.
        device: "cpu" or "cuda".
        tell: is told how it goes.
    """
    groups = [
        range(first, min(first + settings.stack, settings.seeds))
        for first in range(0, settings.seeds, settings.stack)
    ]
    parts = [_train_group(arm, settings, start, group, device, tell) for group in groups]
    return ArmResult(
        losses=_joined(part.losses for part in parts),
        accuracies={
            name: _joined(part.accuracies[name] for part in parts) for name in parts[0].accuracies
        },
        by_gap={gap: _joined(part.by_gap[gap] for part in parts) for gap in parts[0].by_gap},
        curve=tuple(
            (rows[0][0], _joined(row[1] for row in rows), _joined(row[2] for row in rows))
            for rows in zip(*(part.curve for part in parts), strict=True)
        ),
        seconds=sum(part.seconds for part in parts),
    )


def _train_group(
    arm: Arm,
    settings: OrderSettings,
    start: Mapping[str, Tensor],
    seeds: range,
    device: str,
    tell: Callable[[str], None],
) -> ArmResult:
    """Train some seeds of an arm in one stack."""
    began = time.monotonic()
    stacked = StackedNetworks([_network(arm, settings, start, seed, device) for seed in seeds])
    optimiser = _optimiser(stacked, settings.steps, settings.learning_rate)
    task, alike = settings.training_task(arm), settings.task()
    few = min(_CURVE_CLIPS, settings.validation_clips)
    every = max(1, settings.steps // _CURVE_POINTS)
    losses: list[Tensor] = []
    curve = []
    for step in range(settings.steps):
        numbers = [_number(_TRAINING, seed, step) for seed in seeds]
        clips = stacked_order_clips(task, settings.batch_size, seeds=numbers, device=device)
        losses.append(optimiser.step(clips.frames, clips.labels))
        if (step + 1) % every == 0:
            lately = torch.stack(losses[-every:]).mean(dim=0).tolist()
            accuracies = _accuracies(_right(stacked, alike, few, device)[0])
            curve.append((step + 1, tuple(lately), accuracies))
            shown = ", ".join(f"{each:.1f}" for each in accuracies)
            tell(
                f"{arm.name}, seeds {seeds[0]} to {seeds[-1]}: step {step + 1}, loss "
                f"{sum(lately) / len(lately):.3f}, accuracy {shown} %"
            )
    seconds = time.monotonic() - began
    sets = {
        name: _right(stacked, each, settings.validation_clips, device)
        for name, each in settings.validation_tasks().items()
    }
    right, gaps = sets["alike"]
    least, largest = settings.gaps
    return ArmResult(
        losses=tuple(torch.stack(losses[-_LAST_STEPS:]).mean(dim=0).tolist()),
        accuracies={name: _accuracies(found) for name, (found, _) in sets.items()},
        by_gap={gap: _accuracies(right[:, gaps == gap]) for gap in range(least, largest + 1)},
        curve=tuple(curve),
        seconds=seconds,
    )


def _network(
    arm: Arm, settings: OrderSettings, start: Mapping[str, Tensor], seed: int, device: str
) -> ActionModel:
    """A network of an arm that starts from the 2D one; its classifier is its seed's."""
    torch.manual_seed(seed)
    network = build(arm.spec(len(ORDERS), settings.width))
    inflate_network(network, start, arm.inflation, source="the 2D network")
    return _without_dropout(network).to(device)


def _start(
    path: Path, settings: OrderSettings, device: str, tell: Callable[[str], None]
) -> dict[str, Tensor]:
    """Train the 2D network to see which shapes clips show, or read it."""
    if path.is_file():
        return load_file(path)
    torch.manual_seed(0)
    flat = next(arm for arm in ARMS if arm.lengths == "2D")
    network = _without_dropout(build(flat.spec(_SHAPES, settings.width))).to(device)
    stacked = StackedNetworks([network])
    optimiser = _optimiser(stacked, settings.start_steps, settings.learning_rate)
    least = settings.gaps[0]
    task = OrderTask(
        num_frames=max(_START_FRAMES, 3 * least + 2),
        height_px=settings.height_px,
        width_px=settings.width_px,
        gaps=(least, least),
    )
    losses = []
    for step in range(settings.start_steps):
        clips = order_clips(task, settings.batch_size, seed=_number(_START, 0, step), device=device)
        losses.append(optimiser.step(clips.frames[None], shapes_shown(clips.labels)[None]))
    loss = torch.cat(losses[-_LAST_STEPS:]).mean().item()
    tell(f"the 2D network that all arms start from: loss {loss:.3f}")
    network.load_state_dict(stacked.network(0))
    tensors = two_dimensional(network)
    with whole_file(path) as temporary:
        save_file(tensors, temporary)
    return tensors


def two_dimensional(network: ActionModel) -> dict[str, Tensor]:
    """The weights of a network of temporal length 1, as those of the 2D network that it is.

    Args:
        network: all of its filters are of one frame and have one branch.

    Raises:
        SpecError: they are not.
    """
    tensors: dict[str, Tensor] = {}
    for layer, conv, norm in network.counterparts():
        branch, *others = layer.typed_branches()
        if others or branch.coefficients.shape[2] != 1:
            raise SpecError(f"{conv} has a temporal length; a 2D network is asked for")
        tensors[f"{conv}.weight"] = branch.coefficients.detach()[:, :, 0].cpu().contiguous()
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{name}"] = getattr(branch.norm, name).detach().cpu().clone()
    return tensors


def _without_dropout(network: ActionModel) -> ActionModel:
    network.head.dropout.p = 0.0  # fresh clips in every step leave nothing to regularise
    return network


def _optimiser(stacked: StackedNetworks, steps: int, learning_rate: float) -> StackedOptimiser:
    return StackedOptimiser(
        stacked, steps=steps, learning_rate=learning_rate, warmup_steps=max(1, steps // 20)
    )


def _number(kind: int, seed: int, step: int) -> int:
    """A seed for a batch of clips, which no other batch has."""
    return int(np.random.SeedSequence([kind, seed, step]).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def _right(
    stacked: StackedNetworks, task: OrderTask, count: int, device: str
) -> tuple[Tensor, Tensor]:
    """Which clips of a validation set each network has right, (S, N), and their gaps, (N,)."""
    right, gaps = [], []
    for number, first in enumerate(range(0, count, _AT_ONCE)):
        clips = order_clips(
            task,
            min(_AT_ONCE, count - first),
            seed=_number(_VALIDATION, 0, number),
            device=device,
        )
        frames = clips.frames.expand(stacked.count, *clips.frames.shape)
        logits = stacked.logits(frames, training=False)
        right.append(logits.argmax(dim=2) == clips.labels)
        gaps.append(clips.gaps)
    return torch.cat(right, dim=1).cpu(), torch.cat(gaps).cpu()


def _accuracies(right: Tensor) -> tuple[float, ...]:
    """Per cent, of each network."""
    return tuple((100 * right.double().mean(dim=1)).tolist())


def _joined(parts: Iterable[Sequence[float]]) -> tuple[float, ...]:
    return tuple(value for part in parts for value in part)


def _check_settings(path: Path, settings: OrderSettings) -> None:
    """Keep the settings in a folder, or see that they are those of the results in it."""
    if not path.is_file():
        _write(path, settings)
        return
    before = OrderSettings.parse(json.loads(path.read_text()))
    differing = [
        name
        for name in OrderSettings.model_fields
        if getattr(before, name) != getattr(settings, name) and name != "stack"
    ]
    if differing:
        name = differing[0]
        raise SpecError(
            f"{str(path.parent)!r} holds results of {name} = {getattr(before, name)!r}, not "
            f"{getattr(settings, name)!r}; give another --output"
        )


def _write(path: Path, content: Spec) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(content.model_dump_json(indent=1) + "\n")
