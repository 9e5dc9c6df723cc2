"""What learns in a run: the network with its optimiser and running average, and one step of it."""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD

from stdeploy.artifacts.card import Lineage, ModelCard
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import ArtifactError, DatasetError
from stdeploy.models.base import ActionModel
from stdeploy.models.frames_to_logits import FrameNormalisation, golden_of
from stdeploy.train.batches import DeviceBatches
from stdeploy.train.clips import Batch, BrokenVideo
from stdeploy.train.determinism import Cost, cost_of_determinism, replace_max_pools
from stdeploy.train.initialisation import Started, start
from stdeploy.train.optimisation import (
    average_of,
    check_norms,
    freeze,
    is_usable,
    learning_rate_factor,
    objective,
    parameter_groups,
)
from stdeploy.train.processes import DivergedRunError
from stdeploy.train.progress import Part
from stdeploy.train.recipe import Optimisation, Recipe


class Learner:
    """The network of a run in one process, and all that a step changes.

    Args:
        recipe: decides everything.
        labels: K class names.
        fabric: of the run; the network goes to its device.

    Raises:
        TrainingError: the network cannot be trained so; see `check_norms`.
    """

    def __init__(self, recipe: Recipe, labels: tuple[str, ...], fabric: Fabric) -> None:
        how = recipe.optimisation
        self._recipe, self._how, self._labels, self._fabric = recipe, how, labels, fabric
        self._started: Started = start(recipe, labels)
        clip, model = self._started.clip, self._started.model
        model.head.dropout.p = how.dropout
        check_norms(model, clip, recipe.start, how, fabric.world_size)
        if how.sync_batch_norm:
            model = cast(ActionModel, nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]
        if how.deterministic and fabric.device.type == "cuda":  # a CPU has one order anyway
            replace_max_pools(model)
        freeze(model, recipe.start)
        self._layout = memory_layout(how, fabric.device)
        lay_out(model, self._layout)
        if how.compile:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of what it loads of torch
                model.compile()  # in place: names of weights stay, and copies are not compiled
        self._model = model
        self._optimiser = SGD(
            parameter_groups(model, how),
            lr=how.learning_rate,
            momentum=how.momentum,
            nesterov=how.nesterov and how.momentum > 0,
        )
        self._graph, self._stepper = fabric.setup(model, self._optimiser)
        self._average = average_of(model, how)
        self._normalise = FrameNormalisation(clip).to(fabric.device)

    @property
    def clip(self) -> ClipSpec:
        """What the network sees."""
        return self._started.clip

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about how it started, in words."""
        return self._started.notes

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return float(self._optimiser.param_groups[0]["lr"])

    @property
    def parts(self) -> dict[str, Part]:
        """All that a step changes."""
        parts: dict[str, Part] = {
            "model": self._model,
            "optimiser": self._optimiser,
            "precision": self._fabric.strategy.precision,  # fp16 scales its gradients
        }
        if self._average is not None:
            parts["average"] = self._average
        return parts

    def begin_epoch(self) -> None:
        """Put the network into training mode."""
        self._model.train()
        freeze(self._model, self._recipe.start)

    def step(
        self,
        batches: DeviceBatches,
        number: int,
        steps_per_epoch: int,
        note_broken: Callable[[Mapping[str, str]], None],
    ) -> tuple[float, int, float]:
        """One step.

        Args:
            batches: of which as many are taken as the recipe accumulates.
            number: of the step in the whole run, from 0.
            steps_per_epoch: steps in an epoch.
            note_broken: is told which videos could not be read and were replaced, and why.

        Returns:
            Mean loss and right clips of all processes, and seconds that the device had nothing to
            do for lack of data.

        Raises:
            DatasetError: too many videos cannot be read.
            DivergedRunError: the loss is no longer a number.
            TrainingError: a process that decodes has died.
        """
        fabric, how = self._fabric, self._how
        # Dropout is the only thing random in here; see progress.py.
        seed = np.random.SeedSequence([how.seed, number, fabric.global_rank])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        factor = learning_rate_factor(number, steps_per_epoch, how)
        for group in self._optimiser.param_groups:
            group["lr"] = how.learning_rate * factor * group["scale"]
        sums = torch.zeros(2, dtype=torch.float64, device=fabric.device)
        for part in range(how.accumulate):
            batch = _readable(batches.next())
            note_broken({str(broken.video): broken.reason for broken in batch.broken})
            last = part == how.accumulate - 1
            with fabric.no_backward_sync(self._graph, enabled=not last and fabric.world_size > 1):
                loss, right = self._forward(batch, number)
                fabric.backward(loss / how.accumulate)
            sums += torch.stack([loss.detach().double() / how.accumulate, right.double()])
            batches.fetch()
        if how.clip_gradient_norm:
            fabric.clip_gradients(
                self._graph,
                self._stepper,
                max_norm=how.clip_gradient_norm,
                error_if_nonfinite=False,
            )
        if fabric.world_size > 1:
            sums = cast(Tensor, fabric.all_reduce(sums, reduce_op="sum"))
            sums[0] /= fabric.world_size
        mean_loss, right_clips = sums.tolist()
        if not math.isfinite(mean_loss):
            epoch, step = divmod(number, steps_per_epoch)
            raise self._diverged(f"the loss of epoch {epoch + 1}, step {step + 1} is not a number")
        self._stepper.step()
        self._stepper.zero_grad()
        if self._average is not None:
            self._average.update_parameters(self._model)
        return mean_loss, int(right_clips), batches.waited_seconds()

    def _forward(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """Mean loss, and how many clips were classified rightly."""
        how = self._how
        return objective(
            lambda frames: self._graph(self._arranged(self._normalise(frames))),
            batch.finished,
            batch.labels,
            label_smoothing=how.label_smoothing,
            videomix_alpha=self._recipe.augmentation.videomix_alpha,
            key=[how.seed, number, self._fabric.global_rank],
        )

    def _arranged(self, clips: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) as the network has its weights in memory."""
        if self._layout == torch.preserve_format:
            return clips
        return clips.contiguous(memory_format=self._layout)

    def to_validate(self) -> nn.Module:
        """What the run has made so far, the same in all processes.

        Returns:
            From uint8 frames (N, T, H, W, 3) to logits (N, K), in evaluation mode.
        """
        network = self._average.module if self._average is not None else self._model
        network.eval()
        if self._fabric.world_size > 1:
            for buffer in network.buffers():  # norms: those of the first process will be saved
                torch.distributed.broadcast(buffer, src=0)
        return nn.Sequential(self._normalise, network)

    def cost_of_determinism(self, clips: int) -> Cost:
        """Measure, in every process, what a deterministic step of so many clips costs."""
        model = copy.deepcopy(self._model).train()
        freeze(model, self._recipe.start)
        graph = nn.Sequential(self._normalise, model)
        return cost_of_determinism(self._fabric, graph, (clips, *self.clip.frames_shape))

    def trained(self) -> ActionModel:
        """A copy of the network that the run has made, on the CPU, in evaluation mode."""
        model = self._average.module if self._average is not None else self._model
        there = cast(ActionModel, copy.deepcopy(model)).cpu().eval()
        lay_out(there, torch.contiguous_format)
        return there

    def card(self, rows: Sequence[Mapping[str, float]]) -> ModelCard:
        """Of the network that the run has made.

        Args:
            rows: metrics of the epochs that are done.

        Raises:
            DivergedRunError: its answers are not finite.
        """
        model, started = self.trained(), self._started
        try:
            golden = golden_of(model, self.clip)
        except (ArtifactError, ValueError) as error:  # finite weights whose answers are not
            raise self._diverged("the network's answers are not finite") from error
        names = ("validation_top1", "validation_top5")
        origin = "trained with stdeploy train"
        return ModelCard(
            model=model.spec,
            clip=self.clip,
            labels=self._labels,
            golden=golden,
            lineage=Lineage(
                origin=f"{origin}, {started.origin}" if started.origin else origin,
                licence=started.licence,
                versions=versions(),
                frozen=self._recipe.start.freeze,
            ),
            metrics={name: rows[-1][name] for name in names if rows and name in rows[-1]},
        )

    def is_usable(self) -> bool:
        """Whether all weights and statistics are numbers, in this process."""
        return is_usable(self._model)

    def check_usable(self, epoch: int) -> None:
        """See that all weights and statistics are numbers, in every process.

        Args:
            epoch: that has been trained, from 1.

        Raises:
            DivergedRunError: they are not.
        """
        spoilt = torch.tensor(float(not self.is_usable()), device=self._fabric.device)
        if self._fabric.world_size > 1:
            spoilt = cast(Tensor, self._fabric.all_reduce(spoilt, reduce_op="sum"))
        if spoilt > 0:
            raise self._diverged(
                f"after epoch {epoch} weights are not finite, or too large to compute with"
            )

    def _diverged(self, what: str) -> DivergedRunError:
        return DivergedRunError(
            f"{what}; lower learning_rate ({self._how.learning_rate}) or lengthen warmup_epochs "
            f"({self._how.warmup_epochs})"
        )


def memory_layout(how: Optimisation, device: torch.device) -> torch.memory_format:
    """How clips and weights lie in memory: channels last, channels first, or as they are made.

    Clips are made of frames, so that their channels are last, and cuDNN takes each convolution of
    theirs so; weights that are made with channels first it turns anew in every step.
    """
    if how.channels_last == "no":
        return torch.contiguous_format
    # Deterministic runs are as they have been shown to be.
    usual = device.type == "cuda" and not how.deterministic
    wanted = usual if how.channels_last == "auto" else True
    return torch.channels_last_3d if wanted else torch.preserve_format


def lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Lay the weights of 3D convolutions out in memory, in place; their numbers stay."""
    for parameter in model.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def versions() -> dict[str, str]:
    """Of the packages that matter for what a run makes."""
    return {**Lineage().versions, "torch": torch.__version__}


def _readable(batch: Batch | BrokenVideo) -> Batch:
    if isinstance(batch, BrokenVideo):
        raise DatasetError(
            f"{str(batch.video)!r} {batch.reason}, and the videos drawn to replace it "
            "cannot be read either; run stdeploy data check"
        )
    return batch
