"""Training clips: a random stretch of a labelled video, augmented."""

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Self, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.datasets.labelled_videos import LabelledVideos, mirrored_labels
from stdeploy.errors import VideoError
from stdeploy.train.augment import (
    Augmentation,
    Draw,
    crop_clip,
    jitter_colours,
    sampled_times,
    stride_of,
)
from stdeploy.train.device_augment import Cut, UncutClip, UncutClips
from stdeploy.video.limits import give_back_large_arrays
from stdeploy.video.opencv import limit_threads
from stdeploy.video.reader import Choice, VideoReader
from stdeploy.video.sampling import frames_at, frames_past_end
from stdeploy.video.timing import Timing
from stdeploy.video.transform import Image, resize_short_side

# Which clip: epoch and number of the video. With the seed it decides everything random about a
# clip, so that a run gives the same clips with any number of workers and after any break.
Key = tuple[int, int]

# A reader holds timestamps, not an open file: while it is kept, its packets are not read again.
# Ten thousand videos of ten seconds have 24 MB of them.
_KEPT_READERS = 10_000

STOPPING = (signal.SIGINT, signal.SIGTERM)  # with which people and machines end a run
# More than a step takes anywhere. A process that decodes ends of itself once it is not needed any
# more, or alone; this is for one that hangs.
_GRACE_SECONDS = 1800

# A video that cannot be read is replaced by another, that by another, ... then the set is broken.
_REPLACEMENTS = 8


@dataclasses.dataclass(frozen=True)
class BrokenVideo:
    """A video that gave no clip, and why.

    A value, not an exception: what a worker process raises arrives as the text of a traceback.
    """

    video: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Example:
    """One clip.

    Attributes:
        frames: uint8 (T, H, W, 3), or what is needed to make them; None where neither the video nor
            its replacements gave one.
        label: of the clip.
        broken: videos that it replaces.
        past_end: frames of it that lie past the end of the video; see `frames_past_end`.
    """

    frames: Tensor | UncutClip | None
    label: int
    broken: tuple[BrokenVideo, ...] = ()
    past_end: int = 0


@dataclasses.dataclass(frozen=True)
class Batch:
    """Clips to train on.

    Attributes:
        frames: uint8 (N, T, H, W, 3), or what is needed to make them.
        labels: int64 (N,).
        broken: videos that could not be read, and were replaced.
        past_end: frames of all clips that lie past the end of their video.
    """

    frames: Tensor | UncutClips
    labels: Tensor
    broken: tuple[BrokenVideo, ...]
    past_end: int = 0

    def pin_memory(self) -> Self:
        """In memory from which a GPU can copy by itself.

        The loader of torch asks for it; what has no such method it leaves as it is.
        """
        return dataclasses.replace(
            self, frames=self.frames.pin_memory(), labels=self.labels.pin_memory()
        )

    def on(self, device: torch.device) -> Self:
        """On a device, with all its frames made; nothing is copied that lies there."""
        frames = self.frames
        if isinstance(frames, UncutClips):
            frames = frames.to(device).finished()
        return dataclasses.replace(
            self,
            frames=frames.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    @property
    def finished(self) -> Tensor:
        """The frames of a batch that `on` has given."""
        return cast(Tensor, self.frames)


def begin_worker(_number: int) -> None:
    """What a process that decodes does first.

    It shares the processors with the others; and when a whole group of processes is told to stop,
    as Ctrl-C does in a terminal, it goes on for as long as the step needs to end and the state to
    be saved.
    """
    limit_threads(1)
    give_back_large_arrays()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # blocked when it was started


def collate(examples: list[Example]) -> Batch | BrokenVideo:
    """Make a batch; the first broken video where replacing did not help."""
    made, uncut = list[Tensor](), list[UncutClip]()
    for example in examples:
        if example.frames is None:
            return example.broken[0]
        if isinstance(example.frames, UncutClip):
            uncut.append(example.frames)
        else:
            made.append(example.frames)
    return Batch(
        UncutClips.of(uncut) if uncut else torch.stack(made),
        torch.tensor([example.label for example in examples]),
        tuple(broken for example in examples for broken in example.broken),
        sum(example.past_end for example in examples),
    )


class ShuffledKeys(Sampler[Key]):
    """All videos once an epoch, in an order that the seed and the epoch decide.

    Args:
        num_videos: of the data set.
        seed: of the order.
        batch_size: clips in a step of one process.
        rank: which process this is, 0 to world_size - 1.
        world_size: processes that share the epoch.

    Attributes:
        epoch: from 0.
        skip: steps of this epoch that were done before a break.
    """

    def __init__(
        self,
        num_videos: int,
        seed: int,
        *,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.epoch = 0
        self.skip = 0
        self._num_videos = num_videos
        self._seed = seed
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._num_videos)
        # A step of all processes is a stretch of the order, as it would be for one process with
        # their batches put together; a last incomplete one is left out.
        steps = order[: self.steps * self._whole].reshape(self.steps, self._world_size, -1)
        mine = steps[self.skip :, self._rank].reshape(-1)
        return ((self.epoch, int(number)) for number in mine)

    def __len__(self) -> int:
        return (self.steps - self.skip) * self._batch_size

    @property
    def steps(self) -> int:
        """Steps in a whole epoch."""
        return self._num_videos // self._whole

    @property
    def _whole(self) -> int:
        return self._batch_size * self._world_size


class TrainingClips(Dataset[Example]):
    """Augmented clips with their labels, by (epoch, video) keys.

    Args:
        videos: to take them from.
        clip: what the network sees.
        augmentation: what is varied.
        seed: of everything random.
        uncut: leave resizing, cutting and colours to `Batch.on`.
    """

    def __init__(
        self,
        videos: LabelledVideos,
        clip: ClipSpec,
        augmentation: Augmentation,
        seed: int,
        *,
        uncut: bool = False,
    ) -> None:
        self._samples = videos.samples
        self._clip = clip
        self._augmentation = augmentation
        self._seed = seed
        self._uncut = uncut
        self._mirrored = mirrored_labels(videos.labels)
        self._readers: dict[Path, VideoReader] = {}

    def __getitem__(self, key: Key) -> Example:
        rng = np.random.default_rng([self._seed, *key])
        draw = Draw.of(self._augmentation, self._clip, rng)
        number, broken = key[1], list[BrokenVideo]()
        while len(broken) <= _REPLACEMENTS:
            sample = self._samples[number]
            mirrored = self._mirrored[sample.label] if draw.mirrored else sample.label
            if mirrored is None:  # its counterpart is no class of this set
                draw, mirrored = dataclasses.replace(draw, mirrored=False), sample.label
            try:
                clip, past_end = self._clip_of(sample.video, draw)
            except VideoError as error:
                broken.append(BrokenVideo(sample.video, str(error)))
                number = int(rng.integers(len(self._samples)))
            else:
                return Example(clip, mirrored, tuple(broken), past_end)
        return Example(None, 0, tuple(broken))

    def __len__(self) -> int:
        return len(self._samples)

    def _clip_of(self, video: Path, draw: Draw) -> tuple[Tensor | UncutClip, int]:
        """The frames of a clip, (T, H, W, 3), and how many lie past the end of the video."""
        reader = self._reader(video)

        def fitted(timing: Timing) -> Draw:
            stride = stride_of(timing.duration, self._clip, self._augmentation, draw)
            return dataclasses.replace(draw, frame_stride=stride)

        def choose(timing: Timing) -> NDArray[np.intp]:
            times = sampled_times(timing.duration, self._clip, fitted(timing))
            return frames_at(timing.timestamps, times)

        made: Tensor | UncutClip | None = None
        if self._uncut:
            made = self._uncut_of(reader, choose, draw)
        if made is None:
            _, frames = reader.gather(choose, _Resize(draw.short_side_px))
            if self._uncut:
                made = _already_resized(frames, self._clip, draw)
            else:
                cut = crop_clip(frames, self._clip.crop_px, draw)
                made = torch.from_numpy(jitter_colours(cut, draw))
        # Only now the timing is what really came out of the file.
        clip = self._clip.model_copy(update={"frame_stride": fitted(reader.timing).frame_stride})
        return made, frames_past_end(reader.timing.duration, clip)

    def _uncut_of(self, reader: VideoReader, choose: Choice, draw: Draw) -> UncutClip | None:
        """What is taken of frames as they are decoded; None if they change their size."""
        take = _Take(self._clip, draw)
        _, frames = reader.gather(choose, take)
        return None if take.mixed else UncutClip(frames, take.cut, draw.colour)

    def _reader(self, video: Path) -> VideoReader:
        if video not in self._readers:
            if len(self._readers) == _KEPT_READERS:
                del self._readers[next(iter(self._readers))]  # the oldest
            self._readers[video] = VideoReader(video)
        return self._readers[video]


class _Resize:
    """Frames of one video to one size, RGB; a few change theirs in the middle."""

    def __init__(self, short_side_px: int) -> None:
        self._short_side_px = short_side_px
        self._size: tuple[int, int] | None = None

    def __call__(self, image: Image) -> Image:
        resized = resize_short_side(image, self._short_side_px)
        height, width = resized.shape[:2]
        self._size = self._size or (width, height)
        if (width, height) != self._size:
            resized = np.asarray(cv2.resize(resized, self._size), dtype=np.uint8)
        return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), dtype=np.uint8)


class _Take:
    """The part of each frame that a clip needs, as it was decoded.

    Attributes:
        cut: what that is.
        mixed: whether frames had several sizes, so that what was taken is of no use.
    """

    cut: Cut

    def __init__(self, clip: ClipSpec, draw: Draw) -> None:
        self._clip, self._draw = clip, draw
        self._size: tuple[int, int] | None = None
        self.mixed = False

    def __call__(self, image: Image) -> Image:
        size = (image.shape[0], image.shape[1])
        if self._size is None:
            self._size = size
            self.cut = Cut.of(size, self._clip.crop_px, self._clip.num_frames, self._draw)
        if size == self._size:
            return self.cut.taken(image)
        self.mixed = True
        rows, columns = (last - first for first, last in (self.cut.rows, self.cut.columns))
        return np.zeros((rows, columns, 3), dtype=np.uint8)


def _already_resized(frames: NDArray[np.uint8], clip: ClipSpec, draw: Draw) -> UncutClip:
    """The same of frames (T, H, W, 3), RGB, that have their size."""
    height, width = frames.shape[1:3]
    cut = Cut.of((height, width), clip.crop_px, clip.num_frames, draw)
    taken = np.stack([cut.taken(frame) for frame in frames[..., ::-1]])
    return UncutClip(taken, cut, draw.colour)
