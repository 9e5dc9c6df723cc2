"""What `make gpu-check` says of a profile of ONNX Runtime, on real profiles of the CPU."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def profiling() -> ModuleType:
    path = ROOT / "benchmarks" / "gpu_check" / "profiling.py"
    spec = importlib.util.spec_from_file_location("gpu_check_profiling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions, one of which a ReLU follows, and a transposition."""
    shape = [1, 4, 6, 16, 16]
    make = onnx.helper.make_node
    nodes = [
        make("Transpose", ["frames"], ["x"], perm=[0, 4, 1, 2, 3]),
        make("Conv", ["x", "w"], ["a"], pads=[1] * 6),
        make("Relu", ["a"], ["b"]),
        make("Conv", ["b", "w"], ["logits"], pads=[1] * 6),
    ]
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 3, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        nodes,
        "profiled",
        [value("frames", kind, [1, 6, 16, 16, 4])],
        [value("logits", kind, shape)],
        [onnx.numpy_helper.from_array(kernel, "w")],
    )
    opset = onnx.helper.make_opsetid("", 20)
    path = tmp_path_factory.mktemp("profile") / "a.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def test_operators_are_counted_and_their_times_add_up(profiling: ModuleType, model: Path) -> None:
    frames = np.ones((1, 6, 16, 16, 4), np.float32)
    operators, milliseconds = profiling.profiled(model, ["CPUExecutionProvider"], frames)
    assert {(each.op_type, each.provider, each.nodes) for each in operators} == {
        ("Transpose", "CPU", 1),
        ("FusedConv", "CPU", 1),  # Conv and Relu
        ("Conv", "CPU", 1),
    }
    spent = [each.milliseconds for each in operators]
    assert spent == sorted(spent, reverse=True)
    assert 0 < sum(spent) < 50 * milliseconds
    assert profiling.by_kernel(model, ["CPUExecutionProvider"], frames) == "no kernels of a GPU"


def test_a_line_names_what_moves_numbers_and_what_runs_elsewhere(profiling: ModuleType) -> None:
    def event(name: str, op_type: str, provider: str, microseconds: int) -> dict:
        arguments = {"op_name": op_type, "provider": f"{provider}ExecutionProvider"}
        name = f"{name}_kernel_time"
        return {"cat": "Node", "name": name, "dur": microseconds, "args": arguments}

    once = [
        event("one", "Conv", "CUDA", 3000),
        event("two", "Conv", "CUDA", 3000),
        event("three", "Cast", "CUDA", 1000),
        event("four", "Shape", "CPU", 1000),
        {"cat": "Session", "name": "model_run", "dur": 9000},
    ]
    assert profiling.told(profiling.by_operator(once + once, runs=2), "CUDA") == (
        "8.00 ms in operators: Conv x2 75 %, Cast x1 12 %, Shape x1 12 %; moving: Cast x1; "
        "not on CUDA: Shape x1"
    )
