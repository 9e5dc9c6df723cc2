"""What a graph costs: multiply-accumulates and memory of one clip, by its shapes alone.

Nothing runs. So the figures of graphs that no network of ours makes can be told, and those of a
file that anyone made are known before it runs.
"""

import dataclasses
import math
from pathlib import Path

import onnx

from stdeploy.export.graph_shapes import Shapes, shapes_of

_RECURRENT = ("LSTM", "GRU", "RNN")
_POOLS = ("MaxPool", "AveragePool", "LpPool")
_OF_ALL = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "ArgMax", "ArgMin", "TopK")
_OF_PIXELS = ("stdeploy.scale", "stdeploy.offset")  # what normalises them, as a card has it


@dataclasses.dataclass(frozen=True)
class GraphCost:
    """Cost of a graph for one clip.

    Attributes:
        macs: multiply-accumulates of convolutions and matrix products.
        operations: those, what pools look at, and one for each number that a node makes.
        by_layer: of each of them, in order, by the name of its weight or of the node.
        parameters: numbers in the file that floating-point arithmetic is done with.
        peak_bytes: most that is held at once between nodes that run in order.
        constant_bytes: of what does not depend on the clip and is computed all the same.
    """

    macs: int
    operations: int
    by_layer: dict[str, int]
    parameters: int
    peak_bytes: int
    constant_bytes: int


def count_graph(path: Path) -> GraphCost:
    """Count the cost of one clip of an .onnx artifact.

    Args:
        path: of a file that stdeploy wrote.

    Raises:
        ArtifactError: a shape cannot be told before it runs.
    """
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return cost_of(model, shapes_of(model, source=str(path)))


def cost_of(model: onnx.ModelProto, shapes: Shapes) -> GraphCost:
    """Count the cost of a graph.

    Args:
        model: in the order in which its nodes run.
        shapes: from `shapes_of`.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    by_layer: dict[str, int] = {}
    held = {each.name: _bytes(shapes[each.name]) for each in graph.input if each.name in shapes}
    last = {name: number for number, node in enumerate(graph.node) for name in node.input}
    varies = {each.name for each in graph.input} - set(weights)
    kept = {each.name for each in graph.output}
    peak = now = sum(held.values())
    constant = operations = 0
    for number, node in enumerate(graph.node):
        macs = _macs(node, shapes)
        if macs:
            weight = next((name for name in node.input[1:2] if name in weights), node.name)
            name = weight.removeprefix("model.").removesuffix(".weight") or node.output[0]
            by_layer[name] = by_layer.get(name, 0) + macs
        operations += macs + _others(node, shapes)
        depends = any(name in varies for name in node.input)
        for name in filter(None, node.output):
            held[name] = _bytes(shapes[name])
            now += held[name]
            if depends:
                varies.add(name)
            else:
                constant += held[name]
        peak = max(peak, now)
        for name in {*node.input, *node.output}:
            if name in held and last.get(name, number) <= number and name not in kept:
                now -= held.pop(name)
    return GraphCost(
        macs=sum(by_layer.values()),
        operations=operations,
        by_layer=by_layer,
        parameters=sum(
            math.prod(tensor.dims) for tensor in weights.values() if _is_parameter(tensor)
        ),
        peak_bytes=peak,
        constant_bytes=constant,
    )


def _macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Multiply-accumulates of a node; 0 for what multiplies no matrices."""
    made = math.prod(shapes[node.output[0]]) if node.output and node.output[0] in shapes else 0
    taken = [shapes.get(name, ()) for name in node.input]
    if node.op_type in ("Conv", "ConvInteger"):
        return made * math.prod(taken[1][1:])
    if node.op_type == "ConvTranspose":
        return math.prod(taken[0]) * math.prod(taken[1][1:])
    if node.op_type in ("MatMul", "MatMulInteger"):
        return made * (taken[0][-1] if taken[0] else 1)
    if node.op_type == "Gemm":
        transposed = any(each.name == "transA" and each.i for each in node.attribute)
        return made * taken[0][0 if transposed else 1]
    if node.op_type == "Einsum":
        return made * max((max(shape, default=1) for shape in taken), default=1)
    return 0


def _others(node: onnx.NodeProto, shapes: Shapes) -> int:
    """What a node does beside multiply-accumulates, by what it makes; roughly."""
    made = sum(math.prod(shapes[name]) for name in node.output if name)
    taken = [shapes.get(name, ()) for name in node.input]
    if node.op_type in _RECURRENT:  # each step multiplies with both matrices of weights
        return made + math.prod(taken[0][:2]) * sum(math.prod(shape) for shape in taken[1:3])
    attributes = {each.name: each for each in node.attribute}
    window = math.prod(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else 1
    if node.op_type.startswith("Reduce") or node.op_type in _OF_ALL:
        return made + math.prod(taken[0])
    return made * (window if node.op_type in _POOLS else 1)


def _bytes(shape: tuple[int, ...]) -> int:
    """Of numbers of four bytes; those of eight are few."""
    return 4 * math.prod(shape)


def _is_parameter(tensor: onnx.TensorProto) -> bool:
    """Whether a constant is a weight: of floating point, or of 8 bits with several axes."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if kind.kind in "iub":
        return kind.itemsize == 1 and len(tensor.dims) > 1
    return bool(tensor.dims) and tensor.name not in _OF_PIXELS
