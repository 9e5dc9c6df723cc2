"""The training loop: on one CPU or many GPUs, and after any break as if there had been none."""

import copy
import functools
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from lightning_fabric import Fabric

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import CHECKPOINT_SUFFIX, checked_output
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.errors import ArtifactError, TrainingError
from stdeploy.hardware import cpu_count
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.train.augmentation_effects import past_end_in_words
from stdeploy.train.batches import TrainingBatches
from stdeploy.train.determinism import deterministic_algorithms, searched_algorithms
from stdeploy.train.filter_shares import filter_shares
from stdeploy.train.processes import (
    DivergedRunError,
    InterruptedRunError,
    Machine,
    Stop,
    augments_on_device,
    check_shares,
    decoders_of,
    gathered,
    start_processes,
    stopping,
)
from stdeploy.train.progress import (
    Progress,
    Report,
    RunState,
    fingerprint,
    rate_in_words,
    report_of,
    row_of,
    waits_much,
)
from stdeploy.train.recipe import Recipe
from stdeploy.train.run_directory import (
    STATE,
    RunFolder,
    open_run,
    refusal_of_place,
    refusal_to_resume,
)
from stdeploy.train.training_step import Learner, versions
from stdeploy.train.validation import Accuracy, Validation

# How many times the loss of guessing tells that training does not learn slowly, but diverges.
_FAR_WORSE = 3.0


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
    tell: Callable[[str], None] = lambda _: None,
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
        tell: is told before the first step what is odd about the start and what a deterministic run
            costs, and after the first epoch that a GPU waited for data, if it did so much, how many
            frames of its clips lay past the end of their video, if any did, and of a loss far above
            that of guessing; like begin and report in the first process only.
        report: is called after every step and before every batch of validation videos.

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
    check_shares(how, fabric.world_size)
    folder = open_run(fabric, run, resume=resume)
    trainer = _Trainer(
        recipe, data, validation, fabric, folder, machine, report, log_filters=log_filters
    )
    if resume:
        trainer.resume(run / STATE)
    if folder is not None:
        begin(trainer.progress.epoch)
    trainer.fit(tell)
    if folder is None:
        return None
    rows = trainer.progress.rows
    card = trainer.learner.card(rows)
    try:
        save_checkpoint(output, trainer.learner.trained(), card)
    except ArtifactError as error:
        raise ArtifactError(
            f"{error}; the run is done and its state saved: the same command with --resume writes "
            "the checkpoint"
        ) from error
    folder.finish(card, rows)
    return card


class _Trainer:
    """One process of a run.

    Attributes:
        learner: the network, its optimiser and average.
        progress: how far the run has come.
    """

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
        self._recipe, self._how = recipe, how
        self._fabric, self._folder, self._report = fabric, folder, report
        self._log_filters = log_filters
        self._save_seconds = machine.save_minutes * 60
        self.learner = Learner(recipe, data.labels, fabric)
        self._fingerprints = {
            uncut: fingerprint(
                recipe, data, validation, fabric.world_size, augmented_on_device=uncut
            )
            for uncut in (False, True)
        }
        self.progress = Progress()
        self._classes = len(data.labels)
        self._unreadable: set[str] = set()  # validation videos
        self._before_last_step: RunState | None = None  # of the epoch that goes on
        self._first_epoch: Report | None = None  # once it is done
        clip, workers = self.learner.clip, decoders_of(how, machine, fabric.device)
        share = how.batch_size // fabric.world_size
        self._workers = workers * machine.devices
        self._uncut = augments_on_device(how, fabric.device)
        self._batches_if = {
            uncut: functools.partial(
                TrainingBatches, data, clip, recipe, fabric, workers=workers, uncut=uncut
            )
            for uncut in (False, True)
        }
        self._batches = self._batches_if[self._uncut]()
        self._validation = None
        if validation is not None:
            self._validation = Validation(
                fabric,
                validation.with_labels(data.labels, source="the training set"),
                clip,
                batch_size=share // how.accumulate,
                workers=workers,
            )

    def resume(self, path: Path) -> None:
        """Go on where a state was saved."""
        state = RunState.load(path)
        places = {text: uncut for uncut, text in self._fingerprints.items()}
        if state.fingerprint not in places:
            raise refusal_to_resume(path.parent, self._recipe)
        begun_so = places[state.fingerprint]
        if begun_so != self._uncut and self._how.augment_on != "auto":
            raise refusal_of_place(path.parent, begun_on_device=begun_so)
        self._uncut, self._batches = begun_so, self._batches_if[begun_so]()
        state.restore(self.learner.parts)
        self.progress = state.progress

    def fit(self, tell: Callable[[str], None]) -> None:
        """Train to the end; see `train` for what is told."""
        how = self._how
        if self._folder is not None:
            done = self.progress.epoch * self._batches.steps + self.progress.step
            rows = self.progress.rows
            self._folder.begin(self._recipe, versions(), step=done, rows=rows)
            if not done:
                self._note_filters(epoch=0)
        try:
            with (
                stopping() as stop,
                deterministic_algorithms(how.deterministic),
                searched_algorithms(self._fabric.device.type == "cuda" and not how.deterministic),
                warnings.catch_warnings(),
            ):
                # DDP about kernels of 1 x 1 x 1, whose strides can be read in two ways.
                warnings.filterwarnings("ignore", message="Grad strides do not match bucket")
                if how.compile:  # about what torch.compile itself uses
                    warnings.simplefilter("ignore", DeprecationWarning)
                    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
                if self._folder is not None and not self.progress.epoch:
                    for words in self.learner.notes:
                        tell(words)
                if how.deterministic and self.progress.epoch < how.epochs:
                    self._tell_cost(tell)
                while self.progress.epoch < how.epochs:
                    self._epoch(stop)
                    if self.progress.epoch == 1:
                        self._tell_rate(tell)
                        self._tell_past_end(tell)
                        self._tell_high_loss(tell)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"the memory of the GPU is too small for {how.batch_size} clips "
                f"with accumulate = {how.accumulate}; raise optimisation.accumulate"
            ) from error
        finally:
            self._batches.end()

    def _tell_cost(self, tell: Callable[[str], None]) -> None:
        """Measure, in every process, what a deterministic step costs."""
        share = self._how.batch_size // self._fabric.world_size // self._how.accumulate
        cost = self.learner.cost_of_determinism(share)
        if self._folder is not None:
            self._folder.log(str(cost))
            tell(str(cost))

    def _tell_rate(self, tell: Callable[[str], None]) -> None:
        """Say how fast the first epoch went, and what to do if it waited for data."""
        if self._folder is None or self._first_epoch is None:
            return
        words = rate_in_words(
            self._first_epoch,
            workers=self._workers,
            processors=cpu_count(),
            short_side_px=self.learner.clip.short_side_px,
        )
        self._folder.log(words)
        # On a CPU the line of each epoch, which says how much it was, will do.
        if waits_much(self._first_epoch) and self._fabric.device.type == "cuda":
            tell(words)

    def _tell_past_end(self, tell: Callable[[str], None]) -> None:
        """Say how many frames of the clips of this process lay past the end of their video.

        Clips are shared out at random, so that those of one process speak for all. Nothing is said
        where none of them were read since the program began.
        """
        past_end, clips = self._batches.past_end
        if self._folder is None or not clips:
            return
        share = past_end / (clips * self.learner.clip.num_frames)
        words = past_end_in_words(share, self.learner.clip.short_video)
        self._folder.log(words)
        if past_end:
            tell(words)

    def _tell_high_loss(self, tell: Callable[[str], None]) -> None:
        """Say it where the first epoch did far worse than guessing, which costs log(K)."""
        loss, guessing = self.progress.rows[-1]["loss"], math.log(self._classes)
        if self._folder is None or loss <= _FAR_WORSE * guessing:
            return
        words = (
            f"the mean loss of epoch 1 is {loss:.3g}, and guessing would be at {guessing:.2g}: "
            "steps are too long for these weights; begin anew with a tenth of the learning rate: "
            f"--set optimisation.learning_rate={self._how.learning_rate / 10:g}"
        )
        self._folder.log(words)
        tell(words)

    def _epoch(self, stop: Stop) -> None:
        try:
            self._steps(stop)
            if self.progress.epoch + 1 < self._how.epochs:  # decoded while this one is looked at
                self._batches.begin(self.progress.epoch + 1)
            self.learner.check_usable(self.progress.epoch + 1)
            self._share_broken()
            report = self._validate(stop)
            self._finish_epoch(report)
        except DivergedRunError as error:
            raise self._kept_before(error) from error
        self._before_last_step = None
        self._first_epoch = report if report.epoch == 1 else None
        self._tell(report)
        self._end_if_told(stop, f"after epoch {self.progress.epoch}")

    def _steps(self, stop: Stop) -> None:
        """The steps of an epoch that are still to be done."""
        progress = self.progress
        batches = self._batches.of_epoch(progress.epoch, progress.step)
        self.learner.begin_epoch()
        saved = clock = time.perf_counter()
        while progress.step < self._batches.steps:
            number = progress.epoch * self._batches.steps + progress.step
            if progress.step == self._batches.steps - 1 and self._folder is not None:
                # What the last step spoils would be seen only when there is no way back.
                self._before_last_step = copy.deepcopy(self._state())
            loss, right, waited = self.learner.step(
                batches, number, self._batches.steps, self._note_broken
            )
            progress.step += 1
            progress.loss_sum += loss
            progress.right += right
            progress.wait_seconds += waited
            now = time.perf_counter()
            progress.seconds, clock = progress.seconds + now - clock, now
            if self._folder is not None:
                self._folder.step(number + 1, loss, self.learner.learning_rate)
            if progress.step < self._batches.steps:
                self._tell(self._state_of_affairs())
            where = f"step {progress.step} of {self._batches.steps}"
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
            save_checkpoint(
                self._folder.best, self.learner.trained(), self.learner.card(progress.rows)
            )
        self._note_filters(report.epoch)
        self._save()
        self._folder.epochs(progress.rows)
        self._folder.log(", ".join(f"{name} {value:.6g}" for name, value in row.items()))

    def _validate(self, stop: Stop) -> Report:
        """Look at the validation videos, if there are any; how the epoch went."""
        if self._validation is None:
            return self._state_of_affairs()

        def before_batch(seen: int) -> None:
            self._tell(self._state_of_affairs(seen))
            self._end_if_told(stop, f"while epoch {self.progress.epoch + 1} was validated")

        accuracy = self._validation.accuracy(self.learner.to_validate(), before_batch)
        self._note_unreadable(accuracy.broken)
        return self._state_of_affairs(self._validation.videos, accuracy)

    def _note_filters(self, epoch: int) -> None:
        """Log where the energy of the filters lies, if that was asked for."""
        if self._log_filters and self._folder is not None:
            shares = filter_shares(self.learner.trained(), epoch)
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
            self._batches.steps,
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

    def _state(self) -> RunState:
        return RunState.of(self._fingerprints[self._uncut], self.progress, self.learner.parts)

    def _save(self) -> None:
        # A state that cannot be gone on with must not replace one that can.
        if self._folder is not None and self.learner.is_usable():
            self._state().save(self._folder.state)

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
