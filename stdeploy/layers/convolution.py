"""Single convolutions that filters fold into, and what makes them look back only in time."""

from typing import Literal

import torch
from torch import Tensor, nn

from stdeploy.artifacts.layouts import Size3

Padding = Literal["centred", "valid"]


def first_frame_before(x: Tensor, frames: int) -> Tensor:
    """Put the first frame of a clip before it, again and again.

    NOTE: not zeros. In front of a clip out of a longer video there are frames like its own, and a
    network that was trained with zeros there lost 9 to 20 points where it met them
    (docs/explanation/method.md).

    Args:
        x: (N, C, T, H, W).
        frames: how often; 0 gives x itself.

    Returns:
        (N, C, frames + T, H, W).
    """
    # Not expanded: torch would forget how channels lie in memory. Nor padded by "replicate", whose
    # gradient comes in any order on a GPU.
    return torch.cat([x[:, :, :1]] * frames + [x], dim=2) if frames else x


class FramesBefore(nn.Module):
    """`first_frame_before` as a module, for pools.

    Args:
        frames: how often.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to (N, C, frames + T, H, W)."""
        return first_frame_before(x, self.frames)

    def extra_repr(self) -> str:
        """What torch prints in the brackets of the module."""
        return str(self.frames)


class CausalConv3d(nn.Conv3d):
    """A convolution that looks back only: at stride s its output i sees frames up to i s.

    y[i] = b + sum_j W[:, :, j] * x[i s - (t - 1) + j], j = 0 .. t-1, where frames before the clip
    are its first. So it has as many outputs as a centred one, and its weights have the same shapes.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: (t, kH, kW); in space it is centred.
        stride: (sT, sH, sW).
        groups: of channels.
        device: of its weights; None for the current one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        *,
        stride: Size3 = (1, 1, 1),
        groups: int = 1,
        device: str | None = None,
    ) -> None:
        length, height, width = kernel_size
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=(0, height // 2, width // 2),
            groups=groups,
            device=device,
        )
        self.frames_before = length - 1

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, H, W) to (N, C_out, T / sT, H / sH, W / sW), rounded up."""
        return super().forward(first_frame_before(x, self.frames_before))


def single_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: Size3,
    *,
    stride: Size3,
    padding: Padding,
    causal: bool,
    groups: int = 1,
    device: str | None = None,
) -> nn.Conv3d:
    """The convolution with bias that a filter with norms folds into.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: (t, kH, kW), t odd.
        stride: (sT, sH, sW).
        padding: "centred" has zeros around it, and in time the first frame before it instead where
            it is causal; "valid" has none: the caller pads.
        causal: whether it looks back only.
        groups: of channels.
        device: of its weights; "meta" for none yet.
    """
    length, height, width = kernel_size
    if causal and padding == "centred" and length > 1:
        return CausalConv3d(
            in_channels, out_channels, kernel_size, stride=stride, groups=groups, device=device
        )
    return nn.Conv3d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=(length // 2, height // 2, width // 2) if padding == "centred" else 0,
        groups=groups,
        device=device,
    )


def max_pool(
    kernel_size: Size3, stride: Size3 | None = None, *, padding: Size3 = (0, 0, 0), causal: bool
) -> nn.Module:
    """A max pooling of what comes out of a ReLU.

    Args:
        kernel_size: (t, kH, kW).
        stride: (sT, sH, sW); None for the kernel size.
        padding: on both sides of (T, H, W).
        causal: it looks back only: before the clip its first frame comes t - 1 times, and nothing
            behind it, whatever the padding in time is.
    """
    if not causal or kernel_size[0] == 1:
        return nn.MaxPool3d(kernel_size, stride, padding=padding)
    pool = nn.MaxPool3d(kernel_size, stride, padding=(0, *padding[1:]))
    return nn.Sequential(FramesBefore(kernel_size[0] - 1), pool)
