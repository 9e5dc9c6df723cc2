"""Training clips: a random stretch of a labelled video, cropped at a random place."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from stdeploy.errors import VideoError
from stdeploy.spec import ClipSpec
from stdeploy.train.something import LabelledVideos
from stdeploy.video.reader import VideoReader
from stdeploy.video.sampling import clip_times, duration_seconds, frames_at, view_times
from stdeploy.video.transform import clip_frame

# Which clip: epoch and number of the video. With the seed it decides everything random about a
# clip, so that a run gives the same clips with any number of workers.
Key = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class BrokenVideo:
    """A video that gave no clip, and why.

    A value, not an exception: what a worker process raises arrives as the text of a traceback.
    """

    video: Path
    reason: str


Example = tuple[Tensor, int] | BrokenVideo


def collate(examples: list[Example]) -> tuple[Tensor, Tensor] | BrokenVideo:
    """Make a batch, frames (N, T, H, W, 3) and labels (N,), or hand on a broken video."""
    batch: list[tuple[Tensor, int]] = []
    for example in examples:
        if isinstance(example, BrokenVideo):
            return example
        batch.append(example)
    return torch.stack([frames for frames, _ in batch]), torch.tensor([label for _, label in batch])


class ShuffledKeys(Sampler[Key]):
    """All videos once an epoch, in an order that the seed and the epoch decide."""

    def __init__(self, num_videos: int, seed: int) -> None:
        self.epoch = 0
        self._num_videos = num_videos
        self._seed = seed

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._num_videos)
        return ((self.epoch, int(number)) for number in order)

    def __len__(self) -> int:
        return self._num_videos


class TrainingClips(Dataset[Example]):
    """uint8 clips (T, H, W, 3) with their labels, by (epoch, video) keys."""

    def __init__(self, videos: LabelledVideos, clip: ClipSpec, seed: int) -> None:
        self._samples = videos.samples
        self._clip = clip
        self._seed = seed
        # A reader holds timestamps, not an open file: kept, each video is scanned only once.
        self._readers: dict[Path, VideoReader] = {}

    def __getitem__(self, key: Key) -> Example:
        sample = self._samples[key[1]]
        rng = np.random.default_rng([self._seed, *key])
        try:
            if sample.video not in self._readers:
                self._readers[sample.video] = VideoReader(sample.video)
            clip = self._random_clip(self._readers[sample.video], rng)
        except VideoError as error:
            return BrokenVideo(sample.video, str(error))
        return torch.from_numpy(clip), sample.label

    def __len__(self) -> int:
        return len(self._samples)

    def _random_clip(self, reader: VideoReader, rng: np.random.Generator) -> NDArray[np.uint8]:
        clip = self._clip
        duration = duration_seconds(reader.timestamps, fps=reader.fps)
        room = duration - clip.span_seconds
        if room > 0:
            times = clip_times(rng.uniform(0, room, size=1), clip)
        else:
            times = view_times(duration, clip, views=1)
        prepare = functools.partial(clip_frame, clip=clip, top=rng.random(), left=rng.random())
        return reader.gather(frames_at(reader.timestamps, times[0]), prepare)
