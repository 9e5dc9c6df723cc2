"""int8 by static quantisation: Q/DQ nodes, ranges from real clips, which layers to leave out.

Activations and weights are symmetric (zero point 0), weights have one scale per output channel,
as TensorRT demands and OpenVINO takes. Q/DQ pairs stand at the inputs of convolutions only: a
pair behind one would round twice, and keeps the ReLU from being fused. On a processor without
int8 products of its own (VNNI) weights take 7 of the 8 bits.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from stdeploy.artifacts.card import ParityRow
from stdeploy.artifacts.files import naming, unfinished_folder
from stdeploy.artifacts.parity import difference
from stdeploy.errors import ParityError
from stdeploy.export.verification import wider_thresholds
from stdeploy.hardware import cpu_multiplies
from stdeploy.optional_packages import require

_OP = "Conv"
_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": [_OP],
}


class Quantiser:
    """Quantises the convolutions of one float32 graph, all of them or some.

    Args:
        graph: a float32 graph with uint8 `frames` in.
        frames: uint8 (N, T, H, W, 3), the clips that the ranges are measured on.
    """

    def __init__(self, graph: onnx.ModelProto, frames: NDArray[np.uint8]) -> None:
        self._graph = onnx.shape_inference.infer_shapes(graph)
        _hold_concatenations(self._graph)
        self.layers = _layers(self._graph)
        temporary = Path(tempfile.gettempdir())
        with naming(temporary), unfinished_folder(temporary) as folder, _quiet():
            path = folder / "float32.onnx"
            onnx.save_model(self._graph, path)
            calibrator = _quantization().create_calibrator(
                path,
                [_OP],
                augmented_model_path=str(folder / "augmented.onnx"),
                providers=["CPUExecutionProvider"],
            )
            calibrator.collect_data(_Clips(frames))
            self._ranges = calibrator.compute_data()

    def quantise(self, names: Collection[str]) -> onnx.ModelProto:
        """The graph with the named layers in int8.

        Args:
            names: keys of `layers`.
        """
        nodes = [self.layers[name] for name in names]
        graph = onnx.ModelProto()
        graph.CopyFrom(self._graph)
        if not nodes:  # to the quantiser, none means all
            return graph
        with _quiet():
            quantization = _quantization()
            quantiser = quantization.QDQQuantizer(
                graph,
                per_channel=True,
                # Without such instructions a product of 8 bits can leave the 16 bits of its sum, as
                # OpenVINO computes it there; weights of 7 bits cannot.
                reduce_range=not cpu_multiplies("int8"),
                weight_qType=quantization.QuantType.QInt8,
                activation_qType=quantization.QuantType.QInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=nodes,
                nodes_to_exclude=[],
                op_types_to_quantize=[_OP],
                extra_options=_OPTIONS,
            )
            quantiser.quantize_model()
            # New nodes are appended, and ONNX wants them before those that read them.
            quantiser.model.topological_sort()
        quantised: onnx.ModelProto = quantiser.model.model
        return quantised


def _quantization() -> ModuleType:
    """Not imported with this module: ONNX Runtime starts to report unless it is kept from it."""
    return require("onnxruntime.quantization", extra="cpu", purpose="int8")


class _Clips:
    """One clip at a time for a calibrator, because it keeps what it was given."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self._frames = iter(frames)

    def get_next(self) -> dict[str, Any] | None:
        frame = next(self._frames, None)
        return None if frame is None else {"frames": frame[None]}


def _layers(graph: onnx.ModelProto) -> dict[str, str]:
    """Layer as in the network of torch -> node, by the name of its weight."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    return {
        node.input[1].removeprefix("model.").removesuffix(".weight"): node.name
        for node in graph.graph.node
        if node.op_type == _OP and node.input[1] in weights
    }


def _hold_concatenations(graph: onnx.ModelProto) -> None:
    """Put max(x, least) behind concatenations, where no number can be less, so nothing changes.

    That is 0 behind branches that are rectified, in the planar form behind stacked frames of them,
    and in a causal network behind its first frames; and what a black pixel is normalised to, behind
    stacked frames of the clip.

    NOTE: OpenVINO (seen in 2026.4) otherwise moves the quantisation behind the concatenation into
    its branches and computes something else: on real clips half of the best classes changed. It
    stops at a Clip that cuts into the range of int8, while it looks through a Relu.
    """
    nodes = graph.graph.node
    makers = {output: node for node in nodes for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    for concat in [node for node in nodes if node.op_type == "Concat"]:
        least = {_least(name, makers, constants) for name in concat.input}
        if len(least) > 1 or None in least:
            continue
        bound = f"{concat.name}_least"
        value = onnx.numpy_helper.from_array(np.array(least.pop(), np.float32), bound)
        graph.graph.initializer.append(value)
        joined = concat.output[0]
        concat.output[0] = f"{joined}_joined"
        clip = onnx.helper.make_node(
            "Clip", [concat.output[0], bound], [joined], name=f"{concat.name}_clip"
        )
        nodes.insert(list(nodes).index(concat) + 1, clip)


def _least(
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
) -> float | None:
    """The least number that a tensor can hold; None where the graph does not say."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Reshape", "Slice", "Pad", "Transpose", "MaxPool"):
        node = makers.get(node.input[0])  # padding with zeros adds none that is less than these
    if node is not None and node.op_type in ("Concat", "Max"):  # a planar max pool has the latter
        found = [_least(each, makers, constants) for each in node.input]
        known = [least for least in found if least is not None]
        return min(known) if len(known) == len(found) else None
    if node is not None and node.op_type == "Relu":
        return 0.0
    if node is not None and node.op_type == "Add" and node.input[1] in constants:
        scaled = makers.get(node.input[0])
        pixels = makers.get(scaled.input[0]) if scaled is not None else None
        if scaled is not None and scaled.op_type == "Mul" and _is_of_frames(pixels):
            offset = onnx.numpy_helper.to_array(constants[node.input[1]])
            return min(0.0, float(offset.min()))
    return None


def _is_of_frames(node: onnx.NodeProto | None) -> bool:
    """Whether a node makes numbers of 0..255 of the frames."""
    return node is not None and node.op_type == "Cast" and node.input[0] == "frames"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser gives advice through the root logger, about which no user can do anything."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


# Which layers int8 spoils: found one at a time, kept in fp32, and named.

# Enough to tell a layer that spoils from one that does not; each costs a run for every layer.
_PROBE_CLIPS = 2
# Where half of the layers do not help, int8 is not worth having.
_MOST_KEPT = 0.5


class Int8Search:
    """Quantises a graph, with as few layers left in fp32 as its gate asks for.

    Args:
        graph: in fp32.
        frames: uint8 (N, T, H, W, 3), the clips that set the ranges, which the gate must not be
            left to alone.
        answer: runs a graph on clips.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        frames: NDArray[np.uint8],
        answer: Callable[[onnx.ModelProto, NDArray[np.uint8]], NDArray[np.float32]],
    ) -> None:
        self._answer = answer
        self._quantiser = Quantiser(graph, frames)
        # Spread over the clips, which come in the order of the folder.
        chosen = np.linspace(0, len(frames) - 1, num=min(_PROBE_CLIPS, len(frames)), dtype=int)
        self._probes = frames[np.unique(chosen)]

    def run(
        self,
        failures: Callable[[onnx.ModelProto, int], list[ParityRow]],
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """Quantise all layers; if that fails, all but the worst 1, 2, 4, 8, ...

        Args:
            failures: the gate, which gives what a graph did not pass that keeps so many layers in
                fp32.
            progress: is told layers tried and in all, if they have to be.

        Returns:
            The graph, and the layers that were kept in fp32, the worst first.

        Raises:
            ParityError: half of the layers in fp32 do not help.
        """
        layers = list(self._quantiser.layers)
        graph = self._quantiser.quantise(layers)
        failed = failures(graph, 0)
        if not failed:
            return graph, ()
        ranking = self.ranking(progress)
        kept = 1
        while kept <= len(layers) * _MOST_KEPT:
            worst = tuple(name for name, _ in ranking[:kept])
            graph = self._quantiser.quantise([name for name in layers if name not in worst])
            failed = failures(graph, kept)
            if not failed:
                return graph, worst
            kept *= 2
        named = ", ".join(f"{name} ({error:.1e})" for name, error in ranking[:3])
        wider = wider_thresholds(failed)
        allowing = f"; to allow that: {wider}" if wider else ""
        raise ParityError(
            f"int8 fails its gate even with {kept // 2} of {len(layers)} layers in fp32: "
            f"{failed[0].check} {failed[0].error:.1e}, allowed {failed[0].tolerance:.1e} "
            f"({failed[0].detail}); the largest errors of single layers: {named}; nothing was "
            "written. Use more clips that are like those to be classified (--calibrate, "
            f"--calibration-clips) or --precision fp16{allowing}"
        )

    def ranking(
        self, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> list[tuple[str, float]]:
        """Layers with the mean error that each makes alone in int8, the worst first."""
        expected = self._answer(self._quantiser.quantise(()), self._probes)
        layers = list(self._quantiser.layers)
        errors = {}
        for done, name in enumerate(layers, start=1):
            logits = self._answer(self._quantiser.quantise((name,)), self._probes)
            errors[name] = difference(expected, logits).mean_error
            progress(done, len(layers))
        return sorted(errors.items(), key=lambda item: -item[1])
