"""The training loop."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stdeploy.card import Lineage, ModelCard
from stdeploy.errors import DatasetError, TrainingError
from stdeploy.files import CHECKPOINT_SUFFIX, checked_output
from stdeploy.layers.frames import FrameNormalisation
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.models.inference import golden_of
from stdeploy.models.registry import build
from stdeploy.train.clips import BrokenVideo, ShuffledKeys, TrainingClips, collate
from stdeploy.train.recipe import Optimisation, Recipe
from stdeploy.train.something import LabelledVideos


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What one epoch did.

    Attributes:
        epoch: 1 to epochs.
        epochs: of the whole run.
        loss: mean over the clips.
        accuracy: on the training clips as they were seen, 0..1.
        seconds: wall time.
        clips: how many were seen.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    seconds: float
    clips: int


def train(
    recipe: Recipe,
    data: LabelledVideos,
    output: Path,
    report: Callable[[EpochReport], None],
) -> ModelCard:
    """Train a network and write its checkpoint.

    Args:
        recipe: decides everything.
        data: the training split.
        output: a name that ends in .pt.
        report: is called after every epoch.

    Returns:
        The card of the checkpoint.

    Raises:
        ArtifactError: the checkpoint could not be written there.
        DatasetError: a video cannot be read.
        TrainingError: fewer videos than a batch, or the loss is no longer a number.
    """
    checked_output(output, CHECKPOINT_SUFFIX)
    how = recipe.optimisation
    if len(data.samples) < how.batch_size:
        raise TrainingError(
            f"{len(data.samples)} training videos make no batch of {how.batch_size}; "
            "use more videos or a smaller batch_size"
        )
    torch.manual_seed(how.seed)
    model = build(recipe.model.to_spec(len(data.labels)))
    model.head.dropout.p = how.dropout
    keys = ShuffledKeys(len(data.samples), how.seed)
    loader = DataLoader(
        TrainingClips(data, recipe.clip, how.seed),
        batch_size=how.batch_size,
        sampler=keys,
        drop_last=True,
        collate_fn=collate,
        num_workers=how.workers,
        persistent_workers=how.workers > 0,
    )
    optimiser = torch.optim.SGD(
        _parameter_groups(model, how.weight_decay),
        lr=how.learning_rate,
        momentum=how.momentum,
        nesterov=how.momentum > 0,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, len(loader), how)
    )
    normalise = FrameNormalisation(recipe.clip)
    model.train()
    for epoch in range(how.epochs):
        keys.epoch = epoch
        start, losses, right = time.perf_counter(), [], 0
        for batch in loader:
            if isinstance(batch, BrokenVideo):
                raise DatasetError(f"{str(batch.video)!r} {batch.reason}; mend or remove it")
            frames, labels = batch
            logits = model(normalise(frames))
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=how.label_smoothing)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
            right += int((logits.argmax(dim=1) == labels).sum())
        if not math.isfinite(sum(losses)):
            raise TrainingError(
                f"the loss of epoch {epoch + 1} is not a number; lower learning_rate "
                f"({how.learning_rate}) or lengthen warmup_epochs ({how.warmup_epochs})"
            )
        clips = len(losses) * how.batch_size
        report(
            EpochReport(
                epoch=epoch + 1,
                epochs=how.epochs,
                loss=sum(losses) / len(losses),
                accuracy=right / clips,
                seconds=time.perf_counter() - start,
                clips=clips,
            )
        )
    model.eval()
    card = ModelCard(
        model=model.spec,
        clip=recipe.clip,
        labels=data.labels,
        golden=golden_of(model, recipe.clip),
        lineage=Lineage(
            origin="trained with stdeploy train",
            versions={**Lineage().versions, "torch": torch.__version__},
        ),
    )
    save_checkpoint(output, model, card)
    return card


def learning_rate_factor(step: int, steps_per_epoch: int, how: Optimisation) -> float:
    """Factor on the learning rate: linear from 0 to 1, then half a cosine back to 0.

    Args:
        step: number of the step, from 0.
        steps_per_epoch: steps in an epoch.
        how: gives epochs and warmup_epochs.
    """
    warmup = how.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, how.epochs * steps_per_epoch - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def _parameter_groups(model: ActionModel, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for kernels and the classifier, none for norms and biases.

    Kernels are held as W~, so that this is the regulariser of eq. (7).
    """
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim > 1 else free).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
