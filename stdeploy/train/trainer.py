"""The training loop: on one CPU or many GPUs, and after any break as if there had been none."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from stdeploy.artifacts.card import Lineage, ModelCard
from stdeploy.artifacts.files import CHECKPOINT_SUFFIX, checked_output
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.errors import ArtifactError, DatasetError, TrainingError
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.models.inference import FrameNormalisation, golden_of
from stdeploy.train.clips import (
    Batch,
    BrokenVideo,
    Example,
    ShuffledKeys,
    TrainingClips,
    begin_worker,
    collate,
)
from stdeploy.train.determinism import (
    cost_of_determinism,
    deterministic_algorithms,
    replace_max_pools,
)
from stdeploy.train.filter_shares import filter_shares
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
from stdeploy.train.processes import (
    DivergedRunError,
    InterruptedRunError,
    Machine,
    Stop,
    before_they_begin,
    end_workers,
    gathered,
    next_of,
    start_processes,
    stopping,
)
from stdeploy.train.progress import Part, Progress, Report, RunState, fingerprint, report_of, row_of
from stdeploy.train.recipe import Recipe
from stdeploy.train.run_directory import STATE, RunFolder, open_run, refusal_to_resume
from stdeploy.train.validation import Accuracy, Validation


def train(
    recipe: Recipe,
    data: LabelledVideos,
    output: Path,
    *,
    run: Path,
    validation: LabelledVideos | None = None,
    machine: Machine | None = None,
    resume: bool = False,
    log_filters: bool = False,
    begin: Callable[[int], None] = lambda _: None,
    tell_cost: Callable[[str], None] = lambda _: None,
    report: Callable[[Report], None] = lambda _: None,
) -> ModelCard | None:
    """Train a network and write its checkpoint.

    Args:
        recipe: decides everything.
        data: the training split.
        output: where the last weights go, a name that ends in .pt.
        run: folder for everything else that the run leaves; see run_directory.py.
        validation: looked at after every epoch; None to do without.
        machine: devices to use; None is one.
        resume: go on with the run in that folder.
        log_filters: write down after every epoch where the energy of the filters lies.
        begin: is told how many epochs are done, once nothing forbids the run.
        tell_cost: is told before the first step what a deterministic run costs.
        report: is called after every step and before every batch of validation videos; like
            begin in the first process only.

    Returns:
        The card of the checkpoint; None in all processes but the first.

    Raises:
        ArtifactError: the checkpoint could not be written there.
        DatasetError: too many videos cannot be read.
        TrainingError: fewer videos than a batch, a run that cannot be begun or resumed here, a
            deterministic one of a network that cannot be, or the loss is no longer a number.
        InterruptedRunError: SIGTERM or Ctrl-C came; the state is saved.
        BackendError: a GPU that was asked for is not there.
    """
    checked_output(output, CHECKPOINT_SUFFIX)
    how, machine = recipe.optimisation, machine or Machine()
    if len(data.samples) < how.batch_size:
        raise TrainingError(
            f"{len(data.samples)} training videos make no batch of {how.batch_size}; "
            "use more videos or a smaller batch_size"
        )
    fabric = start_processes(machine, how)
    share = how.batch_size // fabric.world_size
    if share * fabric.world_size != how.batch_size or share % how.accumulate:
        raise TrainingError(
            f"batch_size {how.batch_size} cannot be shared out: processes x accumulate is "
            f"{fabric.world_size} x {how.accumulate}; make it a multiple of "
            f"{fabric.world_size * how.accumulate}"
        )
    folder = open_run(fabric, run, resume=resume)
    trainer = _Trainer(
        recipe, data, validation, fabric, folder, machine, report, log_filters=log_filters
    )
    if resume:
        trainer.resume(run / STATE)
    if folder is not None:
        begin(trainer.progress.epoch)
    trainer.fit(tell_cost)
    if folder is None:
        return None
    card = trainer.card()
    try:
        save_checkpoint(output, trainer.trained(), card)
    except ArtifactError as error:
        raise ArtifactError(
            f"{error}; the run is done and its state saved: the same command with --resume writes "
            "the checkpoint"
        ) from error
    folder.finish(card, trainer.progress.rows)
    return card


class _Trainer:
    """One process of a run."""

    def __init__(
        self,
        recipe: Recipe,
        data: LabelledVideos,
        validation: LabelledVideos | None,
        fabric: Fabric,
        folder: RunFolder | None,
        machine: Machine,
        report: Callable[[Report], None],
        *,
        log_filters: bool,
    ) -> None:
        how = recipe.optimisation
        self._recipe, self._how, self._data = recipe, how, data
        self._fabric, self._folder, self._report = fabric, folder, report
        self._log_filters = log_filters
        self._save_seconds = machine.save_minutes * 60
        self._started: Started = start(recipe, data.labels)
        self._fingerprint = fingerprint(recipe, data, validation, fabric.world_size)
        self.progress = Progress()
        self._unreadable: set[str] = set()  # validation videos
        self._before_last_step: RunState | None = None  # of the epoch that goes on
        clip, model = self._started.clip, self._started.model
        model.head.dropout.p = how.dropout
        check_norms(model, clip, recipe.start, how, fabric.world_size)
        if how.sync_batch_norm:
            model = cast(ActionModel, nn.SyncBatchNorm.convert_sync_batchnorm(model))  # type: ignore[no-untyped-call]
        if how.deterministic and fabric.device.type == "cuda":  # a CPU has one order anyway
            replace_max_pools(model)
        freeze(model, recipe.start)
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
        share = how.batch_size // fabric.world_size
        self._keys = ShuffledKeys(
            len(data.samples),
            how.seed,
            batch_size=share,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        self._loader: DataLoader[Example] = DataLoader(
            TrainingClips(data, clip, recipe.augmentation, how.seed),
            batch_size=share // how.accumulate,
            sampler=self._keys,
            collate_fn=collate,
            num_workers=how.workers,
            worker_init_fn=begin_worker,
            persistent_workers=how.workers > 0,
            pin_memory=fabric.device.type == "cuda",
        )
        self._validation = None
        if validation is not None:
            self._validation = Validation(
                fabric,
                validation.with_labels(data.labels, source="the training set"),
                clip,
                batch_size=share // how.accumulate,
                workers=how.workers,
            )

    def resume(self, path: Path) -> None:
        """Go on where a state was saved."""
        state = RunState.load(path)
        if state.fingerprint != self._fingerprint:
            raise refusal_to_resume(path.parent, self._recipe)
        state.restore(self._parts)
        self.progress = state.progress

    def fit(self, tell_cost: Callable[[str], None]) -> None:
        """Train to the end."""
        how = self._how
        if self._folder is not None:
            done = self.progress.epoch * self._keys.steps + self.progress.step
            rows = self.progress.rows
            self._folder.begin(self._recipe, _versions(), step=done, rows=rows)
            if not done:
                self._note_filters(epoch=0)
        try:
            with (
                stopping() as stop,
                deterministic_algorithms(how.deterministic),
                warnings.catch_warnings(),
            ):
                # DDP about kernels of 1 x 1 x 1, whose strides can be read in two ways.
                warnings.filterwarnings("ignore", message="Grad strides do not match bucket")
                if how.deterministic and self.progress.epoch < how.epochs:
                    self._tell_cost(tell_cost)
                while self.progress.epoch < how.epochs:
                    self._epoch(stop)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the memory of the GPU is too small for {how.batch_size} clips "
                f"with accumulate = {how.accumulate}; raise optimisation.accumulate"
            ) from error
        finally:
            end_workers(self._loader._iterator)

    def _tell_cost(self, tell: Callable[[str], None]) -> None:
        """Measure, in every process, what a deterministic step costs."""
        share = self._how.batch_size // self._fabric.world_size // self._how.accumulate
        model = copy.deepcopy(self._model).train()
        freeze(model, self._recipe.start)
        graph = nn.Sequential(self._normalise, model)
        cost = cost_of_determinism(self._fabric, graph, (share, *self._started.clip.frames_shape))
        if self._folder is not None:
            self._folder.log(str(cost))
            tell(str(cost))

    def trained(self) -> ActionModel:
        """A copy of the network that the run has made, on the CPU, in evaluation mode."""
        model = self._average.module if self._average is not None else self._model
        return cast(ActionModel, copy.deepcopy(model)).cpu().eval()

    def card(self) -> ModelCard:
        """Of the network that the run has made."""
        model, clip, started = self.trained(), self._started.clip, self._started
        rows = self.progress.rows
        try:
            golden = golden_of(model, clip)
        except (ArtifactError, ValueError) as error:  # finite weights whose answers are not
            raise self._diverged("the network's answers are not finite") from error
        names = ("validation_top1", "validation_top5")
        origin = "trained with stdeploy train"
        return ModelCard(
            model=model.spec,
            clip=clip,
            labels=self._data.labels,
            golden=golden,
            lineage=Lineage(
                origin=f"{origin}, {started.origin}" if started.origin else origin,
                licence=started.licence,
                versions=_versions(),
                frozen=self._recipe.start.freeze,
            ),
            metrics={name: rows[-1][name] for name in names if rows and name in rows[-1]},
        )

    def _epoch(self, stop: Stop) -> None:
        try:
            self._steps(stop)
            self._check_usable()
            self._share_broken()
            report = self._validate(stop)
            self._finish_epoch(report)
        except DivergedRunError as error:
            raise self._kept_before(error) from error
        self._before_last_step = None
        self._tell(report)
        self._end_if_told(stop, f"after epoch {self.progress.epoch}")

    def _steps(self, stop: Stop) -> None:
        """The steps of an epoch that are still to be done."""
        progress = self.progress
        self._keys.epoch, self._keys.skip = progress.epoch, progress.step
        self._model.train()
        freeze(self._model, self._recipe.start)
        saved = clock = time.perf_counter()
        with before_they_begin():
            batches = iter(self._loader)
        while progress.step < self._keys.steps:
            number = progress.epoch * self._keys.steps + progress.step
            if progress.step == self._keys.steps - 1 and self._folder is not None:
                # What the last step spoils would be seen only when there is no way back.
                self._before_last_step = copy.deepcopy(self._state())
            loss, right, waited = self._step(batches, number)
            progress.step += 1
            progress.loss_sum += loss
            progress.right += right
            progress.wait_seconds += waited
            now = time.perf_counter()
            progress.seconds, clock = progress.seconds + now - clock, now
            if self._folder is not None:
                self._folder.step(number + 1, loss, self._optimiser.param_groups[0]["lr"])
            if progress.step < self._keys.steps:
                self._tell(self._state_of_affairs())
            where = f"step {progress.step} of {self._keys.steps}"
            self._end_if_told(stop, f"in epoch {progress.epoch + 1} after {where}")
            if now - saved > self._save_seconds:
                self._save()
                saved = time.perf_counter()

    def _tell(self, report: Report) -> None:
        if self._fabric.is_global_zero:
            self._report(report)

    def _finish_epoch(self, report: Report) -> None:
        progress = self.progress
        row = row_of(report, progress.seconds)
        progress.rows.append(row)
        better = report.validation is not None and report.validation.top1 > progress.best
        if better and report.validation is not None:
            progress.best = report.validation.top1
        progress.next_epoch()
        if self._folder is None:
            return
        if better:
            save_checkpoint(self._folder.best, self.trained(), self.card())
        self._note_filters(report.epoch)
        self._save()
        self._folder.epochs(progress.rows)
        self._folder.log(", ".join(f"{name} {value:.6g}" for name, value in row.items()))

    def _step(
        self, batches: Iterator[Batch | BrokenVideo], number: int
    ) -> tuple[float, int, float]:
        """One step: mean loss and right clips of all processes, and seconds waited for data."""
        fabric, how = self._fabric, self._how
        # Dropout is the only thing random in here; see progress.py.
        seed = np.random.SeedSequence([how.seed, number, fabric.global_rank])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        factor = learning_rate_factor(number, self._keys.steps, how)
        for group in self._optimiser.param_groups:
            group["lr"] = how.learning_rate * factor * group["scale"]
        sums, waited = torch.zeros(2, dtype=torch.float64, device=fabric.device), 0.0
        for part in range(how.accumulate):
            start_of_wait = time.perf_counter()
            batch = next_of(batches)
            waited += time.perf_counter() - start_of_wait
            if isinstance(batch, BrokenVideo):
                raise DatasetError(
                    f"{str(batch.video)!r} {batch.reason}, and the videos drawn to replace it "
                    "cannot be read either; run stdeploy data check"
                )
            self._note_broken({str(broken.video): broken.reason for broken in batch.broken})
            last = part == how.accumulate - 1
            with fabric.no_backward_sync(self._graph, enabled=not last and fabric.world_size > 1):
                loss, right = self._forward(batch, number)
                fabric.backward(loss / how.accumulate)
            sums += torch.stack([loss.detach().double() / how.accumulate, right.double()])
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
            step = f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"
            raise self._diverged(f"the loss of {step} is not a number")
        self._stepper.step()
        self._stepper.zero_grad()
        if self._average is not None:
            self._average.update_parameters(self._model)
        return mean_loss, int(right_clips), waited

    def _forward(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """Mean loss, and how many clips were classified rightly."""
        how, device = self._how, self._fabric.device
        return objective(
            lambda frames: self._graph(self._normalise(frames)),
            batch.frames.to(device, non_blocking=True),
            batch.labels.to(device, non_blocking=True),
            label_smoothing=how.label_smoothing,
            videomix_alpha=self._recipe.augmentation.videomix_alpha,
            key=[how.seed, number, self._fabric.global_rank],
        )

    def _validate(self, stop: Stop) -> Report:
        """Look at the validation videos, if there are any; how the epoch went."""
        if self._validation is None:
            return self._state_of_affairs()

        def before_batch(seen: int) -> None:
            self._tell(self._state_of_affairs(seen))
            self._end_if_told(stop, f"while epoch {self.progress.epoch + 1} was validated")

        network = self._average.module if self._average is not None else self._model
        network.eval()
        if self._fabric.world_size > 1:
            for buffer in network.buffers():  # norms: those of the first process will be saved
                torch.distributed.broadcast(buffer, src=0)
        graph = nn.Sequential(self._normalise, network)
        accuracy = self._validation.accuracy(graph, before_batch)
        self._note_unreadable(accuracy.broken)
        return self._state_of_affairs(self._validation.videos, accuracy)

    def _note_filters(self, epoch: int) -> None:
        """Log where the energy of the filters lies, if that was asked for."""
        if self._log_filters and self._folder is not None:
            shares = filter_shares(self.trained(), epoch)
            if shares:  # a 2D network has none
                self._folder.filters(shares)

    def _note_broken(self, broken: Mapping[str, str]) -> None:
        """Log videos that could not be read, by name with the reasons, each once."""
        for name, reason in broken.items():
            if name not in self.progress.broken and self._folder is not None:
                self._folder.log(f"{name!r} {reason}; replaced by another video")
            self.progress.broken[name] = reason

    def _note_unreadable(self, broken: Mapping[str, str]) -> None:
        """Log validation videos that could not be read, each once while the program runs."""
        for name, reason in broken.items():
            if name not in self._unreadable and self._folder is not None:
                self._folder.log(f"{name!r} {reason}; left out of validation")
            self._unreadable.add(name)

    def _share_broken(self) -> None:
        """Let the first process know what the others could not read."""
        self._note_broken(gathered(self._fabric, self.progress.broken))

    def _state_of_affairs(self, seen: int = 0, validation: Accuracy | None = None) -> Report:
        return report_of(
            self.progress,
            self._how,
            self._keys.steps,
            seen=seen,
            to_validate=self._validation.videos if self._validation is not None else 0,
            validation=validation,
        )

    def _end_if_told(self, stop: Stop, when: str) -> None:
        """Save the state and end, if a signal came to any process; they end at the same place.

        Raises:
            InterruptedRunError: it did.
        """
        if stop.told(self._fabric):
            self._save()
            if self._folder is not None:
                self._folder.log(f"stopped {when}")
            # The first process is not to be torn down by the end of another while it writes.
            self._fabric.barrier()
            raise InterruptedRunError(
                f"stopped {when}, state saved; the same command with --resume goes on",
                stop.number,
            )

    @property
    def _parts(self) -> dict[str, Part]:
        """All that a step changes."""
        parts: dict[str, Part] = {
            "model": self._model,
            "optimiser": self._optimiser,
            "precision": self._fabric.strategy.precision,  # fp16 scales its gradients
        }
        if self._average is not None:
            parts["average"] = self._average
        return parts

    def _state(self) -> RunState:
        return RunState.of(self._fingerprint, self.progress, self._parts)

    def _save(self) -> None:
        # A state that cannot be gone on with must not replace one that can.
        if self._folder is not None and is_usable(self._model):
            self._state().save(self._folder.state)

    def _check_usable(self) -> None:
        """See that all weights and statistics are numbers, in every process.

        Raises:
            DivergedRunError: they are not.
        """
        spoilt = torch.tensor(float(not is_usable(self._model)), device=self._fabric.device)
        if self._fabric.world_size > 1:
            spoilt = cast(Tensor, self._fabric.all_reduce(spoilt, reduce_op="sum"))
        if spoilt > 0:
            after = f"after epoch {self.progress.epoch + 1}"
            raise self._diverged(f"{after} weights are not finite, or too large to compute with")

    def _diverged(self, what: str) -> DivergedRunError:
        return DivergedRunError(
            f"{what}; lower learning_rate ({self._how.learning_rate}) or lengthen warmup_epochs "
            f"({self._how.warmup_epochs})"
        )

    def _kept_before(self, error: DivergedRunError) -> DivergedRunError:
        """The same, when what there was before the last step is saved and that is said."""
        if self._folder is None:
            return error
        if self._before_last_step is not None:
            self._before_last_step.save(self._folder.state)
        there = [path for path in (self._folder.state, self._folder.best) if path.is_file()]
        kept = f"; what was good before is kept: {', '.join(map(str, there))}" if there else ""
        self._folder.log(f"diverged: {error}")
        return DivergedRunError(f"{error}{kept}")


def _versions() -> dict[str, str]:
    return {**Lineage().versions, "torch": torch.__version__}
