"""A float32 graph in lower precision, where there is no network of torch to write it anew."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stdeploy.artifacts.spec import Precision
from stdeploy.errors import ArtifactError

_WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")
_HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# The first opset in which what a precision needs is there: Q/DQ by channel; bf16 convolutions.
_LEAST_OPSET: dict[Precision, int] = {"fp32": 9, "fp16": 9, "bf16": 22, "int8": 13}
_NEWER = {"bf16": 22, "int8": 20}
_FLOAT_ALWAYS = {"Resize": (1, 2), "Upsample": (1,)}  # inputs that are float32 in any graph
# Means and exponentials of many numbers, which lose most in half precision.
_KEPT = ("LayerNormalization", "Softmax", "InstanceNormalization", "GroupNormalization")
_FRONT = "stdeploy.input_"  # how the nodes are called that normalise frames


def graph_in(precision: Precision, graph: onnx.ModelProto) -> onnx.ModelProto:
    """A graph as it is before a precision: halved, or ready to be quantised.

    As with networks of ours, pixels are normalised in float32, and so is what decides between the
    classes: the last convolution or product, and all behind it. Layer norms and softmaxes stay in
    float32 wherever they are.

    Args:
        precision: what is wanted; int8 gives float32.
        graph: float32, from uint8 "frames" to "logits"; it is not changed.

    Raises:
        ArtifactError: the graph cannot be written so.
    """
    converted = onnx.ModelProto()
    converted.CopyFrom(graph)
    del converted.metadata_props[:]
    if max(entry.version for entry in converted.opset_import) < _LEAST_OPSET[precision]:
        converted = _in_newer_opset(converted, precision)
    if precision in _HALF:
        _halve(converted, _HALF[precision])
        try:
            onnx.checker.check_model(converted, full_check=True)
        except Exception as error:  # onnx raises several kinds
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"this graph cannot be written in {precision}: {reason}; int8 leaves all but "
                "convolutions as they are"
            ) from error
    return converted


def _in_newer_opset(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    wanted = _NEWER[precision]
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, wanted)
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"{precision} needs opset {wanted}, to which this graph cannot be converted: {reason}; "
            "export the original in it"
        ) from error
    return converted


def _halve(model: onnx.ModelProto, kind: int) -> None:
    """Turn all but the ends of a graph to a type of half precision, in place."""
    graph = model.graph
    opset = max(entry.version for entry in model.opset_import)
    exact = _exact_nodes(graph, kind, opset)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    floats = {n for n, tensor in constants.items() if tensor.data_type == TensorProto.FLOAT}
    made_half = {
        name
        for number, node in enumerate(graph.node)
        if number not in exact
        for name in node.output
    }
    types = _types(model)
    nodes: list[onnx.NodeProto] = []
    cast: dict[tuple[str, int], str] = {}

    def as_type(name: str, wanted: int) -> str:
        """A tensor in another type; weights are stored so, all else is cast once."""
        key = (name, wanted)
        if key not in cast:
            short = TensorProto.DataType.Name(wanted).lower()
            cast[key] = f"{name}.{short}"
            if name in floats:
                values = numpy_helper.to_array(constants[name])
                graph.initializer.append(_stored(values, cast[key], wanted))
            else:
                node = helper.make_node("Cast", [name], [cast[key]], to=wanted, name=cast[key])
                nodes.append(node)
        return cast[key]

    for number, node in enumerate(graph.node):
        is_exact = number in exact
        for place, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT:
                continue
            if is_exact:
                if name in made_half:
                    node.input[place] = as_type(name, TensorProto.FLOAT)
            elif place not in _FLOAT_ALWAYS.get(node.op_type, ()) and name not in made_half:
                node.input[place] = as_type(name, kind)
        if not is_exact:
            _halve_attributes(node, kind)
        nodes.append(node)
    kept = [node.SerializeToString() for node in nodes]
    del graph.node[:], graph.value_info[:]
    for content in kept:
        graph.node.add().ParseFromString(content)
    _drop_unread(graph)
    _name_as_before(graph, kind)


def _exact_nodes(graph: onnx.GraphProto, kind: int, opset: int) -> set[int]:
    """Numbers of the nodes in float32: those that normalise, that decide, or that know no other.

    What decides has no convolution or product behind it.
    """
    half = f"tensor({TensorProto.DataType.Name(kind).lower()})"
    before_weights: set[str] = set()
    exact = set()
    for number, node in reversed(list(enumerate(graph.node))):
        if before_weights.isdisjoint(node.output):
            exact.add(number)
        if node.op_type in _WEIGHTED or number not in exact:
            before_weights.update(node.input)
        takes = onnx.defs.get_schema(node.op_type, opset).inputs
        known = any(half in each.types for each in takes)
        if node.name.startswith(_FRONT) or node.op_type in _KEPT or not known:
            exact.add(number)
    return exact


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Types of elements by tensor, where they can be told."""
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for each in (*inferred.input, *inferred.value_info, *inferred.output):
        types[each.name] = each.type.tensor_type.elem_type
    return types


def _stored(values: np.ndarray, name: str, kind: int) -> onnx.TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return numpy_helper.from_array(values.astype(dtype), name)


def _halve_attributes(node: onnx.NodeProto, kind: int) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = kind


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    contents = [tensor.SerializeToString() for tensor in kept]
    del graph.initializer[:]
    for content in contents:
        graph.initializer.add().ParseFromString(content)


def _name_as_before(graph: onnx.GraphProto, kind: int) -> None:
    """Give weights that are stored in half precision alone the names that they had."""
    ending = f".{TensorProto.DataType.Name(kind).lower()}"
    names = {tensor.name for tensor in graph.initializer}
    renamed = {
        name: name.removesuffix(ending)
        for name in names
        if name.endswith(ending) and name.removesuffix(ending) not in names
    }
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
