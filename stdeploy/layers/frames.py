"""uint8 frames in, network input out: the only place that scales and normalises pixels."""

import torch
from torch import Tensor, nn

from stdeploy.artifacts.spec import ClipSpec


class FrameNormalisation(nn.Module):
    """Turn uint8 frames (N, T, H, W, 3) into normalised input (N, 3, T, H, W).

    x = (frames / 255 - mean) / std, per colour.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, clip: ClipSpec) -> None:
        super().__init__()
        mean = torch.tensor(clip.mean, dtype=torch.float64)
        std = torch.tensor(clip.std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std)).float(), persistent=False)
        self.register_buffer("offset", (-mean / std).float(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, T, H, W, 3) uint8 to (N, 3, T, H, W) in the type of the buffers."""
        return (frames.to(self.scale.dtype) * self.scale + self.offset).permute(0, 4, 1, 2, 3)
