"""The planar form of a fused network: 2D convolutions of stacked frames in place of 3D ones.

At frame i of its output, a filter W of t x kH x kW that moves by s frames, with p frames of zeros
before the clip, is one 2D filter of the t frames that it sees, stacked in channels:

    y[i] = b + sum_j W[:, :, j] * x[i s + j - p]
         = b + [W_0, .., W_t-1] * [x[i s - p]; .. ; x[i s - p + t - 1]]

where * is the 2D convolution. Pools are maxima, or means, of 2D pools of those frames; all else
acts on each frame alone. So nothing changes but the order in which products are added up, and no 3D
operation is left, for which runtimes have slower kernels, or none.

A clip (N, C, T, H, W) is kept as frames (T N, C, H, W), the same frame of all clips side by side.
T does not show in that shape, so a network in planar form takes clips of one length alone.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stdeploy.errors import SpecError
from stdeploy.layers.convolution import CausalConv3d, FramesBefore
from stdeploy.models.base import ActionModel, AveragePoolHead, SlidingAverage
from stdeploy.models.i3d_inception import SamePadding
from stdeploy.models.planar_modules import (
    PlanarFramesBefore,
    PlanarHead,
    PlanarMaxPool,
    PlanarPaddingShortcut,
    PlanarSamePadding,
    PlanarSlidingAverage,
    PlanarSlowFrames,
    PlanarSqueezeExcitation,
    StackedConv,
    SummedConv,
)
from stdeploy.models.registry import build
from stdeploy.models.resnet import PaddingShortcut
from stdeploy.models.slowfast import SlowFrames
from stdeploy.models.x3d import SqueezeExcitation

_ANY_SIDE_PX = 224  # sides change no number of frames


def planar_form(model: ActionModel, num_frames: int) -> ActionModel:
    """The same network in planar form, for clips of one length.

    Its modules keep their names, its weights are views or copies of the same numbers.

    Args:
        model: fused; it is not changed.
        num_frames: T of the clips.

    Returns:
        A network that computes the same logits.

    Raises:
        SpecError: the network is not fused, or has a module whose planar form is not known.
    """
    if model.form == "planar":
        raise SpecError("the network is in planar form already")
    if not model.spec.fused:
        raise SpecError("the planar form is that of a fused network; fuse it first")
    planar = _converted("", model, _lengths(model, num_frames))
    assert isinstance(planar, ActionModel)
    planar.form, planar.planar_frames = "planar", num_frames
    return planar.eval()


def _converted(name: str, module: nn.Module, lengths: Mapping[str, int]) -> nn.Module:
    """The planar form of a module and of all within it.

    Args:
        name: of the module in its network.
        module: it is not changed.
        lengths: T of what each module takes, by name.
    """
    if isinstance(module, tuple(_FORMS)):
        return _FORMS[type(module)](module, lengths[name])
    if isinstance(module, _OF_EACH_FRAME):
        return module
    if not module._modules:
        raise SpecError(
            f"no planar form is known of {name!r}, which is a {type(module).__name__}; export the "
            "usual form: --form conv3d"
        )
    converted = copy.copy(module)
    converted._modules = {
        key: child and _converted(f"{name}.{key}".removeprefix("."), child, lengths)
        for key, child in module._modules.items()
    }
    return converted


def _lengths(model: ActionModel, num_frames: int) -> dict[str, int]:
    """T of what each module of a network takes, by name; found on tensors without numbers."""
    with torch.device("meta"):
        shadow = build(model.spec).eval()
        clips = torch.zeros((1, 3, num_frames, _ANY_SIDE_PX, _ANY_SIDE_PX))
    lengths: dict[str, int] = {}

    def note(name: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if lengths.setdefault(name, args[0].shape[2]) != args[0].shape[2]:
            raise SpecError(
                f"no planar form is known of {name!r}, which takes clips of two lengths"
            )

    modules: Iterable[tuple[str, nn.Module]] = shadow.named_modules()
    for name, module in modules:
        if isinstance(module, tuple(_FORMS)):
            module.register_forward_pre_hook(functools.partial(note, name))
    with torch.inference_mode():
        shadow(clips)
    return lengths


def _conv(conv: nn.Conv3d, frames: int) -> nn.Module:
    if conv.groups > 1 and conv.weight.shape[2] > 1:
        return SummedConv(conv, frames)
    return StackedConv(conv, frames)


# What acts on all frames of a clip, or on their places: each with what makes its planar form.
_FORMS: Mapping[type[nn.Module], Callable[[Any, int], nn.Module]] = {
    nn.Conv3d: _conv,
    CausalConv3d: _conv,
    nn.MaxPool3d: PlanarMaxPool,
    SamePadding: PlanarSamePadding,
    FramesBefore: PlanarFramesBefore,
    PaddingShortcut: PlanarPaddingShortcut,
    SqueezeExcitation: PlanarSqueezeExcitation,
    SlidingAverage: PlanarSlidingAverage,
    SlowFrames: PlanarSlowFrames,
    AveragePoolHead: PlanarHead,
}
_OF_EACH_FRAME = (nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Identity)
