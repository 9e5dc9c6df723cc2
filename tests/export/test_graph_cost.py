"""Shapes and cost of a graph, told before it runs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stdeploy.errors import ArtifactError
from stdeploy.export.graph_cost import cost_of
from stdeploy.export.graph_shapes import ConstantFolder, shapes_of


def graph(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 4, 8, 8]), ("y", [None]))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    found = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], tensors)
    return helper.make_model(found, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_macs_and_memory_are_counted_by_hand() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 6, strides=[1, 2, 2], group=1)
    relu = helper.make_node("Relu", ["c"], ["r"])
    flat = helper.make_node("Flatten", ["r"], ["f"])
    gemm = helper.make_node("Gemm", ["f", "v"], ["y"])
    weights = {
        "w": np.zeros((5, 3, 3, 3, 3), np.float32),
        "v": np.zeros((5 * 4 * 4 * 4, 2), np.float32),
    }
    model = graph(conv, relu, flat, gemm, **weights)
    shapes = shapes_of(model, source="g")
    assert shapes["c"] == (1, 5, 4, 4, 4)
    cost = cost_of(model, shapes)
    assert cost.by_layer == {"w": 5 * 64 * 81, "v": 320 * 2}
    assert cost.macs == 5 * 64 * 81 + 640
    assert cost.operations == cost.macs + 3 * 320 + 2
    assert cost.parameters == 5 * 81 + 640
    assert cost.peak_bytes == 4 * (3 * 4 * 64 + 320)
    assert cost.constant_bytes == 0


def test_a_size_that_is_computed_of_sizes_is_told() -> None:
    """As exporters write it: the shape of a tensor, one number of it, another number behind it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Reshape", ["batch", "one"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    numbers = {
        "zero": np.array(0, np.int64),
        "one": np.array([1], np.int64),
        "rest": np.array([-1, 8], np.int64),
    }
    assert shapes_of(graph(*nodes, **numbers), source="g")["y"] == (1, 96, 8)


def test_a_size_that_depends_on_pixels_is_refused() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Cast", ["places"], ["y"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(ArtifactError, match=r"'places', which NonZero .* cannot be told before"):
        shapes_of(graph(*nodes), source="g")


def test_shapes_that_contradict_are_refused() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(ArtifactError, match="its shapes do not fit each other"):
        shapes_of(graph(node, w=np.zeros((5, 2), np.float32)), source="g")


def test_a_size_that_is_a_single_number_is_left_to_whoever_checks_the_graph() -> None:
    one = numpy_helper.from_array(np.float32([1]), "one")
    size = numpy_helper.from_array(np.array(4, dtype=np.int64), "size")  # no list of sizes
    node = helper.make_node("Expand", ["one", "size"], ["y"])
    assert ConstantFolder(18, frozenset()).fold(node, {"one": one, "size": size}) is None
