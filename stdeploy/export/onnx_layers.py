"""The layers that stand in an .onnx file, and which layer of the network each of them is."""

import collections
import dataclasses
import graphlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from stdeploy.artifacts.spec import Form
from stdeploy.errors import ParityError
from stdeploy.export.layers import (
    FRAMES,
    Layer,
    NetworkLayers,
    Numbers,
    Padding,
    Pool,
    Window,
)

_ROUNDED = ("QuantizeLinear", "DequantizeLinear", "Cast")  # the same numbers behind them, nearly
_NEARLY_THE_SAME = (*_ROUNDED, "Clip")  # which holds quantised concatenations together
# (N, T, H, W, 3) to (N, 3, T, H, W), or in planar form to (T, N, 3, H, W).
_TO_CHANNELS_FIRST: dict[Form, list[int]] = {"conv3d": [0, 4, 1, 2, 3], "planar": [1, 0, 4, 2, 3]}


def read_layers(path: Path, parent: NetworkLayers) -> NetworkLayers:
    """The layers of an .onnx file, under the names that they have in its parent.

    A layer is known by the name of its weight, else by that of its bias. Tensors that are equal
    may be stored once (the exporter does so with small ones), and another program may have named
    them anew: such a layer is the one of its parent that has the same shape and window, and reads
    the same layers.

    Args:
        path: the file.
        parent: what it was made from.

    Raises:
        ParityError: a layer is missing or is one too many, it could be several, or its numbers are
            not stored in the file.
    """
    reader = _Reader(onnx.load(path).graph, path.name, parent.form)
    reader.read()
    names = _Names(parent, path.name).give(reader.layers, reader.claims)
    return NetworkLayers(
        scale=reader.scale,
        offset=reader.offset,
        layers=tuple(
            Layer(
                name=names[layer.name],
                weight=layer.weight,
                bias=layer.bias,
                window=layer.window,
                inputs=_renamed(layer.inputs, names),
                stacked=layer.stacked,
            )
            for layer in reader.layers
        ),
        pools=tuple(Pool(pool.window, _renamed(pool.inputs, names)) for pool in reader.pools),
        form=parent.form,
    )


def layers_of_file(path: Path) -> NetworkLayers:
    """The layers of an .onnx file under names of its own, which files made of it are to have.

    Args:
        path: a float32 file that has no network of torch as its parent.

    Raises:
        ParityError: its layers cannot be read one by one: weights that are computed, say.
    """
    reader = _Reader(onnx.load(path).graph, path.name)
    reader.read()
    counts = collections.Counter(claim for claim, _ in reader.claims.values())
    names = {
        made: claim if counts[claim] == 1 else made for made, (claim, _) in reader.claims.items()
    }
    return NetworkLayers(
        scale=reader.scale,
        offset=reader.offset,
        layers=tuple(
            dataclasses.replace(layer, name=names[layer.name], inputs=_renamed(layer.inputs, names))
            for layer in reader.layers
        ),
        pools=tuple(Pool(pool.window, _renamed(pool.inputs, names)) for pool in reader.pools),
    )


def _renamed(inputs: Iterable[str], names: dict[str, str]) -> frozenset[str]:
    return frozenset(names.get(name, name) for name in inputs)


class _Reader:
    """Reads layers from a graph; each is called by the tensor that it makes.

    Args:
        graph: of an .onnx file.
        source: its name, for errors.
        form: of the network that it was made from.

    Attributes:
        layers: in an order in which they can run.
        claims: what the file calls the weight and the bias of each layer, without what is added
            to a name in quantising.
        pools: likewise.
        scale: of the frames.
        offset: of the frames.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    def __init__(self, graph: onnx.GraphProto, source: str, form: Form = "conv3d") -> None:
        self.layers: list[Layer] = []
        self.claims: dict[str, tuple[str, str]] = {}
        self.pools: list[Pool] = []
        if not graph.input:
            raise ParityError(f"{source!r}: its graph takes no frames")
        self._graph = graph
        self._source = source
        self._form = form
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._inputs = {graph.input[0].name: frozenset({FRAMES})}
        self._paddings: dict[str, Padding] = {}

    def read(self) -> None:
        """Fill the attributes."""
        for node in self._ordered():
            try:
                self._visit(node)
            except (LookupError, ValueError, TypeError) as error:
                raise ParityError(
                    f"{self._source!r}: {node.op_type} {node.name!r} cannot be read, because an "
                    f"input, an attribute or a number is missing: {error}"
                ) from error
        self._read_normalisation()

    def _visit(self, node: onnx.NodeProto) -> None:
        inputs = [self._inputs[name] for name in node.input if name in self._inputs]
        made = frozenset[str]().union(*inputs)
        if node.op_type in ("Conv", "Gemm"):
            self._add_layer(node)
            made = frozenset({node.output[0]})
        elif node.op_type == "MaxPool":
            kernel = tuple(_attributes(node)["kernel_shape"])
            self.pools.append(Pool(self._window(node, kernel), made))
        elif node.op_type == "Pad":
            self._note_padding(node)
        elif node.op_type in _ROUNDED and node.input[0] in self._paddings:
            self._paddings[node.output[0]] = self._paddings[node.input[0]]
        if made:
            self._inputs.update(dict.fromkeys(node.output, made))

    def _ordered(self) -> list[onnx.NodeProto]:
        """The nodes, each behind those that it reads from; quantising leaves them in no order."""
        nodes = self._graph.node
        number_of = {name: number for number, node in enumerate(nodes) for name in node.output}
        before = {
            number: [number_of[name] for name in node.input if name in number_of]
            for number, node in enumerate(nodes)
        }
        try:
            return [nodes[number] for number in graphlib.TopologicalSorter(before).static_order()]
        except graphlib.CycleError as error:
            raise ParityError(f"{self._source!r}: its graph runs in a circle") from error

    def _add_layer(self, node: onnx.NodeProto) -> None:
        name = node.output[0]
        weight = self._numbers(node, 1)
        bias = self._numbers(node, 2) if len(node.input) > 2 else None
        window = None
        if node.op_type == "Conv":
            window = self._window(node, weight.stored.shape[2:])
        elif not _is_plain_linear(node):
            raise ParityError(
                f"{self._source!r}: {node.name!r} multiplies or transposes beside its weight, "
                "which no layer of the network does"
            )
        inputs = self._inputs.get(node.input[0], frozenset())
        stacked = self._stacked(node.input[0]) if self._form == "planar" else ()
        self.layers.append(Layer(name, weight, bias, window, inputs, stacked))
        self.claims[name] = (
            self._claim(node, 1, ".weight"),
            self._claim(node, 2, ".bias") if bias else "",
        )

    def _claim(self, node: onnx.NodeProto, place: int, ending: str) -> str:
        stored: str = node.input[place]
        if stored in self._makers:
            stored = self._makers[stored].input[0]
        return stored.removeprefix("model.").removesuffix("_quantized").removesuffix(ending)

    def _numbers(self, node: onnx.NodeProto, place: int) -> Numbers:
        """What stands in the file for an input of a layer."""
        name = node.input[place]
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return Numbers(self._array(name, node))
        step = self._array(maker.input[1], maker)
        return Numbers(
            self._array(maker.input[0], maker),
            step=step,
            zero=self._array(maker.input[2], maker) if len(maker.input) > 2 else None,
            axis=_attributes(maker).get("axis", 1),
        )

    def _array(self, name: str, node: onnx.NodeProto) -> NDArray[Any]:
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            return numpy_helper.to_array(_attributes(maker)["value"])
        if name not in self._constants:
            raise ParityError(
                f"{self._source!r}: {node.op_type} {node.name!r} takes {name!r} from elsewhere in "
                "the graph, while its numbers have to stand in the file"
            )
        return numpy_helper.to_array(self._constants[name])

    def _window(self, node: onnx.NodeProto, kernel: Sequence[int]) -> Window:
        attributes = _attributes(node)
        if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise ParityError(
                f"{self._source!r}: {node.op_type} {node.name!r} leaves its padding to the runtime "
                f"(auto_pad {attributes['auto_pad'].decode()})"
            )
        axes = len(kernel)
        pads = tuple(attributes.get("pads", [0] * 2 * axes))
        return Window(
            kernel=tuple(attributes.get("kernel_shape", kernel)),
            stride=tuple(attributes.get("strides", [1] * axes)),
            padding=Padding(pads[:axes], pads[axes:]).plus(self._paddings.get(node.input[0])),
            dilation=tuple(attributes.get("dilations", [1] * axes)),
            groups=attributes.get("group", 1),
        )

    def _stacked(self, name: str) -> tuple[tuple[int, ...], ...]:
        """The frames that are stacked in a tensor, or taken for it; see `Layer.stacked`."""
        node = self._makers.get(name)
        while node is not None and node.op_type in _NEARLY_THE_SAME:
            node = self._makers.get(node.input[0])
        if node is None:
            return ()
        parts = list(node.input) if node.op_type == "Concat" else [node.output[0]]
        found = [self._frames_taken(part) for part in parts]
        return tuple(numbers for numbers in found if numbers is not None)

    def _frames_taken(self, name: str) -> tuple[int, ...] | None:
        """The numbers of the frames that a tensor has of another; None where it has all of them.

        They are taken of rows (T, N C H W): Reshape, Pad or Concat, Slice, Reshape; where all of
        the padded ones are taken, there is no Slice.
        """
        node = self._makers.get(name)
        taken = self._makers.get(node.input[0]) if node is not None else None
        if node is None or node.op_type != "Reshape" or taken is None:
            return None
        if taken.op_type not in ("Slice", "Pad", "Concat"):
            return None
        return self._rows_of(taken)

    def _rows_of(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """Which frames of a clip the rows are that a node gives; those outside of it are zeros."""
        if node.op_type in _NEARLY_THE_SAME:
            return self._rows_of(self._makers[node.input[0]])
        if node.op_type == "Slice":
            rows = self._rows_of(self._makers[node.input[0]])
            first, last, step = (
                int(self._array(node.input[place], node)[0]) if len(node.input) > place else 1
                for place in (1, 2, 4)
            )
            return rows[first:last:step]
        if node.op_type == "Pad":
            rows = self._rows_of(self._makers[node.input[0]])
            pads = self._array(node.input[1], node).tolist()
            before, after = pads[0], pads[len(pads) // 2]
            return (*range(-before, 0), *rows, *range(len(rows), len(rows) + after))
        if node.op_type == "Concat":  # the first frame, again and again, and all of them
            return tuple(row for each in node.input for row in self._rows_of(self._makers[each]))
        return tuple(range(int(self._array(node.input[1], node)[0])))  # of a Reshape

    def _note_padding(self, node: onnx.NodeProto) -> None:
        """Remember zeros around (T, H, W); any other padding is no part of a window."""
        named = dict(zip(("x", "pads", "value", "axes"), node.input, strict=False))
        value = self._array(named["value"], node) if named.get("value") else np.zeros(1)
        if _attributes(node).get("mode", b"constant") != b"constant" or value.any():
            return
        pads = self._array(named["pads"], node).tolist()
        count = len(pads) // 2
        axes = self._array(named["axes"], node).tolist() if named.get("axes") else range(count)
        rank = 5 if named.get("axes") else count
        before, after = [0] * rank, [0] * rank
        for place, axis in enumerate(axes):
            before[axis], after[axis] = pads[place], pads[place + count]
        if rank > 2 and not any((*before[:2], *after[:2])):
            own = Padding(tuple(before[2:]), tuple(after[2:]))
            self._paddings[node.output[0]] = own.plus(self._paddings.get(named["x"]))

    def _read_normalisation(self) -> None:
        """Follow the frames through Cast, Mul, Add and Transpose."""
        readers = collections.defaultdict(list)
        for node in self._graph.node:
            for name in node.input:
                readers[name].append(node)
        found: dict[str, NDArray[Any]] = {}
        name, permutation = self._graph.input[0].name, None
        while len(readers[name]) == 1 and permutation is None:
            (node,) = readers[name]
            if node.op_type in ("Mul", "Add") and node.op_type not in found:
                (constant,) = [each for each in node.input if each != name] or [name]
                found[node.op_type] = self._array(constant, node).reshape(-1)
            elif node.op_type == "Transpose":
                permutation = list(_attributes(node)["perm"])
            elif node.op_type != "Cast":
                break
            name = node.output[0]
        if list(found) != ["Mul", "Add"] or permutation != _TO_CHANNELS_FIRST[self._form]:
            turned = "(N, 3, T, H, W)" if self._form == "conv3d" else "(T, N, 3, H, W)"
            raise ParityError(
                f"{self._source!r}: its frames are not multiplied, then added to, then turned from "
                f"(N, T, H, W, 3) to {turned}, as the network does"
            )
        self.scale, self.offset = found["Mul"], found["Add"]


class _Names:
    """Finds out which layer of the parent a layer of a file is.

    Args:
        parent: all of whose layers have to be in the file, once.
        source: the file, for errors.
    """

    def __init__(self, parent: NetworkLayers, source: str) -> None:
        self._left = {layer.name: layer for layer in parent.layers}
        self._source = source

    def give(self, layers: Sequence[Layer], claims: dict[str, tuple[str, str]]) -> dict[str, str]:
        """Names of the parent by the names that the reader gave.

        Args:
            layers: in an order in which they can run.
            claims: what the file calls the weight and the bias of each.
        """
        names: dict[str, str] = {}
        for which in (0, 1):
            open_claims = {key: claim[which] for key, claim in claims.items() if key not in names}
            count = collections.Counter(open_claims.values())
            for key, claim in open_claims.items():
                if count[claim] == 1 and claim in self._left:
                    names[key] = claim
                    del self._left[claim]
        for layer in layers:
            if layer.name not in names:
                names[layer.name] = self._by_structure(layer, _renamed(layer.inputs, names))
                del self._left[names[layer.name]]
        if self._left:
            raise ParityError(f"{self._source!r} lacks the layer {next(iter(self._left))!r}")
        return names

    def _by_structure(self, layer: Layer, inputs: frozenset[str]) -> str:
        shape = layer.weight.stored.shape
        fitting = [
            each
            for each in self._left.values()
            if (each.weight.stored.shape, each.window, each.inputs) == (shape, layer.window, inputs)
        ]
        described = (
            f"{self._source!r}: a layer of shape {'x'.join(map(str, shape))} after "
            f"{', '.join(sorted(inputs))}, whose weight has no name of the network,"
        )
        if not fitting:
            raise ParityError(f"{described} is none of the network's")
        if len(fitting) > 1 and not _alike(fitting):
            raise ParityError(
                f"{described} could be {' or '.join(repr(each.name) for each in fitting)}; which "
                "of them it is cannot be told"
            )
        return fitting[0].name


def _alike(layers: Sequence[Layer]) -> bool:
    """Whether layers hold the same numbers, so that it does not matter which is which."""
    first = layers[0]
    return all(
        _equal(first.weight, each.weight) and _equal(first.bias, each.bias) for each in layers
    )


def _equal(one: Numbers | None, other: Numbers | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one.stored, other.stored)


def _is_plain_linear(node: onnx.NodeProto) -> bool:
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    return {**plain, **_attributes(node)} == {**plain, "transB": 1}


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
