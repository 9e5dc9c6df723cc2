"""The batches of a run: decoded ahead of time, and brought to the device while it computes.

What is random in a clip is decided by its key alone (clips.py), so that nothing here decides about
numbers: neither how many processes decode nor how far they are ahead.
"""

import time
from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.train.clips import (
    Batch,
    BrokenVideo,
    Example,
    ShuffledKeys,
    TrainingClips,
    begin_worker,
    collate,
)
from stdeploy.train.processes import before_they_begin, end_workers, next_of
from stdeploy.train.recipe import Recipe


class TrainingBatches:
    """The batches of all epochs in one process of a run.

    Args:
        data: the training split.
        clip: what the network sees.
        recipe: sizes of batches, what is random.
        fabric: of the run.
        workers: processes that decode.
        uncut: leave resizing, cutting and colours to the device.

    Attributes:
        steps: in an epoch.
        past_end: frames of clips so far that lie past the end of their video, and those clips.
    """

    def __init__(
        self,
        data: LabelledVideos,
        clip: ClipSpec,
        recipe: Recipe,
        fabric: Fabric,
        *,
        workers: int,
        uncut: bool,
    ) -> None:
        how, self._device = recipe.optimisation, fabric.device
        share = how.batch_size // fabric.world_size
        self._keys = ShuffledKeys(
            len(data.samples),
            how.seed,
            batch_size=share,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        self._loader: DataLoader[Example] = DataLoader(
            TrainingClips(data, clip, recipe.augmentation, how.seed, uncut=uncut),
            batch_size=share // how.accumulate,
            sampler=self._keys,
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=how.batches_ahead if workers else None,
            worker_init_fn=begin_worker,
            persistent_workers=workers > 0,
            pin_memory=fabric.device.type == "cuda",
        )
        self._begun: tuple[int, int, Iterator[Batch | BrokenVideo]] | None = None
        self.steps = self._keys.steps
        self.past_end = (0, 0)

    def begin(self, epoch: int, skip: int = 0) -> None:
        """Let the processes begin with an epoch, which `of_epoch` will be asked for next.

        Args:
            epoch: from 0.
            skip: steps of it that were done before a break.
        """
        self._keys.epoch, self._keys.skip = epoch, skip
        with before_they_begin():
            self._begun = epoch, skip, iter(self._loader)

    def of_epoch(self, epoch: int, skip: int = 0) -> "DeviceBatches":
        """The batches of an epoch; see `begin`."""
        if self._begun is None or self._begun[:2] != (epoch, skip):
            self.begin(epoch, skip)
        assert self._begun is not None
        (_, _, batches), self._begun = self._begun, None
        return DeviceBatches(self._counted(batches), self._device)

    def end(self) -> None:
        """End the processes."""
        end_workers(self._loader._iterator)

    def _counted(self, batches: Iterator[Batch | BrokenVideo]) -> Iterator[Batch | BrokenVideo]:
        """The same batches; their clips are counted on the way."""
        for batch in batches:
            if isinstance(batch, Batch):
                past_end, clips = self.past_end
                self.past_end = past_end + batch.past_end, clips + len(batch.labels)
            yield batch


_Mark = torch.cuda.Event | float


class DeviceBatches:
    """Batches on the device of a run.

    On a GPU the next one is fetched while a step is computed: `fetch` is called when all of the
    step has been handed to the GPU, copies and augments on a stream of its own, and where it has to
    wait for processes that decode, the GPU goes on meanwhile.

    Args:
        batches: in memory, pinned if the device is a GPU.
        device: of the run.
        ahead: whether `fetch` does something; None for where it is of use.
    """

    def __init__(
        self,
        batches: Iterator[Batch | BrokenVideo],
        device: torch.device,
        *,
        ahead: bool | None = None,
    ) -> None:
        gpu = device.type == "cuda"
        self._batches, self._device = batches, device
        self._ahead = gpu if ahead is None else ahead
        self._stream: torch.cuda.Stream | None = None
        if gpu:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._fetched: Batch | BrokenVideo | None = None
        self._waits: list[tuple[_Mark, _Mark]] = []

    def next(self) -> Batch | BrokenVideo:
        """The next batch, or the first video that cannot be read where replacing did not help.

        Raises:
            StopIteration: there is none.
            TrainingError: a process that decodes has died.
        """
        if self._fetched is None:
            start = time.perf_counter()
            batch = next_of(self._batches)
            self._waits.append((start, time.perf_counter()))
            self._fetched = self._brought(batch)
        batch, self._fetched = self._fetched, None
        if self._stream is not None and isinstance(batch, Batch):
            here = torch.cuda.current_stream(self._device)
            here.wait_stream(self._stream)
            for tensor in (batch.finished, batch.labels):
                tensor.record_stream(here)  # or its memory would be given to the other stream
        return batch

    def fetch(self) -> None:
        """Fetch the next batch, if there is one."""
        if not self._ahead or self._fetched is not None:
            return
        before = self._mark()
        try:
            batch = next_of(self._batches)
        except StopIteration:
            return
        self._waits.append((before, self._mark()))
        self._fetched = self._brought(batch)

    def waited_seconds(self) -> float:
        """How long the device had nothing to compute for lack of data, since this was last asked.

        To be asked when the device is done with what it was given.
        """
        waits, self._waits = self._waits, []
        return sum(_seconds_between(*marks) for marks in waits)

    def _brought(self, batch: Batch | BrokenVideo) -> Batch | BrokenVideo:
        if isinstance(batch, BrokenVideo):
            return batch
        with torch.cuda.stream(self._stream):  # of None this is nothing
            return batch.on(self._device)

    def _mark(self) -> _Mark:
        """A moment of the device: when it is done with what it was given."""
        if self._stream is None:
            return time.perf_counter()
        mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        mark.record(torch.cuda.current_stream(self._device))
        return mark


def _seconds_between(before: _Mark, after: _Mark) -> float:
    if isinstance(before, float) or isinstance(after, float):
        assert isinstance(before, float)
        assert isinstance(after, float)
        return after - before
    after.synchronize()
    return float(before.elapsed_time(after)) / 1000
