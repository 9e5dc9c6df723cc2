"""Faults in the numbers of an .onnx file, in any precision, of one channel of one layer."""

import dataclasses
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from stdeploy.fusion import filters_of
from stdeploy.models.base import ActionModel

ZEROED, TENTH, HUNDREDTH = "a channel is 0", "a channel x 1.1", "a channel x 1.01"
SHIFTED = "a channel moved by a frame"
PADDED = "the padding moved by a frame"
CHANNEL_FAULTS = (ZEROED, TENTH, HUNDREDTH, SHIFTED, PADDED)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a fault is: a layer, and one of its output channels."""

    layer: str
    channel: int


def places(model: ActionModel, fault: str, *, count: int, seed: int = 2026) -> list[Place]:
    """Layers and channels of a network that is not fused, drawn by a seed.

    Layers of one frame are left out where something moves by a frame.
    """
    rng = np.random.default_rng(seed)
    layers = [
        (name, layer)
        for name, layer in filters_of(model)
        if fault not in (SHIFTED, PADDED) or layer.kernel_size[0] > 1
    ]
    found = []
    for number in rng.integers(len(layers), size=count):
        name, layer = layers[number]
        channels = layer.typed_branches()[-1].coefficients.shape[0]
        found.append(Place(name, int(rng.integers(channels))))
    return found


def plant(proto: onnx.ModelProto, fault: str, place: Place) -> None:
    """Change a graph in place.

    A channel of int8 is multiplied by its scale, as if its kernel had been wrong when it was
    quantised.
    """
    weight = stored_weight(proto, place.layer)
    if fault == PADDED:
        move_padding(proto, weight)
        return
    kernel, c = array_of(proto, weight), place.channel
    if fault == ZEROED:
        kernel[c] = 0
    elif fault == SHIFTED:
        kernel[c] = np.roll(kernel[c], 1, axis=1)
    elif kernel.dtype == np.int8:
        weight = weight.replace("_quantized", "_scale")
        kernel = array_of(proto, weight)
        kernel[c] *= np.float32(fault.split()[-1])
    else:
        kernel[c] = (kernel[c].astype(np.float32) * float(fault.split()[-1])).astype(kernel.dtype)
    replace(proto, weight, kernel)


def stored_weight(proto: onnx.ModelProto, layer: str) -> str:
    """What a file calls the kernel of a layer."""
    names = {tensor.name for tensor in proto.graph.initializer}
    plain = f"model.{layer}.weight"
    return plain if plain in names else f"{plain}_quantized"


def array_of(proto: onnx.ModelProto, name: str) -> NDArray[Any]:
    """A copy of the numbers of a tensor."""
    tensor = next(each for each in proto.graph.initializer if each.name == name)
    return numpy_helper.to_array(tensor).copy()


def replace(proto: onnx.ModelProto, name: str, array: NDArray[Any]) -> None:
    """Put other numbers in the place of a tensor."""
    tensor = next(each for each in proto.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def convolution(proto: onnx.ModelProto, weight: str) -> onnx.NodeProto:
    """The node that a kernel belongs to."""
    nodes = proto.graph.node
    read = {weight, *(out for node in nodes if weight in node.input for out in node.output)}
    return next(node for node in nodes if node.op_type == "Conv" and read & set(node.input[1:2]))


def move_padding(proto: onnx.ModelProto, weight: str) -> None:
    """One zero more in front and one less behind, in time: the size stays."""
    pads = next(each for each in convolution(proto, weight).attribute if each.name == "pads")
    pads.ints[0] += 1
    pads.ints[3] -= 1
