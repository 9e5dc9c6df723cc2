"""The streaming form of a fused network: the next frames in, what layers kept in, answers out.

At frame i of its output, a filter of t frames needs what came out of the layer before at t of its
frames, of which all but the newest are there from earlier calls. So each layer keeps those, and
computes what is new. A filter that looks p frames ahead answers p frames late; paths that meet wait
for the latest. Before the first frame and behind the last a filter sees what it sees there in the
network that has the whole video at once: zeros, or the first frame again where the network is
causal. So both say the same, from the first frame to the last.

The forward code of the network is traced by torch.fx, on tensors without numbers, and written down
again with modules of streaming_modules.py in place of its own.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from stdeploy.artifacts.spec import DEFAULT_WINDOW_FRAMES, ClipSpec, StateSpec, StreamSpec
from stdeploy.errors import SpecError, check_count
from stdeploy.layers.convolution import FramesBefore
from stdeploy.models.base import ActionModel, SlidingAverage
from stdeploy.models.frames_to_logits import FrameNormalisation
from stdeploy.models.i3d_inception import SamePadding
from stdeploy.models.planar_modules import (
    ConvOfStackedFrames,
    PlanarMaxPool,
    SummedConv,
    Taps,
    taps_of,
    three,
)
from stdeploy.models.registry import build
from stdeploy.models.resnet import PaddingShortcut
from stdeploy.models.slowfast import SlowFrames
from stdeploy.models.streaming_modules import (
    Begins,
    Delay,
    FrameMask,
    Kept,
    StreamedConv,
    StreamedHead,
    StreamedMaxPool,
    StreamedPadding,
    StreamedPaddingShortcut,
    Timing,
)
from stdeploy.models.x3d import SqueezeExcitation

_FRAMES_FOR_SHAPES = 4096  # a number of frames that every stride in time divides
_LOWEST = -65504.0  # of float16

_OF_EACH_FRAME = (nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Identity)
_OF_FRAMES = (nn.Conv3d, nn.MaxPool3d, SamePadding, FramesBefore, PaddingShortcut)
# What looks at all frames of a clip, each with the reason why it cannot be streamed.
_OF_CLIPS: Mapping[type[nn.Module], str] = {
    SqueezeExcitation: "weighs channels by an average over all frames of a clip",
    SlidingAverage: "averages over all frames of a clip before the last layers",
    SlowFrames: "chooses frames by the length of a clip",
}
_NEVER_NEGATIVE = (nn.ReLU, nn.Sigmoid)
_SUMS: tuple[Callable[..., Any], ...] = (operator.add, torch.add)


class StreamingNetwork(nn.Module):
    """A network that takes a stream frame by frame.

    Args:
        trunk: frames and states to features and states, made by `streaming_form`.
        head: to logits.
        clip: how pixels are normalised.
        spec: what goes in and out.
    """

    def __init__(
        self, trunk: fx.GraphModule, head: StreamedHead, clip: ClipSpec, spec: StreamSpec
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.normalise = FrameNormalisation(clip)
        self.spec = spec

    def forward(
        self, frames: Tensor, position: Tensor, length: Tensor, states: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Take the next K frames of N streams.

        Args:
            frames: uint8 (N K, H, W, 3), RGB; those of a stream side by side.
            position: int32 (N,), how many frames of each stream came before; a multiple of K.
            length: int32 (N,), how many frames the stream has; a number that is never reached
                where it has no end. Frames from there on may be anything.
            states: as `StreamSpec.states` says, (N, ...); those of a stream at its start are full
                of `StateSpec.fill`.

        Returns:
            Logits (N, classes) of the average over the newest window of places in time, logits
            (N, K', classes) of each place that is new, K' = K / `StreamSpec.stride_frames`, and
            the states for the next call.
        """
        weight = self.head.classifier.weight
        x = self.normalise.of_frames(frames)
        x = x.to(self._trunk_dtype(weight.dtype))
        *trunk_states, pooled = states
        features, *kept = self.trunk(x, position, length, *trunk_states)
        logits, each, rest = self.head(features.to(weight.dtype), position, length, pooled)
        return logits, each, [*kept, rest]

    def _trunk_dtype(self, otherwise: torch.dtype) -> torch.dtype:
        return next((each.dtype for each in self.trunk.parameters()), otherwise)


def streaming_form(
    model: ActionModel,
    clip: ClipSpec,
    *,
    frames_per_call: int | None = None,
    window: int = DEFAULT_WINDOW_FRAMES,
) -> StreamingNetwork:
    """The same network, for streams.

    Args:
        model: fused, not in planar form; it is not changed.
        clip: for the side of frames and how pixels are normalised.
        frames_per_call: K, a multiple of the network's stride in time; None for that stride.
        window: frames whose places in time the head averages; a multiple of that stride, at least
            K.

    Raises:
        SpecError: the network is not fused, a number that does not fit its stride, or a module that
            looks at all frames of a clip or whose streaming form is not known.
    """
    if frames_per_call is not None:
        check_count("frames_per_call", frames_per_call)
    check_count("window", window)
    if model.form != "conv3d":
        raise SpecError(
            f"the streaming form is made of the usual form, not of the {model.form} one"
        )
    if not model.spec.fused:
        raise SpecError("the streaming form is that of a fused network; fuse it first")
    shadow, graph = _traced(model, clip)
    *_, last = graph.nodes
    stride = round(_FRAMES_FOR_SHAPES / last.args[0].meta["tensor_meta"].shape[2])
    count = stride if frames_per_call is None else frames_per_call
    steps = _Steps(model, count, stride)
    for node in graph.nodes:
        steps.take(node, shadow)
    if window % stride or window < count:
        raise SpecError(
            f"window = {window} frames: a multiple of {stride}, the stride of the network in time, "
            f"and at least the {count} frames of a call is wanted"
        )
    head = StreamedHead(model.head, steps.timing, window // stride)
    classifier = model.head.classifier
    places = (head.window - steps.timing.frames, classifier.in_features)
    pooled = StateSpec(name="pooled", shape=places, type=_type_name(classifier.weight.dtype))
    spec = StreamSpec(
        frames_per_call=count,
        window_frames=window,
        stride_frames=stride,
        delay_places=steps.timing.delay,
        sliding_places=head.sliding,
        states=(*steps.states, pooled),
    )
    network = StreamingNetwork(steps.trunk(), head, clip, spec).to(classifier.weight.device)
    if classifier.weight.dtype == torch.float64:
        network.normalise.double()
    return network.eval()


def _traced(model: ActionModel, clip: ClipSpec) -> tuple[nn.Module, fx.Graph]:
    """The forward code of a network as a graph with the shape of each tensor."""
    with torch.device("meta"):
        shadow = build(model.spec).eval()
        frames = torch.zeros((1, 3, _FRAMES_FOR_SHAPES, clip.crop_px, clip.crop_px))
    try:
        graph = _Tracer().trace(shadow)
    except (fx.proxy.TraceError, TypeError) as error:
        raise SpecError(
            f"no streaming form is known of architecture {model.spec.architecture!r}, whose "
            f"forward code cannot be traced: {error}"
        ) from error
    with torch.inference_mode():
        ShapeProp(fx.GraphModule(shadow, graph)).propagate(frames)
    return shadow, graph


class _Tracer(fx.Tracer):
    """Follows `forward_features` down to the modules that have a streaming form, or none."""

    traced_func_name = "forward_features"

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kinds = (*_OF_FRAMES, *_OF_EACH_FRAME, *_OF_CLIPS)
        return isinstance(m, kinds) or super().is_leaf_module(m, module_qualified_name)


class _Value(NamedTuple):
    """A node of the new graph that stands for one of the old."""

    node: fx.Node
    timing: Timing
    shape: tuple[int, int, int]
    never_negative: bool = False


class _Steps:
    """Writes the graph of the streaming form, node by node.

    Args:
        model: the network, for its weights.
        frames_per_call: K.
        stride: frames of a video for one place in time of its features.
    """

    def __init__(self, model: ActionModel, frames_per_call: int, stride: int) -> None:
        self._model = model
        self._stride = stride
        self._modules: dict[str, nn.Module] = {}
        self._graph = fx.Graph()
        self._values: dict[fx.Node, _Value] = {}
        self._kept: list[fx.Node] = []  # what the states become
        self._masks: dict[Timing, fx.Node] = {}
        self._late: dict[tuple[fx.Node, int], fx.Node] = {}
        # A causal network sees no frame behind the last, and before the first that one again.
        self._causal = model.spec.causal
        self._begun: fx.Node | None = None
        self._frames = frames_per_call
        self._x, self._position, self._length = (
            self._graph.placeholder(name) for name in ("x", "position", "length")
        )
        self._last_input = self._length
        self.states: list[StateSpec] = []
        self.timing = Timing(frames_per_call)  # of the features, in the end

    def take(self, node: fx.Node, shadow: nn.Module) -> None:
        """Write what stands for a node.

        Args:
            node: of the network.
            shadow: the network, without numbers.

        Raises:
            SpecError: no streaming form of it is known.
        """
        if node.op == "placeholder":
            timing = Timing(self._frames)
            self._values[node] = _Value(self._x, timing, _shape(node))
        elif node.op == "output":
            features = self._value(node.args[0])
            self.timing = features.timing
            self._graph.output((features.node, *self._kept))
        elif node.op == "call_module":
            name = str(node.target)
            source = self._value(node.args[0])
            module = self._model.get_submodule(name)
            if type(module) is not type(shadow.get_submodule(name)):
                raise _unknown(name, module)
            self._values[node] = self._module(name, module, source, node)
        elif node.op == "call_function" and node.target in (*_SUMS, torch.cat):
            self._values[node] = self._meeting(node)
        else:
            raise SpecError(
                f"no streaming form is known of architecture {self._model.spec.architecture!r}, "
                f"which calls {node.target} on its features"
            )

    def trunk(self) -> fx.GraphModule:
        """Frames (N K, 3, H, W), position, length and states to features and new states."""
        return fx.GraphModule(self._modules, self._graph)

    def _value(self, argument: object) -> _Value:
        assert isinstance(argument, fx.Node)
        return self._values[argument]

    def _module(self, name: str, module: nn.Module, source: _Value, node: fx.Node) -> _Value:
        """The streaming form of a module."""
        if isinstance(module, _OF_EACH_FRAME):
            self._modules[name] = self._model.get_submodule(name)
            made = self._graph.call_module(name, (source.node,))
            never_negative = (
                source.never_negative
                if isinstance(module, nn.Identity)
                else (isinstance(module, _NEVER_NEGATIVE))
            )
            return _Value(made, source.timing, _shape(node), never_negative)
        if isinstance(module, SamePadding | FramesBefore):
            return self._padding(name, module, source, node)
        for kind, reason in _OF_CLIPS.items():
            if isinstance(module, kind):
                raise SpecError(f"a stream cannot be given to a network of which {name!r} {reason}")
        if not isinstance(module, _OF_FRAMES):
            raise _unknown(name, module)
        taps = _window_of(module)
        if source.timing.frames % taps.stride:
            raise SpecError(
                f"frames_per_call = {self._frames}: the network strides in time, in {name!r}; a "
                f"multiple of {self._stride} is wanted"
            )
        window, timing = Kept.of(source.timing, *taps[1:5])
        sees_edges = bool(taps.before or taps.after)
        # Zeros in front of a pool are what stands there where nothing negative is pooled.
        fill = _LOWEST if sees_edges and not source.never_negative and not self._causal else 0.0
        self._modules[name], shape = _streamed(
            self._model.get_submodule(name), window, source.shape, fill
        )
        fill = float(cast(float, self._modules[name].fill))
        valid = self._mask(source.timing) if sees_edges and not self._causal else None
        made = self._with_state(
            name,
            (source.node, valid),
            (window.kept * shape[0], *shape[1:]),
            fill,
            begins=self._begins() if self._causal and window.kept else None,
        )
        never_negative = isinstance(module, nn.MaxPool3d) and source.never_negative
        return _Value(made, timing, _shape(node), never_negative)

    def _padding(
        self, name: str, module: SamePadding | FramesBefore, source: _Value, node: fx.Node
    ) -> _Value:
        """Frames before the first, which then has another number, and behind the last."""
        if isinstance(module, SamePadding):
            before, after = module.in_time(_FRAMES_FOR_SHAPES)
            self._modules[name] = StreamedPadding(module.kernel_size, module.stride)
        else:
            before, after = module.frames, 0
            self._modules[name] = StreamedPadding((1, 1, 1), (1, 1, 1))
        valid = self._mask(source.timing) if (before or after) and not self._causal else None
        made = self._graph.call_module(name, (source.node, valid))
        timing = source.timing._replace(
            delay=source.timing.delay - before,
            counts=(*source.timing.counts, (before + after - 1, 1)),
        )
        return _Value(made, timing, _shape(node), source.never_negative)

    def _meeting(self, node: fx.Node) -> _Value:
        """A sum, or a concatenation, of paths of which some wait for others."""
        listed = node.args[0] if node.target is torch.cat else node.args
        paths = [self._value(each) for each in cast(tuple[fx.Node, ...], listed)]
        if node.target is torch.cat and (*node.args[1:], *node.kwargs.values()) != (1,):
            raise SpecError(
                "no streaming form is known of a concatenation over another axis than channels"
            )
        latest = max((path.timing for path in paths), key=lambda timing: timing.delay)
        if any(path.timing[::2] != latest[::2] for path in paths):
            raise SpecError(
                f"no streaming form is known of {node.name!r}, where paths meet whose strides in "
                "time differ"
            )
        nodes = [self._delayed(path, latest.delay) for path in paths]
        arguments = (nodes, 1) if node.target is torch.cat else tuple(nodes)
        made = self._graph.call_function(cast(Callable[..., Any], node.target), arguments)
        never_negative = all(path.never_negative for path in paths)
        return _Value(made, latest, _shape(node), never_negative)

    def _delayed(self, path: _Value, delay: int) -> fx.Node:
        """A path, with its frames so late."""
        late = delay - path.timing.delay
        if late and (path.node, late) not in self._late:
            name = f"delay{len(self._late)}"
            self._modules[name] = Delay(path.timing.frames, late)
            channels, *sides = path.shape
            made = self._with_state(name, (path.node,), (late * channels, *sides), 0.0)
            self._late[path.node, late] = made
        return self._late[path.node, late] if late else path.node

    def _begins(self) -> fx.Node:
        if self._begun is None:
            self._modules["begins"] = Begins()
            self._begun = self._graph.call_module("begins", (self._position,))
        return self._begun

    def _mask(self, timing: Timing) -> fx.Node:
        if timing not in self._masks:
            name = f"valid{len(self._masks)}"
            self._modules[name] = FrameMask(timing)
            self._masks[timing] = self._graph.call_module(name, (self._position, self._length))
        return self._masks[timing]

    def _with_state(
        self,
        name: str,
        arguments: tuple[fx.Node | None, ...],
        shape: tuple[int, ...],
        fill: float,
        *,
        begins: fx.Node | None = None,
    ) -> fx.Node:
        """Call a module that keeps frames; of no channels where it keeps none."""
        state = None
        if shape[0]:
            with self._graph.inserting_after(self._last_input):
                state = self._graph.placeholder(f"state{len(self.states)}")
            self._last_input = state
            dtype = next(self._model.parameters()).dtype
            self.states.append(StateSpec(name=name, shape=shape, fill=fill, type=_type_name(dtype)))
        named: dict[str, Any] = {} if begins is None else {"begins": begins}
        results = self._graph.call_module(name, (*arguments, state), named)
        if state is not None:
            self._kept.append(self._graph.call_function(operator.getitem, (results, 1)))
        return self._graph.call_function(operator.getitem, (results, 0))


def _unknown(name: str, module: nn.Module) -> SpecError:
    kind = type(module).__name__
    return SpecError(f"no streaming form is known of {name!r}, which is a {kind}")


def _window_of(module: nn.Module) -> Taps:
    """What a module sees in time; of no number of frames."""
    if isinstance(module, nn.Conv3d):
        return taps_of(module, 0)
    if isinstance(module, nn.MaxPool3d):
        length, stride, padding = (
            three(each)[0] for each in (module.kernel_size, module.stride, module.padding)
        )
        return Taps(0, length, stride, padding, padding)
    assert isinstance(module, PaddingShortcut)
    return Taps(0, 1, module.stride[0])


def _streamed(
    module: nn.Module, window: Kept, shape: tuple[int, int, int], fill: float
) -> tuple[nn.Module, tuple[int, int, int]]:
    """The streaming form of a module, and the shape of the frames that it keeps."""
    if isinstance(module, nn.Conv3d):
        if module.groups > 1 and window.length > 1:
            return StreamedConv(SummedConv(module, window.frames).convs, window), shape
        return StreamedConv(ConvOfStackedFrames(module), window), shape
    if isinstance(module, nn.MaxPool3d):
        pool = PlanarMaxPool(module, window.frames).pool
        channels, height, width = pool(torch.zeros((1, *shape), device="meta")).shape[1:]
        return StreamedMaxPool(pool, window, fill), (channels, height, width)
    assert isinstance(module, PaddingShortcut)
    step = module.stride[1]
    kept = (shape[0], -(-shape[1] // step), -(-shape[2] // step))
    return StreamedPaddingShortcut(module, window), kept


def _shape(node: fx.Node) -> tuple[int, int, int]:
    """(C, H, W) of what a node gives."""
    _clips, channels, _frames, height, width = node.meta["tensor_meta"].shape
    return channels, height, width


def _type_name(dtype: torch.dtype) -> Literal["float16", "float32", "float64", "bfloat16"]:
    name: Any = str(dtype).removeprefix("torch.")
    return cast('Literal["float16", "float32", "float64", "bfloat16"]', name)
