"""What every architecture here shares: its contract, its convolutions, its head."""

import contextlib
import contextvars
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stdeploy.artifacts.layouts import Size3
from stdeploy.artifacts.spec import Form, ModelSpec, Precision
from stdeploy.errors import SpecError
from stdeploy.layers.convolution import Padding, single_convolution
from stdeploy.layers.temporal import TemporalFilter


class Counterpart(NamedTuple):
    """A filter that extends one of a 2D network.

    Attributes:
        filter: of ours.
        conv: what the 2D network calls its convolution, such as "layer1.0.conv2".
        norm: and the norm after it, such as "layer1.0.bn2".
    """

    filter: TemporalFilter
    conv: str
    norm: str


class ActionModel(nn.Module):
    """A video classifier: a trunk that keeps space and time, then a head.

    The modules conv1..conv5 are the stages of the paper's Table 1, with temporal lengths
    t1..t5. Convolutions are made by `conv_norm`, so that all of them can be folded.

    Attributes:
        spec: what it was built from.
        head: features (N, C, t, h, w) -> logits (N, K).
        imagenet_url: where the 2D weights that it can start from are; "" where there are none.
        stored: type of the weights in the file that it was read from.
        form: "conv3d"; "planar" of what `stdeploy.models.planar.planar_form` makes.
        planar_frames: T of the clips that a network in planar form takes.
        keeps_places: whether a feature belongs to a place in the clip; where features are averages
            over the clip already, each depends on all of it.
        looks_ahead: why the architecture cannot be causal, as the end of a sentence; "" where it
            can, which then builds its pools by `max_pool` too.

    Args:
        spec: the network.

    Raises:
        SpecError: it is to be causal, and the architecture cannot be.
    """

    head: "AveragePoolHead"
    keeps_places = True
    looks_ahead: ClassVar[str] = "it does not say how its pools would look back only"

    def __init__(self, spec: ModelSpec) -> None:
        if spec.causal and self.looks_ahead:
            raise SpecError(
                f"architecture {spec.architecture!r} cannot be causal: {self.looks_ahead}; leave "
                "model.causal out"
            )
        super().__init__()
        self.spec = spec
        self.imagenet_url = ""
        self.stored: Precision = "fp32"
        self.form: Form = "conv3d"
        self.planar_frames = 0

    def counterparts(self) -> Iterator[Counterpart]:
        """The filters that can start from 2D weights; none unless an architecture says so."""
        yield from ()

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised clips (N, 3, T, H, W) to features (N, C, t, h, w).

        In planar form: frames (T N, 3, H, W), see `frames_to_batch`, to features (t N, C, h, w).
        """

    def arranged(self, x: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) as `forward_features` takes them.

        Raises:
            SpecError: they have another number of frames than this planar form is for.
        """
        if self.form == "conv3d":
            return x
        if x.shape[2] != self.planar_frames:
            raise SpecError(
                f"this planar form takes clips of {self.planar_frames} frames, not {x.shape[2]}; "
                "make one for that number"
            )
        return frames_to_batch(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised clips (N, 3, T, H, W) to logits (N, K)."""
        logits: Tensor = self.head(self.forward_features(self.arranged(x)))
        return logits


def frames_to_batch(x: Tensor) -> Tensor:
    """Map clips (N, C, T, H, W) to frames (T N, C, H, W), as the planar form takes them."""
    if exporting():
        return x.permute(2, 0, 1, 3, 4).flatten(0, 1)
    # Channels of a pixel lie side by side in frames, and stay so.
    return x.permute(2, 0, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)


def exporting() -> bool:
    """Whether a program is made of the network that need not run in torch."""
    return torch.compiler.is_exporting() and _FOR_TORCH.get() is None


def runs_eagerly() -> bool:
    """Whether torch runs each operation as it is written, now or in the program that is made."""
    return _FOR_TORCH.get() == "eager" or not torch.compiler.is_compiling()


@contextlib.contextmanager
def exporting_for_torch(then: Literal["eager", "compiled"]) -> Iterator[None]:
    """What torch.export makes meanwhile runs in torch: memory formats are kept, as without it.

    Args:
        then: whether the program is run as it is, or compiled.
    """
    token = _FOR_TORCH.set(then)
    try:
        yield
    finally:
        _FOR_TORCH.reset(token)


_FOR_TORCH: contextvars.ContextVar[Literal["eager", "compiled"] | None] = contextvars.ContextVar(
    "for torch", default=None
)


class AveragePoolHead(nn.Module):
    """Average over time and space, dropout, linear classifier.

    Args:
        in_channels: C of the features.
        num_classes: K.
        window: frames averaged at a time; 0 averages all at once. The I3D of Kinetics slides a
            window of 2, which counts the inner frames twice.
        window_side: likewise, side of the squares that are averaged at a time.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, window: int = 0, window_side: int = 0
    ) -> None:
        super().__init__()
        self.window = window
        self.window_side = window_side
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, t, h, w) to (N, K)."""
        if 0 < self.window_side < max(features.shape[3:]):
            features = sliding_average(features, (1, self.window_side, self.window_side))
        frames = features.mean(dim=(3, 4))
        if 0 < self.window < frames.shape[2]:
            frames = torch.nn.functional.avg_pool1d(frames, self.window, stride=1)
        logits: Tensor = self.classifier(self.dropout(frames.mean(dim=2)))
        return logits


class SlidingAverage(nn.Module):
    """`sliding_average` as a module.

    Args:
        window: (t, h, w); 0 stands for all.
    """

    def __init__(self, window: Size3) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to (N, C, T - t + 1, H - h + 1, W - w + 1)."""
        return sliding_average(x, self.window)


def sliding_average(x: Tensor, window: Size3) -> Tensor:
    """Average features over windows that slide by one.

    Args:
        x: (N, C, T, H, W).
        window: (t, h, w); 0 stands for all, and no window is larger than that.

    Returns:
        (N, C, T - t + 1, H - h + 1, W - w + 1).
    """
    sizes = x.shape[2:]
    kernel = [min(part or size, size) for part, size in zip(window, sizes, strict=True)]
    if kernel == list(sizes):
        return x.mean(dim=(2, 3, 4), keepdim=True)
    return torch.nn.functional.avg_pool3d(x, kernel, stride=1)


def wrong_layout(spec: ModelSpec) -> SpecError:
    """The error of a network that is built from another kind of layout than its own."""
    kind = "none" if spec.layout is None else f"one of kind {spec.layout.kind!r}"
    return SpecError(f"architecture {spec.architecture!r} needs a layout of its kind, not {kind}")


def scaled(channels: int, width: float) -> int:
    """Channel count under a width factor: rounded to the nearest, at least 1."""
    return max(1, round(channels * width))


def conv_norm(
    spec: ModelSpec,
    in_channels: int,
    out_channels: int,
    kernel_size: Size3,
    *,
    stride: int | Size3 = 1,
    padding: Padding = "centred",
    eps: float = 1e-5,
    groups: int = 1,
) -> nn.Module:
    """A convolution with its norms, or the single convolution with bias that it folds into.

    Args:
        spec: decides about branches, eta, and whether the network is fused or causal.
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: (t, kH, kW), t odd.
        stride: (sT, sH, sW), or one number for space, with time left at 1.
        padding: see `TemporalFilter`.
        eps: added to the variance by the norms.
        groups: of channels, each of which sees its own alone.
    """
    strides = stride if isinstance(stride, tuple) else (1, stride, stride)
    if not spec.fused:
        return TemporalFilter(
            in_channels,
            out_channels,
            kernel_size,
            stride=strides,
            branches=spec.branches,
            eta=spec.eta,
            padding=padding,
            causal=spec.causal,
            eps=eps,
            groups=groups,
        )
    return single_convolution(
        in_channels,
        out_channels,
        kernel_size,
        stride=strides,
        padding=padding,
        causal=spec.causal,
        groups=groups,
    )
