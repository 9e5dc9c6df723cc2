"""Section 5 of the paper: the effective receptive field, what the network sees in space and time.

After Luo et al. (NeurIPS 2016): the gradient of the unit in the centre of the last feature map
with respect to the input, over many clips.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stdeploy.analysis.filters import spread
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.errors import ArtifactError, DatasetError, SpecError, VideoError
from stdeploy.fusion import fuse_model
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.models.frames_to_logits import FrameNormalisation
from stdeploy.models.registry import build
from stdeploy.video.clips import middle_clips

Array = NDArray[np.float64]

_ONE_CHANNEL = 1e-6  # a width at which every layer has one channel


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of one unit, over one or many clips.

    The unit in the centre of the features; of a causal network, which looks back only, the one in
    the centre of the last of them.

    Attributes:
        density: mean over clips of |d unit / d pixel|, summed over colours, (T, H, W);
            sums to 1.
        clips: how many.
        interval_seconds: time between two of the T frames.
        theoretical: extents (frames, pixels, pixels) that the unit could see of an endless clip;
            the clip may be shorter.
        causal: whether the network looks back only.
    """

    density: Array
    clips: int
    interval_seconds: float
    theoretical: tuple[int, int, int]
    causal: bool = False

    @property
    def over_time(self) -> Array:
        """Marginal over the frames, (T,), sums to 1 (figure 4b)."""
        return np.asarray(self.density.sum(axis=(1, 2)))

    @property
    def over_space(self) -> Array:
        """Marginal over Y and X, (H, W), sums to 1 (figure 4a, above)."""
        return np.asarray(self.density.sum(axis=0))

    @property
    def over_x_and_time(self) -> Array:
        """Marginal over frames and X, (T, W), sums to 1 (figure 4a, below)."""
        return np.asarray(self.density.sum(axis=1))

    @property
    def spread_frames(self) -> float:
        """Standard deviation along time, in frames of the clip (figure 4b, legend)."""
        return spread(self.over_time)

    @property
    def spread_seconds(self) -> float:
        """Standard deviation along time, in seconds."""
        return self.spread_frames * self.interval_seconds

    @property
    def spread_px(self) -> tuple[float, float]:
        """Standard deviations along Y and X, in pixels."""
        space = self.over_space
        return spread(space.sum(axis=1)), spread(space.sum(axis=0))


def receptive_field(
    model: ActionModel,
    clip: ClipSpec,
    inputs: Iterable[Tensor],
    progress: Callable[[int], None] = lambda _: None,
) -> ReceptiveField:
    """Measure the effective receptive field.

    The unit is the mean over all channels of the features at the centre frame and pixel, before
    the pooling of the head; of a causal network at the last frame, which sees most. Its gradient is
    taken in evaluation mode; the absolute value is taken before clips are averaged, since gradients
    of either sign show that a pixel is seen.

    Args:
        model: fused or not; its weights and mode are left as they are.
        clip: what it sees.
        inputs: normalised clips, (3, T, H, W) each.
        progress: is told how many clips are done.

    Raises:
        ArtifactError: the gradient is 0 or not finite.
        SpecError: no unit of the network belongs to a place.
    """
    _check_keeps_places(model)
    total: Array | None = None
    count = 0
    was_training = model.training
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        for one in inputs:
            gradient = _gradient(model, one[None]).abs().sum(dim=1)[0]
            total = gradient.double().numpy() + (0.0 if total is None else total)
            count += 1
            progress(count)
    finally:
        model.train(was_training)
        for parameter, want in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(want)
    if total is None or not np.isfinite(total).all() or not total.sum() > 0:
        raise ArtifactError(
            f"the gradient of the centre unit is 0 or not finite (clips: {count}); are the "
            "weights those of a trained network?"
        )
    return ReceptiveField(
        density=total / total.sum(),
        clips=count,
        interval_seconds=clip.interval_seconds,
        theoretical=theoretical_extents(model.spec),
        causal=model.spec.causal,
    )


def gaussian_clips(clip: ClipSpec, count: int, seed: int = 0) -> Iterator[Tensor]:
    """Clips of independent standard normal numbers, which need no video.

    Yields:
        (3, T, H, W) each.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (3, clip.num_frames, clip.crop_px, clip.crop_px)
    for _ in range(count):
        yield torch.randn(shape, generator=generator)


def theoretical_extents(spec: ModelSpec) -> tuple[int, int, int]:
    """How much one unit could see of an endless clip.

    Measured on a network of one channel in which every weight is positive and every pool
    averages, so that no path cancels another: what has a gradient there can be seen.

    >>> theoretical_extents(ModelSpec(architecture="i3d-resnet18", num_classes=2,
    ...                               temporal_lengths=(1, 1, 3, 3, 5), branches="single"))
    (33, 435, 435)

    Returns:
        Extents in frames, and pixels down and across.

    Raises:
        SpecError: no unit of the network belongs to a place.
    """
    single = {"branches": "single", "eta": 1.0, "width": _ONE_CHANNEL, "num_classes": 1}
    model = build(spec.model_copy(update=single | {"fused": True})).eval()
    _check_keeps_places(model)
    _see_everything(model)
    frames, side = _extent(model, axis=0, size=64), _extent(model, axis=1, size=512)
    return frames, side, side


def _gradient(model: ActionModel, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        features = model.forward_features(x)
        frames, *sides = features.shape[2:]
        frame = frames - 1 if model.spec.causal else frames // 2
        unit = features[0, :, frame, sides[0] // 2, sides[1] // 2].mean()
    (gradient,) = torch.autograd.grad(unit, x)
    return gradient


def _check_keeps_places(model: ActionModel) -> None:
    if not model.keeps_places:
        raise SpecError(
            f"features of {model.spec.architecture!r} are averages over the clip, so that none of "
            "them has a receptive field"
        )


def _see_everything(model: nn.Module) -> None:
    """Positive weights and averages, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv3d):
            nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MaxPool3d):
            parent, _, attribute = name.rpartition(".")
            pool = nn.AvgPool3d(module.kernel_size, module.stride, module.padding)
            setattr(model.get_submodule(parent), attribute, pool)


def _extent(model: ActionModel, *, axis: int, size: int) -> int:
    """How far the gradient reaches along time (axis 0) or space (axis 1).

    Args:
        model: see above.
        axis: that is looked along.
        size: of the clip on that axis to begin with; it is doubled until the border is unseen.
    """
    while True:
        # On the other axes as much as the deepest layers need to have a kernel's size.
        shape = (1, 3, size, 128, 128) if axis == 0 else (1, 3, 32, size, 128)
        gradient = _gradient(model, torch.ones(shape))[0].abs()
        reached = (gradient.sum(dim=(0, 2, 3)) if axis == 0 else gradient.sum(dim=(0, 1, 3))) > 0
        places = torch.nonzero(reached).flatten()
        # Behind the last unit, which is that of a causal network, there is nothing to be seen.
        whole = axis == 0 and model.spec.causal
        if places[0] > 0 and (whole or places[-1] < size - 1):
            return int(places[-1] - places[0]) + 1
        size *= 2


def field_of_file(
    path: Path,
    videos: Sequence[Path] = (),
    *,
    clips: int,
    num_frames: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ReceptiveField:
    """The effective receptive field of a network in a file.

    Branches and norms are folded first, in memory: the field stays the same, and is computed
    sooner (I3D-ResNet-50 with branches: 1.6 times).

    Args:
        path: a .pt or .fused.safetensors file of ours.
        videos: whose middle clips are looked at, evenly chosen; none for Gaussian noise.
        clips: how many, at most.
        num_frames: of a clip; None for the network's own. A field that is cut off at the ends of
            a short clip shows its width in a longer one.
        progress: is told clips done and wanted.

    Raises:
        ArtifactError: no such file, or its gradient is 0 or not finite.
        SpecError: no unit of the network belongs to a place.
        DatasetError: no video can be read.
    """
    model, card = load_model(path)
    clip = card.clip.model_copy(update={"num_frames": num_frames or card.clip.num_frames})
    inputs: Iterator[Tensor] = (
        _clips_of(videos, clip, clips) if videos else gaussian_clips(clip, clips)
    )
    count = min(clips, len(videos)) if videos else clips
    return receptive_field(folded(model), clip, inputs, progress=lambda done: progress(done, count))


def folded(model: ActionModel) -> ActionModel:
    """The same network with single filters, in float32."""
    return model if model.spec.fused else fuse_model(model).float()


def _clips_of(videos: Sequence[Path], clip: ClipSpec, count: int) -> Iterator[Tensor]:
    """The middle clips of videos, normalised, (3, T, H, W) each; broken ones are passed over.

    Raises:
        DatasetError: none can be read.
    """
    normalise = FrameNormalisation(clip)
    try:
        for frames in middle_clips(videos, clip, count=count):
            yield normalise(torch.from_numpy(frames[None]))[0]
    except VideoError as error:
        raise DatasetError(str(error)) from error
