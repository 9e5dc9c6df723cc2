"""2D convolutions that add and rectify within their kernel, in place of three kernels of torch.

A GPU waits for its memory in what follows a convolution: bias, sum and ReLU each read and write
all that it made. cuDNN has one kernel for y = relu(conv(x, W) + z + b), which torch offers for 2D
convolutions and does not use by itself. So a network in planar form becomes a program of
torch.export, whose nodes are exchanged.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.functional import conv2d

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import SpecError
from stdeploy.models.base import exporting_for_torch
from stdeploy.models.frames_to_logits import FramesToLogits

_aten = torch.ops.aten
_RELUS = (_aten.relu.default, _aten.relu_.default)
_SUMS = (_aten.add.Tensor, _aten.add_.Tensor)
ALIGNED_CHANNELS = 8  # cuDNN fuses where 16 bytes of half precision are whole pixels' channels


def program_of(
    graph: FramesToLogits, clip: ClipSpec, *, then: Literal["eager", "compiled"], batch: int = 2
) -> torch.export.ExportedProgram:
    """A network as a program for torch itself: any batch, memory formats as without it.

    Args:
        graph: in evaluation mode, on its device.
        clip: what it takes.
        then: whether the program is run as it is, or compiled.
        batch: clips that kernels are chosen for, where that is done from the program; two or more,
            because torch.export takes a batch of one for a constant.
    """
    device = next(graph.parameters()).device
    example = torch.zeros((max(2, batch), *clip.frames_shape), dtype=torch.uint8, device=device)
    with torch.no_grad(), exporting_for_torch(then):
        return torch.export.export(
            graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )


def with_fused_epilogues(graph: FramesToLogits, clip: ClipSpec) -> nn.Module:
    """The same network with bias, sum and ReLU that follow a convolution within it.

    Convolutions with groups, or of channels that are no multiples of 8, stay as they are.

    Args:
        graph: in planar form, on the device and in the memory format that it will run in.
        clip: what it takes.

    Returns:
        Maps uint8 frames (N, T, H, W, 3) to logits (N, K).

    Raises:
        SpecError: the network has no such place.
    """
    module = program_of(graph, clip, then="eager").module()
    fused = sum(_fuse(module, node) for node in list(module.graph.nodes))
    if not fused:
        raise SpecError("this network has no ReLU behind a 2D convolution that could be fused")
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
) -> Tensor:
    """relu(conv(x, W) + z + b): in one kernel on a GPU, one after the other elsewhere.

    Args:
        x: (N, C_in, H, W).
        weight: (C_out, C_in / groups, kH, kW).
        bias: (C_out,).
        z: of the shape of the answer.
        stride: of the convolution, along H and W.
        padding: likewise.
        groups: likewise.

    Returns:
        (N, C_out, H', W').
    """
    if x.device.type != "cuda":
        made = conv2d(x, weight, bias, list(stride), list(padding), groups=groups)
        return (made if z is None else made.add_(z)).relu_()
    one = (list(stride), list(padding), [1, 1], groups)
    if z is None:
        return cast(Tensor, _aten.cudnn_convolution_relu(x, weight, bias, *one))
    return cast(Tensor, _aten.cudnn_convolution_add_relu(x, weight, z, 1.0, bias, *one))


def _fuse(module: GraphModule, relu: Node) -> bool:
    """Put a convolution in the place of a ReLU that follows it, with what is added in between."""
    if relu.target not in _RELUS:
        return False
    conv, z = cast(Node, relu.args[0]), None
    if conv.target in _SUMS and _is_plain_sum(conv) and len(conv.users) == 1:
        first, second = cast(tuple[Node, Node], conv.args)
        conv, z = (first, second) if _is_fusible(first) else (second, first)
    if not _is_fusible(conv):
        return False
    x, weight, bias, stride, padding, dilation, groups = _arguments(conv)
    channels = (x.meta["val"].shape[1], conv.meta["val"].shape[1])
    if (
        tuple(dilation) != (1, 1)
        or groups != 1
        or any(count % ALIGNED_CHANNELS for count in channels)
    ):
        return False
    with module.graph.inserting_before(relu):
        fused = module.graph.call_function(conv_relu, (x, weight, bias, z, stride, padding, groups))
    fused.meta = dict(relu.meta)
    relu.replace_all_uses_with(fused)
    # Before dead code is looked for: what works in place counts as alive.
    for dead in (relu, *([cast(Node, relu.args[0])] if z is not None else []), conv):
        module.graph.erase_node(dead)
    return True


def _is_fusible(node: Node) -> bool:
    """Whether a node is a 2D convolution that nothing else needs the answer of."""
    return isinstance(node, Node) and node.target == _aten.conv2d.default and len(node.users) == 1


def _is_plain_sum(node: Node) -> bool:
    """Whether two tensors of one shape are added, neither of them multiplied."""
    parts = node.args
    if len(parts) != 2 or node.kwargs or not all(isinstance(part, Node) for part in parts):
        return False
    first, second = (cast(Node, part).meta["val"] for part in parts)
    return bool(first.shape == second.shape and first.dtype == second.dtype)


def _arguments(conv: Node) -> tuple[Any, ...]:
    """All arguments of conv2d, with their defaults."""
    defaults: list[Any] = [None, None, None, [1, 1], [0, 0], [1, 1], 1]
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = [*conv.args, *defaults[len(conv.args) :]]
    return tuple(conv.kwargs.get(name, value) for name, value in zip(names, given, strict=True))
