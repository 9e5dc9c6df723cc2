"""What a graph gives, made into logits (N, K): softmax, rows in time and axes of one taken off."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from stdeploy.artifacts.label_files import OF_ONE_LOGIT
from stdeploy.errors import SpecError
from stdeploy.export.graph_shapes import Shapes
from stdeploy.importing.clip_description import ClipDescription
from stdeploy.importing.graph_editing import OURS, GraphEditor

LOGITS = "logits"
_SHAPE_ONLY = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"))
# What leaves probabilities probabilities.
_AVERAGES = _SHAPE_ONLY | {"ReduceMean", "AveragePool", "GlobalAveragePool"}
_LEAST_PROBABILITY = 1e-37  # above the smallest normal float32, below which log is not exact


def put_logits_behind(
    editor: GraphEditor, output: str, description: ClipDescription, shapes: Shapes
) -> str:
    """Average over time where an output has rows for it, make logits of probabilities.

    Args:
        editor: of the graph; it is changed.
        output: of the graph.
        description: of its owner.
        shapes: of the graph as it came.

    Returns:
        The softmax that was taken off; "log" where a logarithm makes logits of probabilities that
        end in something else; "" where the graph gave logits.

    Raises:
        SpecError: the output is not what was described.
    """
    end, softmax = _without_softmax(editor, output, description, shapes)
    shape, nodes = shapes[output], list[onnx.NodeProto]()

    def add(kind: str, constant: str = "", **attributes: Any) -> None:
        before = nodes[-1].output[0] if nodes else end
        made = f"{OURS}output_{len(nodes)}"
        inputs = [before, constant] if constant else [before]
        nodes.append(helper.make_node(kind, inputs, [made], name=made, **attributes))

    axis = time_axis(shape, description, source=editor.source)
    if axis is not None and editor.opset >= 18:
        axes = editor.add_constant(f"{OURS}time", np.array([axis], dtype=np.int64))
        add("ReduceMean", axes, keepdims=0)
    elif axis is not None:
        add("ReduceMean", axes=[axis], keepdims=0)
    if softmax == "log":
        least = np.array(_LEAST_PROBABILITY, dtype=np.float32)
        add("Max", editor.add_constant(f"{OURS}least_probability", least))
        add("Log")
    if len(shape) - (axis is not None) != 2:
        target = np.array([-1, len(description.labels)], dtype=np.int64)
        add("Reshape", editor.add_constant(f"{OURS}logits_shape", target))
    if nodes:
        nodes[-1].output[0] = LOGITS
    else:
        editor.rename({end: LOGITS})
    editor.nodes += nodes
    return softmax


def time_axis(shape: Sequence[int], description: ClipDescription, *, source: str) -> int | None:
    """The axis of an output (N, ...) that is averaged over, None where there is none.

    Args:
        shape: of the output.
        description: says how many classes there are, and whether there is a row for each frame.
        source: the file, for errors.

    Raises:
        SpecError: the output is not what was described.
    """
    classes, per_frame = len(description.labels), description.said.output.per_frame
    rest = [axis for axis in range(1, len(shape)) if shape[axis] != 1]
    of_classes = [axis for axis in rest if shape[axis] == classes]
    others = [axis for axis in rest if axis not in of_classes[-1:]]
    text = f"{source!r} gives ({', '.join(['N', *map(str, shape[1:])])})"
    if not rest:
        raise SpecError(f"{text}, one number for {classes} labels; {OF_ONE_LOGIT}")
    if not of_classes:
        raise SpecError(f"{text}, which has no axis for {classes} labels; name one label a class")
    if not others:
        if per_frame:
            raise SpecError(f"{text}: one row for a clip; leave per_frame out")
        return None
    if not per_frame:
        raise SpecError(
            f"{text}: more than one row for a clip; write per_frame = true where they are steps in "
            "time that are averaged"
        )
    if len(others) > 1 or len(of_classes) > 1:
        raise SpecError(f"{text}, of which the axis of time cannot be told")
    return others[0]


def last_activation(editor: GraphEditor, output: str) -> str:
    """The operator whose numbers an output averages or merely turns: Softmax, Sigmoid, Gemm, ..."""
    node, _ = _before(editor, output, _AVERAGES)
    return node.op_type if node is not None else ""


def _before(
    editor: GraphEditor, output: str, kinds: frozenset[str]
) -> tuple[onnx.NodeProto | None, list[onnx.NodeProto]]:
    """The node that makes an output, and those of some kinds behind it, the last one first."""
    makers, behind = editor.makers(), list[onnx.NodeProto]()
    node = makers.get(output)
    while node is not None and node.op_type in kinds:
        behind.append(node)
        node = makers.get(node.input[0])
    return node, behind


def _without_softmax(
    editor: GraphEditor, output: str, description: ClipDescription, shapes: Shapes
) -> tuple[str, str]:
    """The tensor that logits are made of, and what was taken off behind it."""
    said, classes = description.said.output, len(description.labels)
    if last_activation(editor, output) == "Sigmoid":
        raise SpecError(
            f"{editor.source!r} ends in a sigmoid, so several of its classes may hold at once; "
            "classes that exclude each other are taken"
        )
    node, behind = _before(editor, output, _SHAPE_ONLY)
    is_softmax = node is not None and node.op_type == "Softmax"
    if said.gives == "logits":
        if is_softmax:
            raise SpecError(
                f"{editor.source!r} ends in a softmax, so it gives probabilities, and the "
                'description says gives = "logits"; write gives = "probabilities"'
            )
        return output, ""
    if node is None or not is_softmax or said.per_frame:
        return output, "log"
    axis = next((each.i for each in node.attribute if each.name == "axis"), -1)
    if shapes[node.output[0]][axis] != classes:
        return output, "log"
    if not behind:
        return node.input[0], node.name
    behind[-1].input[0] = node.input[0]
    return output, node.name
