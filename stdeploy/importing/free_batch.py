"""A graph that was exported at a fixed batch, made to take any."""

import collections
import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, TypeProto, helper, numpy_helper

from stdeploy.export.graph_shapes import ConstantFolder, Shapes
from stdeploy.importing.graph_editing import OURS, GraphEditor

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}  # which inputs are first states
_TIMES = 5  # as large a batch shows where the batch is
_MOST_NUMBERS = 4096  # of a constant that may say what shape a node makes


def free_batch(editor: GraphEditor, inputs: Iterable[str], shapes: Shapes, fixed: int) -> None:
    """Let nodes that hold a fixed batch take any.

    Every shape is followed at a larger batch beside the one that the graph was exported at, which
    shows in which axis a tensor has its batch. The target of a reshape gets -1 there. A constant
    that is joined to a clip, such as the token of a transformer or the first state of an LSTM, is
    repeated for each. What cannot be told stays as it is: then the graph does not take another
    batch, or its answers differ, which others look at.

    Args:
        editor: of the graph; it is changed.
        inputs: names of its inputs, which have their batch in front.
        shapes: of the graph at the batch that it was exported at.
        fixed: that batch.
    """
    walk = _Walk(editor, inputs, shapes, fixed)
    editor.nodes = [new for node in editor.nodes for new in walk.freed(node)]


class _Walk:
    """The graph at a larger batch, node by node."""

    def __init__(
        self, editor: GraphEditor, inputs: Iterable[str], shapes: Shapes, fixed: int
    ) -> None:
        self._editor, self._narrow, self._fixed = editor, dict(shapes), fixed
        self._opset = [helper.make_opsetid("", editor.opset)]
        self._folder = ConstantFolder(editor.opset, frozenset())
        self._sizes: dict[str, TensorProto] = {}  # computed of shapes at the larger batch
        self._types: dict[str, TypeProto] = {}  # at the larger batch, where they can be told
        # How many numbers of a tensor of one clip lie outside of its batch: 8 in (8, N, 16).
        self._outer: dict[str, int] = {}
        self._depends = set(inputs)
        for name in self._depends:
            wide = (fixed * _TIMES, *shapes[name][1:])
            self._note(name, helper.make_tensor_type_proto(TensorProto.FLOAT, wide))

    def freed(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The node as it runs at any batch, with what it needs for that before it."""
        varying = [name for name in node.input if name in self._depends]
        like = next((name for name in varying if name in self._outer), "")
        if varying:
            self._depends.update(node.output)
        if varying and node.op_type == "Reshape":
            self._reshape(node)
        elif like and node.op_type == "Concat":
            axis = next(each.i for each in node.attribute if each.name == "axis")
            if self._axis(like) != axis % len(self._narrow[like]):
                yield from self._repeated(node, range(len(node.input)), like)
        elif like and node.op_type in _STATES:
            yield from self._repeated(node, _STATES[node.op_type], like)
        elif varying and node.op_type == "Expand" and self._fixed > 1:
            self._expand(node)
        self._infer(node, like)
        yield node

    def _reshape(self, node: onnx.NodeProto) -> None:
        """Give a constant target -1 in the axis that has the batch."""
        made = self._narrow.get(node.output[0])
        if not made or node.input[1] not in self._editor.constants:
            return
        outer = self._outer.get(node.input[0], 1)
        axis = _holding(made, outer, self._fixed)
        if axis is not None:
            target = np.array(made, dtype=np.int64)
            target[axis] = -1
            node.input[1] = self._editor.add_constant(f"{OURS}{node.name}.shape", target)
            self._outer[node.output[0]] = outer  # a reshape moves no number

    def _repeated(
        self, node: onnx.NodeProto, places: Iterable[int], like: str
    ) -> Iterator[onnx.NodeProto]:
        """Nodes that repeat constants among the inputs of a node as often as another has clips."""
        axis = self._axis(like)
        if axis is None:
            return
        for place in (place for place in places if place < len(node.input)):
            one = self._one_of_all(node.input[place], axis)
            if one is None:
                continue
            base, sizes = f"{OURS}{node.name}.{place}", np.array(one.shape, dtype=np.int64)
            constants = {
                what: self._editor.add_constant(f"{base}.{what}", value)
                for what, value in (
                    ("one", one),
                    ("axis", np.array([axis], dtype=np.int64)),
                    ("front", sizes[:axis]),
                    ("rest", sizes[axis + 1 :]),
                )
            }
            for kind, inputs, what, along in (
                ("Shape", [like], "like", None),
                ("Gather", [f"{base}.like", constants["axis"]], "batch", 0),
                ("Concat", [constants["front"], f"{base}.batch", constants["rest"]], "target", 0),
                ("Expand", [constants["one"], f"{base}.target"], "repeated", None),
            ):
                made = f"{base}.{what}"
                new = helper.make_node(kind, inputs, [made], name=made, axis=along)
                self._infer(new, "")
                yield new
            node.input[place] = f"{base}.repeated"

    def _expand(self, node: onnx.NodeProto) -> None:
        """Of a constant with a row for each clip, all alike, leave one, which Expand repeats.

        Which axis has the rows cannot be told where several have as many; Expand makes all anew.
        """
        for axis in range(len(self._narrow.get(node.input[0], ()))):
            one = self._one_of_all(node.input[0], axis)
            if one is not None:
                node.input[0] = self._editor.add_constant(f"{OURS}{node.name}.one", one)

    def _one_of_all(self, name: str, axis: int) -> NDArray[np.generic] | None:
        """One slice of a constant that has one for each clip, all alike; else None."""
        tensor = self._editor.constants.get(name)
        if tensor is None or len(tensor.dims) <= axis or tensor.dims[axis] != self._fixed:
            return None
        values = numpy_helper.to_array(tensor)
        one: NDArray[np.generic] = values.take([0], axis=axis)
        return one if bool((values == one).all()) else None

    def _axis(self, name: str) -> int | None:
        """The axis of a tensor in which its batch lies; None where that cannot be told."""
        narrow, wide = self._narrow.get(name), self._wide(name)
        if narrow is None or wide is None or len(narrow) != len(wide):
            return None
        different = [axis for axis, size in enumerate(narrow) if size != wide[axis]]
        return different[0] if len(different) == 1 else None

    def _wide(self, name: str) -> tuple[int, ...] | None:
        kind = self._types[name].tensor_type if name in self._types else None
        if kind is None or not kind.HasField("shape"):
            return None
        sizes = tuple(each.dim_value for each in kind.shape.dim if each.HasField("dim_value"))
        return sizes if len(sizes) == len(kind.shape.dim) else None

    def _note(self, name: str, kind: TypeProto, like: str = "") -> None:
        """Note the type of a tensor at the larger batch, and where its batch lies.

        Args:
            name: of the tensor.
            kind: its type.
            like: what it is made of. The batch of both may lie within an axis, in the same place.
        """
        self._types[name] = kind
        axis = self._axis(name)
        if axis is None or name in self._outer:
            return
        narrow = self._narrow[name]
        alike = axis == self._axis(like) and narrow[: axis + 1] == self._narrow[like][: axis + 1]
        self._outer[name] = self._outer[like] if alike else math.prod(narrow[:axis])

    def _infer(self, node: onnx.NodeProto, like: str) -> None:
        """Tell of what type, and of sizes also what, a node makes at the larger batch."""
        constants = collections.ChainMap(self._sizes, self._editor.constants)
        shape = self._wide(node.input[0]) if node.op_type in ("Shape", "Size") else None
        value = self._folder.fold(node, constants)
        if value is None and shape is not None:
            value = self._folder.of_shape(node, shape)
        if value is not None:
            self._sizes[node.output[0]] = numpy_helper.from_array(value, node.output[0])
        read = {name: constants[name] for name in node.input if name in constants}
        types = {
            name: helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            for name, tensor in read.items()
        }
        types |= {name: self._types[name] for name in node.input if name in self._types}
        small = {n: tensor for n, tensor in read.items() if math.prod(tensor.dims) <= _MOST_NUMBERS}
        try:
            schema = onnx.defs.get_schema(node.op_type, self._editor.opset)
            made = onnx.shape_inference.infer_node_outputs(
                schema, node, types, small, opset_imports=self._opset
            )
        except Exception:  # onnx raises several kinds, of which the whole graph is told later
            return
        for name, kind in made.items():
            self._note(name, kind, like)


def _holding(shape: tuple[int, ...], outer: int, fixed: int) -> int | None:
    """The axis of a reshaped tensor that has the batch; None where none can.

    Where the batch is 1, its place may lie at the end of one axis and the beginning of the next.
    Of these an axis of 1 is the batch itself; else the batch goes with what follows, as it does
    with the heads of an attention, but never with the last axis, whose features weights multiply.

    >>> _holding((65, 1, 3, 16), 65, 1), _holding((65, 2, 8), 65, 1), _holding((65, 16), 65, 1)
    (1, 1, 0)

    Args:
        shape: at the batch that the graph was exported at.
        outer: how many numbers of one clip lie outside of the batch.
        fixed: that batch.
    """
    before = [math.prod(shape[:axis]) for axis in range(len(shape))]
    begins = [a for a, size in enumerate(shape) if before[a] == outer and size % fixed == 0]
    itself = [axis for axis in begins if shape[axis] == fixed]
    within = [a for a, size in enumerate(shape) if before[a] < outer * fixed <= before[a] * size]
    found = [*itself, *(axis for axis in begins if axis < len(shape) - 1), *within, *begins]
    return found[0] if found else None
