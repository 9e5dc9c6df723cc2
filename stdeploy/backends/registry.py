"""From the name of a backend to its class. A new one is its file and one line here."""

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from stdeploy.backends.base import BaseRuntime


class Registered(NamedTuple):
    """Where a backend is, told without importing it: a host that serves .onnx files has no torch.

    Attributes:
        runtime: "module:class", a `stdeploy.backends.base.BaseRuntime`.
        runs: suffixes of the artifacts that it opens.
    """

    runtime: str
    runs: tuple[str, ...]


BACKENDS: Mapping[str, Registered] = {
    "torch": Registered("stdeploy.backends.torch:TorchRuntime", runs=(".pt", ".safetensors")),
    "onnxruntime": Registered("stdeploy.backends.onnxruntime:OnnxRuntime", runs=(".onnx",)),
    "openvino": Registered("stdeploy.backends.openvino:OpenVinoRuntime", runs=(".onnx",)),
    "tensorrt": Registered("stdeploy.backends.tensorrt:TensorRtRuntime", runs=(".engine",)),
}


def runtime_class(backend: str) -> "type[BaseRuntime]":
    """The class of a backend.

    Args:
        backend: a name of the registry.

    Raises:
        MissingExtraError: its file cannot be imported without its library.
    """
    found: type[BaseRuntime] = pkgutil.resolve_name(BACKENDS[backend].runtime)
    return found
