"""int8 by static quantisation: Q/DQ nodes before every convolution, ranges from real clips.

Activations and weights are symmetric (zero point 0), weights have one scale per output channel,
as TensorRT demands and OpenVINO takes. Q/DQ pairs stand at the inputs of convolutions only: a
pair behind one would round twice, and keeps the ReLU from being fused. On a processor without
int8 products of its own (VNNI) weights take 7 of the 8 bits.
"""

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from stdeploy.artifacts.files import naming, unfinished_folder
from stdeploy.errors import require
from stdeploy.hardware import cpu_multiplies

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
    """Put max(x, 0) behind every concatenation of rectified branches, where it changes nothing.

    NOTE: OpenVINO (seen in 2026.4) otherwise moves the quantisation behind the concatenation into
    its branches and computes something else: on real clips half of the best classes changed. It
    stops at a Clip, while it looks through a Relu.
    """
    nodes = graph.graph.node
    makers = {output: node.op_type for node in nodes for output in node.output}
    zero = "concatenation_zero"
    for concat in [node for node in nodes if node.op_type == "Concat"]:
        if {makers.get(name) for name in concat.input} != {"Relu"}:
            continue
        if zero not in {tensor.name for tensor in graph.graph.initializer}:
            value = onnx.numpy_helper.from_array(np.zeros((), np.float32), zero)
            graph.graph.initializer.append(value)
        joined = concat.output[0]
        concat.output[0] = f"{joined}_joined"
        clip = onnx.helper.make_node(
            "Clip", [concat.output[0], zero], [joined], name=f"{concat.name}_clip"
        )
        nodes.insert(list(nodes).index(concat) + 1, clip)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser gives advice through the root logger, about which no user can do anything."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
