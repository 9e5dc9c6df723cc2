"""What a network computes, layer by layer: its numbers, its windows, and what feeds each layer.

The network of torch runs on tensors without numbers (the "meta" device), which takes no memory
and next to no time, and is watched: what a layer reads is found from the calls that are made.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stdeploy.artifacts.spec import ClipSpec, Form
from stdeploy.models.base import ActionModel
from stdeploy.models.frames_to_logits import FrameNormalisation, FramesToLogits
from stdeploy.models.planar import planar_form
from stdeploy.models.planar_modules import (
    PlanarFramesBefore,
    PlanarMaxPool,
    PlanarSamePadding,
    StackedConv,
    SummedConv,
)
from stdeploy.models.registry import build

FRAMES = "frames"

# Numbers along T, H, W; of the planar form along H, W.
Size = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Padding:
    """Zeros around (T, H, W), in frames and pixels.

    Attributes:
        before: in front of each axis.
        after: behind each axis.
    """

    before: Size = (0, 0, 0)
    after: Size = (0, 0, 0)

    def plus(self, other: "Padding | None") -> Self:
        """Both, one around the other."""
        if other is None:
            return self
        return dataclasses.replace(
            self,
            before=tuple(a + b for a, b in zip(self.before, other.before, strict=True)),
            after=tuple(a + b for a, b in zip(self.after, other.after, strict=True)),
        )


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel moves over (T, H, W).

    Attributes:
        kernel: its extent, (t, kH, kW).
        stride: (sT, sH, sW).
        padding: its own, and that of a padding right before it.
        dilation: steps between taps, (dT, dH, dW).
        groups: of channels; 1 for a pool.
    """

    kernel: Size
    stride: Size
    padding: Padding
    dilation: Size = (1, 1, 1)
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A tensor as it is stored.

    Attributes:
        stored: float32, float16 or bfloat16, or int8.
        step: of int8, the value of one step, (C_out,) or one for all.
        zero: of int8, the integer that stands for 0, of the same shape.
        axis: along which `step` runs.
    """

    stored: NDArray[Any] = dataclasses.field(repr=False)
    step: NDArray[np.float32] | None = None
    zero: NDArray[np.int8] | None = None
    axis: int = 0

    def values(self) -> NDArray[np.float64]:
        """The numbers that are meant: widened, or (stored - zero) * step."""
        wide = np.asarray(self.stored.astype(np.float64))
        if self.step is None:
            return wide
        if self.zero is not None:
            wide -= self._along_axis(self.zero)
        return np.asarray(wide * self._along_axis(self.step))

    def _along_axis(self, per_channel: NDArray[Any]) -> NDArray[np.float64]:
        wide = per_channel.astype(np.float64)
        if wide.size == 1:
            return wide.reshape(())
        shape = [1] * self.stored.ndim
        shape[self.axis] = wide.size
        return wide.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, or the linear classifier.

    Attributes:
        name: such as "conv3.0.conv1".
        weight: (C_out, C_in / groups, t, kH, kW), of the classifier (K, C); in planar form
            (C_out, t C_in / groups, kH, kW).
        bias: (C_out,).
        window: None for the classifier.
        inputs: names of the layers whose outputs come to it without passing another layer, or
            "frames".
        stacked: in planar form, for each of the t frames that are stacked, or for the one that is
            taken, its number at all stops, see `Taps.numbers`; empty where frames come as they are.
    """

    name: str
    weight: Numbers
    bias: Numbers | None
    window: Window | None
    inputs: frozenset[str]
    stacked: tuple[tuple[int, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class Pool:
    """A max pooling.

    Attributes:
        window: how it moves.
        inputs: see `Layer`.
    """

    window: Window
    inputs: frozenset[str]


@dataclasses.dataclass(frozen=True)
class NetworkLayers:
    """All layers of a network, in the order in which they run.

    Attributes:
        scale: what frames of 0..255 are multiplied by, float32 (3,).
        offset: what is added then, float32 (3,).
        layers: convolutions and classifier.
        pools: max poolings.
        form: of the network.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    layers: tuple[Layer, ...]
    pools: tuple[Pool, ...]
    form: Form = "conv3d"


def layers_of(model: ActionModel, clip: ClipSpec) -> NetworkLayers:
    """The layers of a fused network.

    Args:
        model: fused, float32; what is given keeps its numbers if the model is changed to another
            type afterwards.
        clip: the frames that it sees.
    """
    with torch.device("meta"):
        network = build(model.spec).eval()
        if model.form == "planar":
            network = planar_form(network, clip.num_frames)
        shadow = FramesToLogits(network, clip).eval()
        frames = torch.zeros((1, *clip.frames_shape), dtype=torch.uint8)
    recorder = _Recorder(_numbers_of(model))
    hooks = recorder.watch(shadow.model)
    try:
        with torch.inference_mode(), recorder:
            recorder.inputs[id(frames)] = frozenset({FRAMES})
            shadow(frames)
    finally:
        for remove in hooks:
            remove()
    normalise = FrameNormalisation(clip)
    return NetworkLayers(
        scale=normalise.scale.numpy(),
        offset=normalise.offset.numpy(),
        layers=tuple(recorder.layers),
        pools=tuple(recorder.pools),
        form=model.form,
    )


def _numbers_of(model: ActionModel) -> dict[str, Numbers]:
    return {name: Numbers(tensor.detach().numpy()) for name, tensor in model.state_dict().items()}


class _Recorder(TorchFunctionMode):
    """Notes which layer reads what while a network runs.

    Args:
        numbers: of the network, by the names of its parameters.
    """

    def __init__(self, numbers: Mapping[str, Numbers]) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.pools: list[Pool] = []
        self.inputs: dict[int, frozenset[str]] = {}
        self._numbers = numbers
        self._stacked: dict[str, tuple[tuple[int, ...], ...]] = {}
        self._taken: dict[int, tuple[tuple[int, ...], ...]] = {}
        self._paddings: dict[int, Padding] = {}
        self._alive: list[Tensor] = []  # so that no id is used twice

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, and note what its results come from."""
        named = kwargs or {}
        result = func(*args, **named)
        tensors = _tensors(result)
        if tensors:
            sources = [self.inputs.get(id(each), frozenset()) for each in _tensors([args, named])]
            for tensor in tensors:
                self.inputs[id(tensor)] = frozenset().union(*sources)
            self._alive += tensors
            if func is nn.functional.pad:
                self._note_padding(result, *args, **named)
        return result

    def watch(self, model: nn.Module) -> list[Callable[[], None]]:
        """Hooks on all layers and pools; what removes them."""
        handles = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv3d | nn.Conv2d | nn.Linear):
                handles.append(module.register_forward_hook(partial(self._note_layer, name)))
            if isinstance(module, PlanarMaxPool | PlanarSamePadding | PlanarFramesBefore):
                handles.append(module.register_forward_hook(self._note_taken))
            if isinstance(module, StackedConv) and not module.taps.in_place:
                self._stacked[name] = module.taps.numbers
            elif isinstance(module, SummedConv):
                for tap, numbers in enumerate(module.taps.numbers):
                    self._stacked[f"{name}.convs.{tap}"] = (numbers,)
            elif isinstance(module, nn.MaxPool3d | nn.MaxPool2d):
                handles.append(module.register_forward_hook(self._note_pool))
        return [handle.remove for handle in handles]

    def _note_padding(
        self, result: Tensor, x: Tensor, pad: list[int], mode: str = "constant", value: float = 0
    ) -> None:
        axes = x.dim() - 2  # of a window
        # Of channels and of the batch, where frames are in the planar form, it is no window's.
        if mode == "constant" and not value and len(pad) <= 2 * axes:
            sizes = [*pad, *[0] * (2 * axes - len(pad))]  # the last axis comes first
            own = Padding(tuple(sizes[-2::-2]), tuple(sizes[-1::-2]))
            self._paddings[id(result)] = own.plus(self._paddings.get(id(x)))

    def _note_layer(self, name: str, module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        (x,) = args
        window = None
        if isinstance(module, nn.Conv3d | nn.Conv2d):
            # NOTE: a word such as "same" would mean a padding that depends on the kernel; the
            # convolutions that `conv_norm` and `TemporalFilter.fold` make have numbers.
            assert not isinstance(module.padding, str)
            own = Padding(module.padding, module.padding)
            # Frames that are stacked come between a padding and the convolution.
            window = Window(
                kernel=module.kernel_size,
                stride=module.stride,
                padding=own if name in self._stacked else own.plus(self._paddings.get(id(x))),
                dilation=module.dilation,
                groups=module.groups,
            )
        self.layers.append(
            Layer(
                name=name,
                weight=self._numbers[f"{name}.weight"],
                bias=self._numbers.get(f"{name}.bias"),
                window=window,
                inputs=self.inputs[id(x)],
                stacked=self._stacked.get(name, self._taken.get(id(x), ())),
            )
        )
        self.inputs[id(out)] = frozenset({name})

    def _note_taken(
        self,
        module: PlanarMaxPool | PlanarSamePadding | PlanarFramesBefore,
        _args: tuple[Tensor],
        out: Tensor,
    ) -> None:
        """What takes some of its frames, and stacks none: in a graph the next layer shows it."""
        if module.taps.length == 1 and not module.taps.in_place:
            self._taken[id(out)] = module.taps.numbers

    def _note_pool(self, module: nn.Module, args: tuple[Tensor], _out: Tensor) -> None:
        (x,) = args
        assert isinstance(module, nn.MaxPool3d | nn.MaxPool2d)
        axes = x.dim() - 2
        window = Window(
            kernel=_size(module.kernel_size, axes),
            stride=_size(module.stride, axes),
            padding=self._padding(x, _size(module.padding, axes)),
            dilation=_size(module.dilation, axes),
        )
        self.pools.append(Pool(window, self.inputs[id(x)]))

    def _padding(self, x: Tensor, own: Size) -> Padding:
        return Padding(own, own).plus(self._paddings.get(id(x)))


def _size(value: int | Size, axes: int) -> Size:
    return (value,) * axes if isinstance(value, int) else value


def _tensors(value: Any) -> list[Tensor]:
    """The tensors among arguments or results, which may be lists and tables of them."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
