"""A small network with state that keeps the contract of `RunsStreams`, in torch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


class ToyNetwork(nn.Module):
    """Two causal convolutions in time over the mean colours of frames, and a running mean.

    What it says after frame n depends on frames 0 to n, as a network that looks back only.
    """

    length = 3

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv1d(3, 4, self.length)
        self.second = nn.Conv1d(4, classes, self.length)

    def start(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """The state before the first frame: zeros before it, nothing summed."""
        before = self.length - 1
        return torch.zeros(3, before), torch.zeros(4, before), torch.zeros(self.classes), 0

    @property
    def classes(self) -> int:
        return self.second.out_channels

    @torch.no_grad()
    def forward(
        self, frames: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]:
        """Map uint8 frames (F, H, W, 3) and a state to logits (classes,) and the next state."""
        colours, hidden, total, count = state
        means = frames.float().mean(dim=(1, 2)).T / 255
        colours = torch.cat([colours, means], dim=1)
        hidden = torch.cat([hidden, torch.relu(self.first(colours[None])[0])], dim=1)
        out = self.second(hidden[None])[0]
        total, count = total + out.sum(dim=1), count + out.shape[1]
        keep = self.length - 1
        return total / count, (colours[:, -keep:], hidden[:, -keep:], total, count)


class ToyStream:
    """The state of one stream."""

    def __init__(self, network: ToyNetwork) -> None:
        self.state = network.start()


class ToyStreamRuntime:
    """See `stdeploy.inference.live_networks.RunsStreams`.

    Attributes:
        begun: streams so far.
        batches: how many streams each call had.
    """

    def __init__(self, frames_per_call: int, classes: int = 5, *, frames_behind: int = 0) -> None:
        self.frames_per_call = frames_per_call
        self.frames_behind = frames_behind
        self.network = ToyNetwork(classes).eval()
        self.begun = 0
        self.batches: list[int] = []

    def begin(self) -> ToyStream:
        self.begun += 1
        return ToyStream(self.network)

    def run(self, frames: NDArray[np.uint8], streams: Sequence[ToyStream]) -> NDArray[np.float32]:
        assert frames.dtype == np.uint8
        assert frames.shape[:2] == (len(streams), self.frames_per_call)
        assert len(set(map(id, streams))) == len(streams)
        self.batches.append(len(streams))
        logits = []
        for taken, stream in zip(frames, streams, strict=True):
            said, stream.state = self.network(torch.from_numpy(taken), stream.state)
            logits.append(said.numpy())
        return np.stack(logits)

    def whole(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network says after all frames (F, H, W, 3) at once, from the start."""
        said, _ = self.network(torch.from_numpy(frames), self.network.start())
        return said.numpy()
