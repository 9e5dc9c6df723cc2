"""Graphs that were made to take memory or time, or that cannot be taken: one line each."""

import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stdeploy.errors import ArtifactError, StdeployError
from stdeploy.importing.onnx_import import import_onnx
from tests.importing.networks import CLASSES, FRAMES, SIDE, write_toml

CLIP = ["n", 3, FRAMES, SIDE, SIDE]
GRAPH = 7  # ModelProto.graph


def model(
    *nodes: onnx.NodeProto,
    weights: tuple[onnx.TensorProto, ...] = (),
    shape: list[int | str] | None = None,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A graph from "clip" to "out"."""
    ends = (
        helper.make_tensor_value_info("clip", TensorProto.FLOAT, shape or CLIP),
        helper.make_tensor_value_info("out", TensorProto.FLOAT, ["m", CLASSES]),
    )
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], list(weights))
    opsets = [helper.make_opsetid(domain, 18 if not domain else 1) for domain in ("", *domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def classifier(
    taken: str = "clip", size: int = 3 * FRAMES * SIDE * SIDE
) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
    weight = np.random.default_rng(0).standard_normal((size, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", [taken], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["out"]),
    ]
    return nodes, numpy_helper.from_array(weight, "weight")


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def made_of(size: int) -> onnx.ModelProto:
    """Adds a tensor that it makes itself to the clip."""
    nodes, weight = classifier("sum")
    return model(
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["one"], keepdims=0),
        helper.make_node("Add", ["clip", "one"], ["sum"]),
        *nodes,
        weights=(weight, ints("size", size)),
    )


def doubling() -> onnx.ModelProto:
    names = ["clip", *(f"x{number}" for number in range(60))]
    nodes = [
        helper.make_node("Concat", [before, before], [after], axis=1)
        for before, after in itertools.pairwise(names)
    ]
    mean = helper.make_node("ReduceMean", [names[-1]], ["out"], keepdims=0)
    return model(*nodes, mean)


def wide_convolution() -> onnx.ModelProto:
    """A small file whose convolutions take minutes: padding makes them large."""
    weight = numpy_helper.from_array(np.ones((3, 3, 5, 5, 5), np.float32), "w")
    names = ["clip", *(f"x{number}" for number in range(12))]
    nodes = [
        helper.make_node("Conv", [before, "w"], [after], pads=[60] * 6, strides=[1, 1, 1])
        for before, after in itertools.pairwise(names)
    ]
    mean = helper.make_node("ReduceMean", [names[-1]], ["out"], keepdims=0)
    return model(*nodes, mean, weights=(weight,))


def wide_pools() -> onnx.ModelProto:
    """Thousands of pools whose windows are as large as the clip: hours, in little memory."""
    names = ["clip", *(f"x{number}" for number in range(4000))]
    window = {"kernel_shape": [15, 63, 63], "pads": [7, 31, 31, 7, 31, 31]}
    nodes = [
        helper.make_node("MaxPool", [before], [after], **window)
        for before, after in itertools.pairwise(names)
    ]
    mean = helper.make_node("ReduceMean", [names[-1]], ["out"], keepdims=0)
    return model(*nodes, mean)


def announced(*dims: int) -> onnx.ModelProto:
    """A weight of a size that the file does not hold."""
    nodes, _ = classifier()
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 8)
    return model(*nodes, weights=(weight,))


def external() -> onnx.ModelProto:
    nodes, weight = classifier()
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    return model(*nodes, weights=(weight,))


def custom() -> onnx.ModelProto:
    return model(helper.make_node("Steal", ["clip"], ["out"], domain="evil"), domains=("evil",))


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    nodes, weight = classifier()
    yes = numpy_helper.from_array(np.array(True), "yes")
    forever = helper.make_node("Loop", ["", "yes"], [], body=body)
    return model(forever, *nodes, weights=(weight, yes))


def function() -> onnx.ModelProto:
    found = model(helper.make_node("F", ["clip"], ["out"], domain="f"), domains=("f",))
    inside = helper.make_node("F", ["x"], ["y"], domain="f")
    found.functions.append(
        helper.make_function("f", "F", ["x"], ["y"], [inside], [helper.make_opsetid("f", 1)])
    )
    return found


def random() -> onnx.ModelProto:
    nodes, weight = classifier("noise")
    noise = helper.make_node("RandomNormalLike", ["clip"], ["noise"])
    return model(noise, *nodes, weights=(weight,))


def in_training() -> onnx.ModelProto:
    nodes, weight = classifier("normed")
    names = ["gamma", "beta", "mean", "variance"]
    norm = helper.make_node(
        "BatchNormalization", ["clip", *names], ["normed", "m", "v"], training_mode=1
    )
    ones = (numpy_helper.from_array(np.ones(3, np.float32), name) for name in names)
    return model(norm, *nodes, weights=(weight, *ones))


def in_training_before_opset_14() -> onnx.ModelProto:
    """No attribute says it: the norm gives more than one tensor."""
    nodes, weight = classifier("normed")
    names = ["gamma", "beta", "mean", "variance"]
    norm = helper.make_node("BatchNormalization", ["clip", *names], ["normed", "m", "v"])
    ones = (numpy_helper.from_array(np.ones(3, np.float32), name) for name in names)
    found = model(norm, *nodes, weights=(weight, *ones))
    found.opset_import[0].version = 11
    return found


def dropping_out() -> onnx.ModelProto:
    """ONNX Runtime leaves such a node out when it optimises, and draws random numbers otherwise."""
    nodes, weight = classifier("dropped")
    yes = numpy_helper.from_array(np.array(True), "yes")
    ratio = numpy_helper.from_array(np.array(0.5, np.float32), "ratio")
    dropout = helper.make_node("Dropout", ["clip", "ratio", "yes"], ["dropped"])
    return model(dropout, *nodes, weights=(weight, yes, ratio))


def half_weights() -> onnx.ModelProto:
    nodes, weight = classifier("halved")
    numbers = numpy_helper.to_array(weight).astype(np.float16)
    nodes[1].output[0] = "half"
    return model(
        helper.make_node("Cast", ["clip"], ["halved"], to=TensorProto.FLOAT16),
        *nodes,
        helper.make_node("Cast", ["half"], ["out"], to=TensorProto.FLOAT),
        weights=(numpy_helper.from_array(numbers, "weight"),),
    )


def large_clip() -> onnx.ModelProto:
    nodes, weight = classifier()
    return model(*nodes, weights=(weight,), shape=["n", 3, 2**60, SIDE, SIDE])


def not_finite() -> onnx.ModelProto:
    nodes, weight = classifier()
    numbers = numpy_helper.to_array(weight).copy()
    numbers[5, 3] = np.nan
    return model(*nodes, weights=(numpy_helper.from_array(numbers, "weight"),))


def no_batch() -> onnx.ModelProto:
    """Takes one clip, and mixes the batch into everything."""
    nodes, weight = classifier("rolled")
    return model(
        helper.make_node("Squeeze", ["clip", "first"], ["one"]),
        helper.make_node("Unsqueeze", ["one", "first"], ["rolled"]),
        *nodes,
        weights=(weight, ints("first", 0)),
        shape=[1, *CLIP[1:]],
    )


def of_half() -> onnx.ModelProto:
    nodes, weight = classifier()
    found = model(*nodes, weights=(weight,))
    found.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return found


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "external data": (external, "keeps weights in other files; save it as one file"),
    "2^60 computed": (lambda: made_of(2**60), r"takes 4\.61e\+18 bytes"),
    "8 GB computed": (lambda: made_of(2**31), "takes 8.59e[+]09 bytes"),
    "2 GB of constants": (lambda: made_of(2**29), "bytes of constants that it computes"),
    "2^60 announced": (lambda: announced(2**60), "announces 1152921504606846976 numbers"),
    "3 GB announced": (lambda: announced(3 << 28), "announces 805306368 numbers of the tensor"),
    "below 0": (lambda: announced(-1, 7), "of the shape"),
    "doubling": (doubling, "bytes of memory for one clip"),
    "wide": (wide_convolution, "for one clip; at most"),
    "wide pools": (wide_pools, r"takes \S+ operations for one clip"),
    "2^60 taken": (large_clip, "of shape .*1152921504606846976.* would be"),
    "custom operator": (custom, "'Steal' .* of the domain 'evil'"),
    "loop": (loop, r"branches or repeats \(If, Loop, Scan\)"),
    "function": (function, "defines functions of its own"),
    "random": (random, "draws random numbers: 'RandomNormalLike'"),
    "training mode": (in_training, "exported in training mode"),
    "training, opset 11": (in_training_before_opset_14, "exported in training mode: 'BatchNorm"),
    "training dropout": (dropping_out, "exported in training mode: 'Dropout'"),
    "half weights": (half_weights, r"weights in FLOAT16 \('weight'\); export it in float32"),
    "not finite": (not_finite, "answers a clip with numbers that are not finite"),
    "no batch": (no_batch, "cannot take another batch .*exported at a batch of 1"),
    "float16": (of_half, "takes 'clip' as FLOAT16; float32 is taken"),
}


def test_a_dropout_that_is_switched_off_is_taken(tmp_path: Path) -> None:
    found = dropping_out()
    found.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(False), "yes"))
    (tmp_path / "net.onnx").write_bytes(found.SerializeToString())
    import_onnx(tmp_path / "net.onnx", write_toml(tmp_path / "clip.toml"), tmp_path / "x.onnx")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_graph_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    make, said = HOSTILE[name]
    path = tmp_path / "net.onnx"
    path.write_bytes(make().SerializeToString())
    start = time.process_time()
    with pytest.raises(StdeployError, match=said) as error:
        import_onnx(path, write_toml(tmp_path / "clip.toml"), tmp_path / "x.onnx")
    assert time.process_time() - start < 10
    assert len(str(error.value).splitlines()) == 1
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx", "clip.toml"}


def length_delimited(number: int, content: bytes) -> bytes:
    size, groups = len(content), []
    while size >= 0x80:
        groups.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *groups, size]) + content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"nothing of the kind", "is no ONNX file"),
        (length_delimited(GRAPH, length_delimited(1, b"") * 4_000_000), "more than 50000 nodes"),
        (
            length_delimited(GRAPH, length_delimited(1, length_delimited(1, b"") * 4_000_000)),
            "more than 3000000 fields",
        ),
        (
            length_delimited(GRAPH, length_delimited(5, length_delimited(7, bytes(70 << 20)))),
            "bytes of whole numbers",
        ),
        (length_delimited(GRAPH, b"\x0a"), "is no ONNX file"),
        (length_delimited(GRAPH, b""), "it has no nodes"),
    ],
    ids=["text", "nodes", "fields", "packed", "cut off", "empty"],
)
def test_crafted_bytes_are_refused_before_they_are_built(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(ArtifactError, match=said) as error:
        import_onnx(path, write_toml(tmp_path / "clip.toml"), tmp_path / "x.onnx")
    assert time.process_time() - start < 20
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["8 GB computed", "2^60 announced", "doubling", "loop"])
def test_the_program_refuses_within_bounded_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / "net.onnx").write_bytes(HOSTILE[name][0]().SerializeToString())
    write_toml(tmp_path / "clip.toml")
    limit = 3 << 30  # of addresses, of which loading ONNX Runtime takes most
    done = subprocess.run(
        [sys.executable, "-m", "stdeploy", "import", "net.onnx", "--card", "clip.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("stdeploy: ")]
    assert "Traceback" not in done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx", "clip.toml"}
