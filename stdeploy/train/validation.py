"""Accuracy during training: the middle clip of every validation video, all processes together.

`stdeploy evaluate` measures artifacts, through the whole chain and with any number of views;
this is the quick look that an epoch gets.
"""

import dataclasses

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stdeploy.errors import VideoError
from stdeploy.spec import ClipSpec
from stdeploy.train.clips import begin_worker
from stdeploy.train.data.labelled import LabelledVideos
from stdeploy.train.processes import before_they_begin
from stdeploy.video.clips import read_views

_Item = tuple[Tensor, int]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Shares of the validation videos, 0..1.

    Attributes:
        videos: how many could be read.
        top1: best label right.
        top5: right label among the best five.
    """

    videos: int
    top1: float
    top5: float


class MiddleClips(Dataset[_Item]):
    """uint8 (T, H, W, 3) and label; label -1 for a video that cannot be read."""

    def __init__(
        self, videos: LabelledVideos, clip: ClipSpec, *, rank: int, world_size: int
    ) -> None:
        self._samples = videos.samples[rank::world_size]
        self._clip = clip

    def __getitem__(self, number: int) -> _Item:
        sample = self._samples[number]
        try:
            return torch.from_numpy(read_views(sample.video, self._clip, 1).frames[0]), sample.label
        except VideoError:
            return torch.zeros(self._clip.frames_shape, dtype=torch.uint8), -1

    def __len__(self) -> int:
        return len(self._samples)


def validation_loader(
    fabric: Fabric, videos: LabelledVideos, clip: ClipSpec, *, batch_size: int, workers: int
) -> DataLoader[_Item]:
    """The share of the videos that this process looks at."""
    return DataLoader(
        MiddleClips(videos, clip, rank=fabric.global_rank, world_size=fabric.world_size),
        batch_size=batch_size,
        num_workers=workers,
        worker_init_fn=begin_worker,
    )


@torch.no_grad()
def accuracy(fabric: Fabric, graph: nn.Module, loader: DataLoader[_Item]) -> Accuracy:
    """Classify the middle clips.

    Args:
        fabric: of the run.
        graph: uint8 frames (N, T, H, W, 3) to logits (N, K), in evaluation mode.
        loader: from `validation_loader`.
    """
    counts = torch.zeros(3, dtype=torch.float64, device=fabric.device)
    with before_they_begin():
        batches = iter(loader)
    for frames, labels in batches:
        readable = labels >= 0
        with fabric.autocast():
            logits = graph(frames[readable].to(fabric.device)).float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        right = best == labels[readable].to(fabric.device)[:, None]
        counts += torch.stack(
            [readable.sum().to(fabric.device), right[:, 0].sum(), right.sum()]
        ).double()
    total = fabric.all_reduce(counts, reduce_op="sum")
    assert isinstance(total, Tensor)
    videos, top1, top5 = total.tolist()
    return Accuracy(int(videos), top1 / max(1, videos), top5 / max(1, videos))
