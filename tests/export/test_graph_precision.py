"""A float32 graph of another project in half precision: types that fit each other, answers too."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from stdeploy.artifacts.spec import Precision
from stdeploy.export.graph_precision import graph_in

CHANNELS, CLASSES = 3, 4


def graph() -> onnx.ModelProto:
    """A convolution, zeros of a shape that is computed, and a classifier behind an average."""
    numbers = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(numbers.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node(
            "Cast", ["frames"], ["whole"], to=TensorProto.FLOAT, name="stdeploy.input_0"
        ),
        helper.make_node("Mul", ["whole", "scale"], ["scaled"], name="stdeploy.input_1"),
        helper.make_node("Transpose", ["scaled"], ["clip"], perm=[0, 4, 1, 2, 3], name="turn"),
        helper.make_node("Conv", ["clip", "conv.weight"], ["features"], name="conv"),
        helper.make_node(
            "Einsum", ["features", "mix"], ["mixed"], equation="ncthw,cd->ndthw", name="mixing"
        ),
        helper.make_node("Shape", ["features"], ["sizes"], name="sizes"),
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"], name="zeros"),
        helper.make_node("Concat", ["mixed", "zeros"], ["joined"], axis=1, name="join"),
        helper.make_node("Conv", ["joined", "last.weight"], ["classes"], name="last"),
        helper.make_node("GlobalAveragePool", ["classes"], ["mean"], name="mean"),
        helper.make_node("Flatten", ["mean"], ["logits"], name="flat"),
    ]
    ends = (
        helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 2, 4, 4, 3]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES]),
    )
    weights = [
        numpy_helper.from_array(np.float32([1 / 255] * 3), "scale"),
        weight("conv.weight", CHANNELS, 3, 1, 3, 3),
        weight("mix", CHANNELS, CHANNELS),
        weight("last.weight", CLASSES, 2 * CHANNELS, 1, 1, 1),
    ]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def answer(model: onnx.ModelProto, frames: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"frames": frames})[0])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_knows_no_half_precision_stays_as_it_was(precision: Precision) -> None:
    """Zeros that a graph makes are float32, and Einsum has no bfloat16."""
    model = graph()
    frames = np.random.default_rng(1).integers(0, 255, (2, 2, 4, 4, 3), dtype=np.uint8)
    made = graph_in(precision, model)  # whose types onnx has checked
    stored = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    assert (stored["conv.weight"], stored["last.weight"]) == (kind, TensorProto.FLOAT)
    if precision == "fp16":  # there is no bfloat16 convolution in ONNX Runtime for processors
        wanted = answer(model, frames)
        assert np.abs(answer(made, frames) - wanted).max() < 2e-3 * np.abs(wanted).max()
