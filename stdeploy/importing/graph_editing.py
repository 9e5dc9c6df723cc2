"""A graph that is being changed: constants, names, and batch norms folded away."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from stdeploy.errors import ArtifactError
from stdeploy.export.graph_shapes import ConstantFolder

OURS = "stdeploy."  # how the names begin of what is put around a graph
ORIGINAL = "_of_the_original"  # how the names end of what was called as ours is
_PASSES_ON = ("Identity", "Dropout")  # in inference


def sizes_of(value: onnx.ValueInfoProto) -> list[int | None]:
    """The sizes of the axes of an input, None for any."""
    dimensions = value.type.tensor_type.shape.dim
    return [each.dim_value if each.HasField("dim_value") else None for each in dimensions]


class GraphEditor:
    """A graph taken apart, to be changed and put together again.

    All constants are in one place, and nodes that only pass a tensor on are gone, so that what
    follows finds weights where they are read. Every step takes time in proportion to the graph.

    Args:
        model: is not changed.
        source: its file, for errors.
        taken: names that the graph is not to have, beside those that begin as ours do.

    Attributes:
        nodes: in the order in which they run.
        constants: by name.
        inputs: those that are no constants.
        outputs: names.
        opset: of the operators of ONNX.
        source: its file.
    """

    def __init__(self, model: onnx.ModelProto, *, source: str, taken: Sequence[str]) -> None:
        self.source = source
        self.opset = max(
            entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")
        )
        self._ir_version = model.ir_version

        def ours(name: str) -> str:
            return f"{name}{ORIGINAL}" if name in taken or name.startswith(OURS) else name

        self.constants: dict[str, onnx.TensorProto] = {}
        self.nodes: list[onnx.NodeProto] = []
        for tensor in model.graph.initializer:
            self._keep(ours(tensor.name), tensor)
        self.inputs = [
            _renamed(each, ours(each.name))
            for each in model.graph.input
            if ours(each.name) not in self.constants
        ]
        alias: dict[str, str] = {}
        folder = ConstantFolder(self.opset, frozenset(each.name for each in self.inputs))
        for original in model.graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(original)
            names = [ours(name) for name in node.input]
            node.input[:] = [alias.get(name, name) for name in names]
            node.output[:] = [ours(name) for name in node.output]
            if node.op_type in _PASSES_ON:
                alias[node.output[0]] = node.input[0]
            elif node.op_type == "Constant":
                self._keep(node.output[0], self._tensor_of(node))
            elif (value := folder.fold(node, self.constants)) is not None:
                self._keep(node.output[0], numpy_helper.from_array(value))
            else:
                self.nodes.append(node)
        outputs = [ours(each.name) for each in model.graph.output]
        self.outputs = [alias.get(name, name) for name in outputs]
        self._called = {
            alias.get(name, name): each.name
            for name, each in zip(outputs, model.graph.output, strict=True)
        }
        self._name_nodes()

    def called(self, output: str) -> str:
        """What the original calls an output."""
        called: str = self._called[output]
        return called

    def makers(self) -> dict[str, onnx.NodeProto]:
        """The node that makes a tensor, by the tensor's name."""
        return {name: node for node in self.nodes for name in node.output}

    def add_constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant, and give the name that it got."""
        while name in self.constants:
            name += "_"
        self._keep(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def rename(self, names: dict[str, str]) -> None:
        """Call tensors otherwise, wherever they are made or read."""
        for node in self.nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        self.outputs = [names.get(name, name) for name in self.outputs]

    def keep(self, output: str) -> None:
        """Leave out what an output does not need, and all other outputs."""
        self.nodes, _ = self._needed([output])
        self.outputs = [output]

    def _needed(self, outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
        """The nodes that make some tensors, and the names of all tensors that they read or make."""
        needed, nodes = set(outputs), list[onnx.NodeProto]()
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        return nodes[::-1], needed

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """The graph put together, without what no output needs, and no text of its maker."""
        nodes, needed = self._needed(each.name for each in outputs)
        for node in nodes:
            node.doc_string = ""
            del node.metadata_props[:]
        kept = [tensor for key, tensor in self.constants.items() if key in needed]
        graph = helper.make_graph(nodes, name, list(inputs), list(outputs), kept)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=self._ir_version,
            producer_name="stdeploy",
        )

    def fold_norms(self, rank_of: Callable[[str], int]) -> "FoldedNorms":
        """Fold batch norms into the convolution or product before them, in float64.

        W' = W * gamma / sqrt(var + eps);  b' = beta + (b - mean) * gamma / sqrt(var + eps)

        A norm that follows nothing of that kind becomes one multiplication and one addition.

        Args:
            rank_of: number of axes of a tensor.

        Raises:
            ArtifactError: the statistics of a norm do not stand in the file, or are no numbers.
        """
        reads = collections.Counter(name for node in self.nodes for name in node.input)
        reads.update(self.outputs)
        makers, alias = self.makers(), dict[str, str]()
        nodes: list[onnx.NodeProto] = []
        folded, rewritten = [], []
        for node in self.nodes:
            node.input[:] = [alias.get(name, name) for name in node.input]
            if node.op_type != "BatchNormalization":
                nodes.append(node)
                continue
            scale, shift = self._affine(node)
            before = makers.get(node.input[0])
            alone = before is not None and all(reads[name] == 1 for name in before.output)
            if before is not None and alone and self._scaled(before, scale, shift, reads):
                # Two norms in a row: the second finds the convolution, too.
                alias[node.output[0]] = node.input[0]
                reads[node.input[0]] = reads[node.output[0]]
                folded.append(node.name)
            else:
                nodes += self._multiply_and_add(node, scale, shift, rank_of(node.input[0]))
                rewritten.append(node.name)
        self.nodes = nodes
        self.outputs = [alias.get(name, name) for name in self.outputs]
        self._called.update(
            {alias[name]: old for name, old in self._called.items() if name in alias}
        )
        return FoldedNorms(tuple(folded), tuple(rewritten))

    def array(self, name: str, what: str) -> NDArray[Any]:
        """The numbers of a constant.

        Raises:
            ArtifactError: it is none, or holds what is no number.
        """
        tensor = self.constants.get(name)
        if tensor is None:
            raise ArtifactError(f"{self.source!r}: {what} does not stand in the file")
        numbers = numpy_helper.to_array(tensor)
        if not np.isfinite(numbers).all():
            raise ArtifactError(f"{self.source!r}: {what} holds numbers that are not finite")
        return numbers

    def _affine(self, norm: onnx.NodeProto) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        what = f"the batch norm {norm.name!r}"
        gamma, beta, mean, variance = (
            self.array(name, what).astype(np.float64) for name in norm.input[1:5]
        )
        eps = next((each.f for each in norm.attribute if each.name == "epsilon"), 1e-5)
        if not (variance + eps > 0).all():
            raise ArtifactError(f"{self.source!r}: {what} has a variance below 0")
        scale = gamma / np.sqrt(variance + eps)
        return scale, beta - mean * scale

    def _scaled(
        self,
        node: onnx.NodeProto,
        scale: NDArray[np.float64],
        shift: NDArray[np.float64],
        reads: collections.Counter[str],
    ) -> bool:
        """Scale and shift the outputs of a node by its weights; False where that cannot be."""
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **attributes}
        if node.op_type not in ("Conv", "Gemm") or any(
            name and name not in self.constants for name in node.input[1:]
        ):
            return False
        if node.op_type == "Gemm" and (plain["alpha"], plain["beta"], plain["transA"]) != (1, 1, 0):
            return False
        weight = self.array(node.input[1], f"the weight of {node.name!r}")
        axis = 0 if node.op_type == "Conv" or plain["transB"] else 1
        if weight.dtype != np.float32 or weight.shape[axis] != len(scale):
            return False
        by_axis = scale.reshape([-1 if each == axis else 1 for each in range(weight.ndim)])
        bias = np.zeros(len(scale))
        if len(node.input) > 2 and node.input[2]:
            bias = self.array(node.input[2], f"the bias of {node.name!r}").astype(np.float64)
        if bias.shape != scale.shape:
            return False
        scaled = (weight.astype(np.float64) * by_axis).astype(np.float32)
        shifted = (bias * scale + shift).astype(np.float32)
        name = node.input[1]
        if reads[name] == 1:
            self._keep(name, numpy_helper.from_array(scaled))
        else:  # another node reads it as it was
            name = self.add_constant(name, scaled)
        node.input[1:] = [name, self.add_constant(f"{name.removesuffix('.weight')}.bias", shifted)]
        return True

    def _multiply_and_add(
        self,
        norm: onnx.NodeProto,
        scale: NDArray[np.float64],
        shift: NDArray[np.float64],
        rank: int,
    ) -> Iterator[onnx.NodeProto]:
        names = [
            self.add_constant(
                f"{OURS}{norm.name}.{what}",
                values.astype(np.float32).reshape(-1, *[1] * (rank - 2)),
            )
            for what, values in (("scale", scale), ("shift", shift))
        ]
        taken, made, middle = norm.input[0], norm.output[0], f"{OURS}{norm.name}.scaled"
        for kind, inputs, output in (
            ("Mul", [taken, names[0]], middle),
            ("Add", [middle, names[1]], made),
        ):
            yield helper.make_node(kind, inputs, [output], name=f"{norm.name}_{kind}")

    def _keep(self, name: str, tensor: onnx.TensorProto) -> None:
        kept = onnx.TensorProto()
        kept.CopyFrom(tensor)
        kept.name, kept.doc_string = name, ""
        self.constants[name] = kept

    def _tensor_of(self, node: onnx.NodeProto) -> onnx.TensorProto:
        attribute = node.attribute[0] if node.attribute else onnx.AttributeProto()
        value = helper.get_attribute_value(attribute) if node.attribute else None
        kinds: dict[str, type[np.generic]] = {
            "value_int": np.int64,
            "value_ints": np.int64,
            "value_float": np.float32,
            "value_floats": np.float32,
        }
        if attribute.name == "value":
            return attribute.t
        if attribute.name in kinds:
            return numpy_helper.from_array(np.asarray(value, dtype=kinds[attribute.name]))
        raise ArtifactError(
            f"{self.source!r}: the constant {node.name!r} holds {attribute.name!r}, which is not "
            "taken"
        )

    def _name_nodes(self) -> None:
        taken: set[str] = set()
        for number, node in enumerate(self.nodes):
            if not node.name or node.name in taken:
                node.name = f"{node.op_type}_{number}_"
            taken.add(node.name)


@dataclasses.dataclass(frozen=True)
class FoldedNorms:
    """What became of batch norms.

    Attributes:
        folded: names of those in the convolution or product before them.
        rewritten: of those that are one multiplication and one addition now.
    """

    folded: tuple[str, ...]
    rewritten: tuple[str, ...]


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(value)
    renamed.name = name
    return renamed
