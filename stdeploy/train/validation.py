"""Accuracy during training: the middle clip of every validation video, all processes gathered.

`stdeploy evaluate` measures artifacts, through the whole chain and with any number of views;
this is the quick look that an epoch gets.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stdeploy.artifacts.card import is_telling
from stdeploy.artifacts.frames import on_host
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.errors import VideoError
from stdeploy.train.clips import begin_worker
from stdeploy.train.processes import batches_of, gathered, next_of
from stdeploy.video.clips import read_views

_Item = tuple[Tensor, int, str, str]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Shares of the validation videos, 0..1.

    Attributes:
        videos: how many could be read.
        top1: best label right.
        top5: right label among the best five; None where that tells nothing.
        broken: those that could not be read, by name with the reasons.
    """

    videos: int
    top1: float
    top5: float | None
    broken: Mapping[str, str] = dataclasses.field(default_factory=dict)


class MiddleClips(Dataset[_Item]):
    """uint8 (T, H, W, 3), label, name and "".

    Of a video that cannot be read all is zero, the label -1, and the reason stands last.
    """

    def __init__(
        self, videos: LabelledVideos, clip: ClipSpec, *, rank: int, world_size: int
    ) -> None:
        self._samples = videos.samples[rank::world_size]
        self._clip = clip

    def __getitem__(self, number: int) -> _Item:
        sample = self._samples[number]
        name = str(sample.video)
        try:
            frames = torch.from_numpy(on_host(read_views(sample.video, self._clip, 1).frames[0]))
        except VideoError as error:
            frames = torch.zeros(self._clip.frames_shape, dtype=torch.uint8)
            return frames, -1, name, str(error)
        return frames, sample.label, name, ""

    def __len__(self) -> int:
        return len(self._samples)


class Validation:
    """The validation videos of a run, shared by its processes.

    Args:
        fabric: of the run.
        videos: all of them.
        clip: what the network sees.
        batch_size: clips that one process classifies at once.
        workers: processes that decode, for each process that classifies.

    Attributes:
        videos: how many there are.
    """

    def __init__(
        self,
        fabric: Fabric,
        videos: LabelledVideos,
        clip: ClipSpec,
        *,
        batch_size: int,
        workers: int,
    ) -> None:
        self.videos = len(videos.samples)
        self._num_classes = len(videos.labels)
        self._fabric = fabric
        self._at_once = batch_size * fabric.world_size
        self._loader: DataLoader[_Item] = DataLoader(
            MiddleClips(videos, clip, rank=fabric.global_rank, world_size=fabric.world_size),
            batch_size=batch_size,
            num_workers=workers,
            worker_init_fn=begin_worker,
            pin_memory=fabric.device.type == "cuda",
        )

    @torch.no_grad()
    def accuracy(self, graph: nn.Module, before_batch: Callable[[int], None]) -> Accuracy:
        """Classify the middle clips.

        Args:
            graph: uint8 frames (N, T, H, W, 3) to logits (N, K), in evaluation mode.
            before_batch: is told how many videos all processes have seen; what it raises ends
                this. Every process calls it as often, though one may have a batch less.
        """
        fabric, broken = self._fabric, dict[str, str]()
        counts = torch.zeros(3, dtype=torch.float64, device=fabric.device)
        with batches_of(self._loader) as batches:
            for number in range(math.ceil(self.videos / self._at_once)):
                before_batch(number * self._at_once)
                if number < len(self._loader):
                    frames, labels, names, reasons = next_of(batches)
                    counts += self._count(graph, frames, labels)
                    broken |= {n: why for n, why in zip(names, reasons, strict=True) if why}
        total = fabric.all_reduce(counts, reduce_op="sum")
        assert isinstance(total, Tensor)
        videos, *right = total.tolist()
        top1, top5 = (count / max(1, videos) for count in right)
        return Accuracy(
            int(videos),
            top1,
            top5 if is_telling("top5", self._num_classes) else None,
            gathered(fabric, broken),
        )

    def _count(self, graph: nn.Module, frames: Tensor, labels: Tensor) -> Tensor:
        """Videos of a batch that could be read, and right at top-1 and top-5, float64 (3,)."""
        device, readable = self._fabric.device, labels >= 0
        with self._fabric.autocast():
            there = frames.to(device, non_blocking=True)
            logits = graph(there[readable.to(device)]).float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        right = best == labels[readable].to(device)[:, None]
        return torch.stack([readable.sum().to(device), right[:, 0].sum(), right.sum()]).double()
