"""Reading an .onnx file that anyone may have made: what it holds is counted before it is built.

A file of a few bytes can announce tensors of any size, name files of the host, or run for ever.
What is refused here is refused with one line, before the graph is in memory or anything runs.
"""

import math
from collections.abc import Container, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from stdeploy.artifacts.digest import message_fields
from stdeploy.artifacts.files import existing
from stdeploy.errors import ArtifactError

_MOST_FILE_BYTES = 2**31 - 1  # what protobuf reads
_MOST_FIELDS = 3_000_000  # of all messages: a large network has some 100,000
_MOST_NODES = 50_000
_MOST_PACKED_BYTES = 64 << 20  # of whole numbers that take 1 byte in the file and 8 in memory
_FIRST_OPSET, _DOMAINS = 9, ("", "ai.onnx")
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"} | {
    "Bernoulli",
    "Multinomial",
}
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

# Fields of onnx.proto3 by message: those that hold messages, and which.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "other", 14: "other"},
    "graph": {
        1: "node",
        5: "tensor",
        11: "value",
        12: "value",
        13: "value",
        14: "other",
        16: "other",
    },
    "node": {5: "attribute", 9: "other"},
    "attribute": {5: "tensor", 10: "tensor"},
    "value": {2: "type", 4: "other"},
    "type": {1: "tensor type"},
    "tensor type": {2: "shape"},
    "shape": {1: "other"},
    "tensor": {},
    "other": {},
}
_REFUSED: dict[tuple[str, int], str] = {
    ("model", 20): "holds a training program beside its graph",
    ("model", 25): "defines functions of its own",
    ("graph", 15): "holds sparse weights",
    ("attribute", 6): "branches or repeats (If, Loop, Scan), so how long it runs cannot be told",
    ("attribute", 11): "branches or repeats (If, Loop, Scan), so how long it runs cannot be told",
    ("attribute", 22): "holds sparse weights",
    ("attribute", 23): "holds sparse weights",
    ("tensor", 13): "keeps weights in other files",
}
# Repeated whole numbers, which protobuf packs.
_PACKED = {("tensor", 1), ("tensor", 5), ("tensor", 7), ("tensor", 11), ("attribute", 8)}
_ADVICE = {
    "keeps weights in other files": "; save it as one file: "
    "onnx.save(onnx.load(FILE), OTHER, save_as_external_data=False)",
    "defines functions of its own": "; run onnx.inliner.inline_local_functions on it",
}


def read_graph(path: Path) -> onnx.ModelProto:
    """Read and check an .onnx file of anyone.

    Args:
        path: a file.

    Returns:
        The graph; all its weights are in it.

    Raises:
        ArtifactError: it is no ONNX file, or one that is not taken, and why.
    """
    existing(path, wanted="an .onnx file")
    size = path.stat().st_size
    if size > _MOST_FILE_BYTES:
        raise ArtifactError(f"{str(path)!r} has {size} bytes; at most {_MOST_FILE_BYTES} are taken")
    content = path.read_bytes()
    try:
        _count(memoryview(content))
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ArtifactError(f"{str(path)!r} is no ONNX file: {error}") from error
    except ValueError as error:
        reason = str(error)
        raise ArtifactError(f"{str(path)!r} {reason}{_ADVICE.get(reason, '')}") from error
    for reason in _refused(model):
        raise ArtifactError(f"{str(path)!r} {reason}")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # onnx raises several kinds
        raise ArtifactError(
            f"{str(path)!r} is no valid ONNX graph: {' '.join(str(error).split())[:200]}"
        ) from error
    for value in model.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_value") and dimension.dim_value <= 0:
                dimension.Clear()  # some exporters write 0 or -1 for any size
    return model


def _count(content: memoryview) -> None:
    """Walk through the messages of a file, nothing of which is kept.

    Raises:
        ValueError: it is no ONNX file, or one that is not taken; to follow its name.
    """
    counted = {"fields": 0, "packed": 0, "nodes": 0}
    waiting = [("model", content)]
    while waiting:
        kind, message = waiting.pop()
        inside = _INSIDE[kind]
        try:
            for number, value, _ in message_fields(message):
                counted["fields"] += 1
                reason = _REFUSED.get((kind, number))
                if reason is not None and len(value):
                    raise _RefusedError(reason)
                if (kind, number) in _PACKED:
                    counted["packed"] += len(value)
                if number in inside:
                    counted["nodes"] += inside[number] == "node"
                    waiting.append((inside[number], value))
                for what, most in (
                    ("fields", _MOST_FIELDS),
                    ("packed", _MOST_PACKED_BYTES),
                    ("nodes", _MOST_NODES),
                ):
                    if counted[what] > most:
                        raise _RefusedError(f"holds more than {most} {_IN_WORDS[what]}")
        except _RefusedError:
            raise
        except ValueError as error:
            raise ValueError(f"is no ONNX file: {error}") from error


class _RefusedError(ValueError):
    """What is refused of a file that can be read."""


_IN_WORDS = {"fields": "fields", "packed": "bytes of whole numbers", "nodes": "nodes"}


def _refused(model: onnx.ModelProto) -> Iterator[str]:
    """Why a graph is not taken, as the rest of a sentence."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    if not model.graph.node or not model.graph.input:
        yield "is no ONNX file with a graph: it has no nodes or no input"
    if opset < _FIRST_OPSET:
        yield (
            f"is written in opset {opset}; {_FIRST_OPSET} or later is taken: export it again, or "
            "run onnx.version_converter"
        )
    if opset > onnx.defs.onnx_opset_version():
        yield f"is written in opset {opset}, which the onnx installed here does not know"
    false = {name for name, tensor in _constants(model.graph) if _is_false(tensor)}
    for node in model.graph.node:
        what = f"{node.op_type[:80]!r} ({node.name[:80]!r})"
        if node.domain not in _DOMAINS:
            yield (
                f"uses {what} of the domain {node.domain[:80]!r}, which is not one of ONNX's own "
                "operators; export it without"
            )
        if node.op_type in _RANDOM:
            yield f"draws random numbers: {what}; its answers cannot be repeated"
        if _trains(node, false):
            yield f"was exported in training mode: {what}; call model.eval() before exporting"
    for tensor in _tensors(model.graph):
        yield from _wrong_size(tensor)
        if tensor.data_type in _HALF and math.prod(tensor.dims) > 1:
            kind = TensorProto.DataType.Name(tensor.data_type)
            yield (
                f"holds weights in {kind} ({tensor.name[:80]!r}); export it in float32: stdeploy "
                "export makes lower precisions of it and compares them"
            )


def _trains(node: onnx.NodeProto, false: Container[str]) -> bool:
    """Whether a batch norm or dropout does what it does in training, in any opset.

    Args:
        node: of the graph.
        false: names of constants that are false.
    """
    said = {each.name: each.i for each in node.attribute}
    if node.op_type == "BatchNormalization":  # before opset 14, its further outputs tell
        return bool(said.get("training_mode")) or any(node.output[1:])
    if node.op_type == "Dropout":  # from opset 12 on, an input tells
        return any(node.input[2:]) and node.input[2] not in false
    return False


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t


def _is_false(tensor: onnx.TensorProto) -> bool:
    is_flag = tensor.data_type == TensorProto.BOOL and not tensor.dims
    return is_flag and not any(tensor.raw_data) and not any(tensor.int32_data)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def _wrong_size(tensor: onnx.TensorProto) -> Iterator[str]:
    """That a tensor announces another size than it has, which numpy would allocate."""
    name, count = tensor.name[:80], math.prod(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        yield f"keeps weights in other files{_ADVICE['keeps weights in other files']}"
    try:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        yield f"holds the tensor {name!r} of the unknown type {tensor.data_type}"
        return
    if any(size < 0 for size in tensor.dims):
        yield f"holds the tensor {name!r} of the shape {list(tensor.dims)[:8]}"
    stored = max(
        len(tensor.raw_data) // max(1, item.itemsize),
        *(
            len(numbers)
            for numbers in (
                *(tensor.float_data, tensor.int32_data, tensor.int64_data),
                *(tensor.double_data, tensor.uint64_data, tensor.string_data),
            )
        ),
    )
    # Types below a byte are packed two or four to one; complex ones take two numbers.
    if count > 4 * stored or (count < stored // 2 and stored > 8):
        yield (
            f"announces {count} numbers of the tensor {name!r} and holds {stored}; it is damaged, "
            "or was made to take memory"
        )
