"""The shape of every tensor of a graph, before it runs; small constants that it computes."""

import math
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stdeploy.errors import ArtifactError

# What makes small tensors of small ones; Expand and ConstantOfShape are looked at before they run.
_FOLDED = frozenset(
    (
        *("Abs", "Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand"),
        *("Floor", "Gather", "Greater", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not"),
        *("ReduceProd", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Transpose"),
        *("Unsqueeze", "Where"),
    )
)
_MOST_NUMBERS = 4096  # of an input, and of what is made
_MOST_FOLDED = 10_000  # nodes
_MOST_ROUNDS = 8  # a size may be made of others that are made of sizes

Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: onnx.ModelProto, *, source: str) -> Shapes:
    """The shape of every tensor of a graph whose inputs have numbers as sizes.

    Args:
        model: its value_info is not believed.
        source: its file, for errors.

    Raises:
        ArtifactError: one cannot be told before the graph runs, or contradicts another.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    opset = max(entry.version for entry in model.opset_import)
    folder = ConstantFolder(opset, frozenset(each.name for each in model.graph.input))
    for _ in range(_MOST_ROUNDS):
        shapes = _inferred(bare, source)
        unknown = [
            (node, name)
            for node in bare.graph.node
            for name in node.output
            if name and name not in shapes
        ]
        if not unknown:
            return shapes
        if not _made_constant(bare.graph, shapes, folder):
            break
    node, name = unknown[0]
    raise ArtifactError(
        f"{source!r}: the shape of {name[:80]!r}, which {node.op_type} {node.name[:80]!r} makes, "
        "cannot be told before it runs; export it with constant sizes"
    )


def _inferred(model: onnx.ModelProto, source: str) -> Shapes:
    del model.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except Exception as error:  # onnx raises several kinds
        raise ArtifactError(
            f"{source!r}: its shapes do not fit each other: {' '.join(str(error).split())[:200]}"
        ) from error
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for each in (*graph.input, *graph.value_info, *graph.output):
        kind = each.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[each.name] = tuple(d.dim_value for d in kind.shape.dim)
    return shapes


def _made_constant(graph: onnx.GraphProto, shapes: Shapes, folder: "ConstantFolder") -> bool:
    """Replace what is computed of known shapes by constants; False where nothing is."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes, found = [], False
    for node in graph.node:
        known = shapes.get(node.input[0]) if node.op_type in ("Shape", "Size") else None
        value = folder.of_shape(node, known) if known is not None else folder.fold(node, constants)
        if value is None:
            nodes.append(node)
            continue
        tensor = numpy_helper.from_array(value, node.output[0])
        constants[tensor.name] = tensor
        graph.initializer.append(tensor)
        found = True
    if found:
        del graph.node[:]
        graph.node.extend(nodes)
    return found


class ConstantFolder:
    """Computes nodes that take nothing but small constants, and no more than so many.

    Args:
        opset: of the graph.
        floats: names of the inputs of the graph, which are float32.
    """

    def __init__(self, opset: int, floats: frozenset[str]) -> None:
        self._opset = opset
        self._floats = floats
        self._left = _MOST_FOLDED

    def fold(
        self, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
    ) -> NDArray[np.generic] | None:
        """What a node makes, or None where it has to run with the graph.

        Args:
            node: of one output.
            constants: by name.
        """
        if node.op_type == "CastLike" and node.input[1] in self._floats:
            cast = helper.make_node("Cast", node.input[:1], node.output, to=TensorProto.FLOAT)
            return self.fold(cast, constants)
        if node.op_type not in _FOLDED or len(node.output) != 1 or self._left <= 0:
            return None
        tensors = [constants[name] for name in node.input if name in constants]
        if len(tensors) != len([name for name in node.input if name]):
            return None
        if node.op_type in ("Shape", "Size"):  # of a weight, which is not looked at
            return self.of_shape(node, tuple(tensors[0].dims))
        if any(math.prod(tensor.dims) > _MOST_NUMBERS for tensor in tensors):
            return None
        arrays = {
            name: numpy_helper.to_array(tensor)
            for name, tensor in zip(filter(None, node.input), tensors, strict=True)
        }
        if node.op_type in ("Expand", "ConstantOfShape"):
            sizes = np.maximum(arrays[node.input[-1]].astype(np.float64), 1)
            given = math.prod(tensors[0].dims) if node.op_type == "Expand" else 1
            if sizes.ndim != 1 or sizes.prod() * given > _MOST_NUMBERS:
                return None
        self._left -= 1
        return self._computed(node, arrays)

    def of_shape(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """What Shape or Size makes of a tensor of a known shape."""
        if node.op_type == "Size":
            return np.array(math.prod(shape), dtype=np.int64)
        limits = {each.name: each.i for each in node.attribute}
        part = shape[limits.get("start", 0) : limits.get("end", len(shape))]
        return np.array(part, dtype=np.int64)

    def _computed(
        self, node: onnx.NodeProto, arrays: Mapping[str, NDArray[np.generic]]
    ) -> NDArray[np.generic] | None:
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in arrays.items()
        ]
        graph = helper.make_graph(
            [node], "constant", inputs, [onnx.ValueInfoProto(name=node.output[0])]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)])
        try:
            (made,) = ReferenceEvaluator(model).run(None, dict(arrays))
        except Exception:  # it raises anything; the node then runs with the graph, or fails there
            return None
        return made if isinstance(made, np.ndarray) and made.size <= _MOST_NUMBERS else None
