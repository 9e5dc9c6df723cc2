"""SlowFast (Feichtenhofer et al., ICCV 2019): a path of few frames and one of all of them."""

import functools

import numpy as np
import torch
from torch import Tensor, nn

from stdeploy.artifacts.layouts import ResNetLayout, SlowFastLayout
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.errors import SpecError
from stdeploy.models.base import (
    ActionModel,
    AveragePoolHead,
    SlidingAverage,
    conv_norm,
    scaled,
    wrong_layout,
)
from stdeploy.models.resnet import residual_blocks, stem_convolution, stem_pool


@functools.lru_cache(maxsize=64)
def spread_frames(num_frames: int, count: int) -> tuple[int, ...]:
    """Frames that lie evenly between the first and the last one, rounded down.

    The same as torch.linspace(0, num_frames - 1, count).long(), which counts in float32 from both
    ends, so that 21 may come out as 20.

    >>> spread_frames(32, 8)
    (0, 4, 8, 13, 17, 22, 26, 31)

    Args:
        num_frames: to choose from.
        count: of frames that are chosen.
    """
    if count == 1:
        return (0,)
    last = np.float32(num_frames - 1)
    step = last / np.float32(count - 1)
    from_start = [int(step * np.float32(index)) for index in range(count // 2)]
    from_end = [
        int(last - step * np.float32(count - 1 - index)) for index in range(count // 2, count)
    ]
    return (*from_start, *from_end)


class TwoPaths(nn.Module):
    """A stage of both paths, and what goes over from the fast to the slow one.

    Args:
        slow: a stage.
        fast: the same stage of the other path.
        lateral: from features of the fast path to some for the slow one; None after the last stage.
    """

    def __init__(self, slow: nn.Module, fast: nn.Module, lateral: nn.Module | None) -> None:
        super().__init__()
        self.slow = slow
        self.fast = fast
        self.lateral = lateral

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, C_s, T / alpha, H, W) and (N, C_f, T, H, W) to what comes out of the stage."""
        slow, fast = self.slow(slow), self.fast(fast)
        if self.lateral is not None:
            slow = torch.cat([slow, self.lateral(fast)], dim=1)
        return slow, fast


class SlowFrames(nn.Module):
    """The frames of the slow path, of those of the fast one.

    Args:
        alpha: one of how many is taken.
        spread: evenly between the first and the last, see `spread_frames`; else every alpha-th.
    """

    def __init__(self, alpha: int, *, spread: bool) -> None:
        super().__init__()
        self.alpha = alpha
        self.spread = spread

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, 3, T / alpha, H, W).

        Raises:
            SpecError: T is no multiple of alpha.
        """
        return x[:, :, self.chosen(x.shape[2])]

    def chosen(self, num_frames: int) -> list[int]:
        """Numbers of the frames that are taken of T; see `forward`."""
        if num_frames % self.alpha:
            raise SpecError(
                f"the slow path takes one of {self.alpha} frames, and a clip has {num_frames}; a "
                f"multiple of {self.alpha} is wanted"
            )
        if self.spread:
            return list(spread_frames(num_frames, num_frames // self.alpha))
        return list(range(0, num_frames, self.alpha))


class SlowFast(ActionModel):
    """Two residual networks with lateral connections, their averages and a linear classifier.

    It takes the frames of the fast path; the slow path takes its own from these.

    Args:
        spec: the network; its layout describes it.

    Raises:
        SpecError: the layout is that of another kind of network.
    """

    keeps_places = False
    looks_ahead = "its features are averages over all frames of a clip"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        layout = spec.layout
        if not isinstance(layout, SlowFastLayout):
            raise wrong_layout(spec)
        slow, c_slow = _stem(spec, layout.slow)
        fast, c_fast = _stem(spec, layout.fast)
        for number in (1, 2, 3, 4, 5):
            if number > 1:
                slow_stage, fast_stage = (
                    layout.slow.stages[number - 2],
                    layout.fast.stages[number - 2],
                )
                slow, c_slow = residual_blocks(spec, layout.slow, slow_stage, c_slow)
                fast, c_fast = residual_blocks(spec, layout.fast, fast_stage, c_fast)
            lateral = None
            if number <= len(layout.lateral):
                lateral, added = _lateral(spec, layout, number, c_fast)
                c_slow += added
            self.add_module(f"conv{number}", TwoPaths(slow, fast, lateral))
        self.slow_frames = SlowFrames(layout.alpha, spread=layout.slow_frames != "every")
        window = (0, layout.window_side, layout.window_side)
        self.slow_average, self.fast_average = SlidingAverage(window), SlidingAverage(window)
        self.head = AveragePoolHead(c_slow + c_fast, spec.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, C, 1, 1, 1), or more where the window slides.

        Raises:
            SpecError: T is no multiple of alpha.
        """
        slow, fast = self.slow_frames(x), x
        for number in (1, 2, 3, 4, 5):
            slow, fast = self.get_submodule(f"conv{number}")(slow, fast)
        return torch.cat([self.slow_average(slow), self.fast_average(fast)], dim=1)


def _stem(spec: ModelSpec, layout: ResNetLayout) -> tuple[nn.Sequential, int]:
    convolution, channels = stem_convolution(spec, layout)
    return nn.Sequential(convolution, nn.ReLU(inplace=True), stem_pool(layout.stem)), channels


def _lateral(
    spec: ModelSpec, layout: SlowFastLayout, number: int, in_channels: int
) -> tuple[nn.Sequential, int]:
    """The convolution from the fast to the slow path, and how many channels it adds."""
    channels = scaled(layout.lateral[number - 1], spec.width)
    convolution = conv_norm(
        spec,
        in_channels,
        channels,
        (layout.lateral_length, 1, 1),
        stride=(layout.alpha, 1, 1),
        eps=layout.slow.eps,
    )
    return nn.Sequential(
        convolution, nn.ReLU(inplace=True) if layout.lateral_relu else nn.Identity()
    ), channels
