"""The spatio-temporal kernels of a network, read from any file that holds weights."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.contents import (
    check_if_ours,
    foreign_tensors,
    read_contents,
    torch_content,
)
from stdeploy.artifacts.files import existing
from stdeploy.artifacts.spec import Form
from stdeploy.errors import ArtifactError

if TYPE_CHECKING:
    from stdeploy.layers.temporal import TemporalFilter

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One spatio-temporal convolution.

    Attributes:
        name: of the layer, without what all layers share.
        stage: group of layers: conv3, layer3, blocks.3, Mixed_5, whatever the names begin with.
        weight: (C_out, C_in, t, h, w), t at least 2.
    """

    name: str
    stage: str
    weight: NDArray[np.floating]


def read_kernels(path: Path, *, folded: bool = False) -> list[Kernel]:
    """Read every kernel that is longer than one frame.

    Of a checkpoint of ours, filters with one branch are given as they were trained, like those
    of any other network; filters with several branches as the sum that they fold into (eq. 2),
    since the branches have no scale in common without their norms. With `folded` all are given
    with their norms, which is what a fused artifact holds.

    Args:
        path: a .pt, .fused.safetensors or .onnx file of ours; or anyone's .pt, .pth, .ckpt,
            .bin or .safetensors file with a state_dict, or .onnx file.
        folded: fold the norms of our checkpoints in.

    Raises:
        ArtifactError: not such a file, one without a spatio-temporal kernel, or one of ours that
            was changed since it was written.
        MissingExtraError: torch is not installed, and the file is torch's.
    """
    existing(path)
    if path.suffix not in _SUFFIXES:
        raise ArtifactError(
            f"{str(path)!r} holds no weights that can be analysed; give a file that ends in "
            f"{', '.join(_SUFFIXES)}"
        )
    if path.suffix == ".onnx":
        tensors = _from_onnx(path)
        check_if_ours(path)
    elif path.suffix == ".safetensors":
        tensors = _from_safetensors(path)
        check_if_ours(path)
    else:
        tensors = _from_torch(path, folded=folded)
    found = {
        name.removesuffix(".weight"): weight
        for name, weight in tensors.items()
        if weight.ndim == 5 and weight.shape[2] > 1 and weight.size
    }
    form = "conv3d" if found else _form(path)
    if form != "conv3d":
        raise ArtifactError(
            f"{str(path)!r} is in {form} form, whose filters lie stacked in channels; give the "
            "*.fused.safetensors file that it was made from, or the usual .onnx file"
        )
    if not found:
        raise ArtifactError(
            f"{str(path)!r} has no spatio-temporal filter: none of its {len(tensors)} tensors is "
            "(C_out, C_in, t, h, w) with t > 1"
        )
    for name, weight in found.items():
        if not np.isfinite(weight).all():
            raise ArtifactError(
                f"layer {name!r} of {str(path)!r} holds numbers that are not finite; the training "
                "has diverged, or the file is damaged"
            )
    shared = _shared_prefix(list(tensors))
    return [
        Kernel(name[len(shared) :], stage_of(name[len(shared) :]), weight)
        for name, weight in found.items()
    ]


def stage_of(name: str) -> str:
    """The group of layers that a layer belongs to, by its name.

    >>> stage_of("conv3.1.path_a.1.0"), stage_of("layer3.0.conv2"), stage_of("blocks.3.conv.a")
    ('conv3', 'layer3', 'blocks.3')
    >>> stage_of("Mixed_5c.branch1"), stage_of("stem.conv")
    ('Mixed_5', 'stem')
    """
    first, *rest = name.split(".")
    numbered = re.fullmatch(r"(.*?\d+)[a-z]?", first)
    if numbered:
        return numbered[1]
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first


def _shared_prefix(names: list[str]) -> str:
    """What all names begin with, up to a dot: "module.", "model.backbone."."""
    shared: list[str] = []
    for parts in zip(*(name.split(".")[:-2] for name in names), strict=False):
        # A number tells layers apart, even where there is only one.
        if len(set(parts)) > 1 or parts[0].isdigit():
            break
        shared.append(parts[0])
    return "".join(f"{part}." for part in shared)


def _from_onnx(path: Path) -> Mapping[str, NDArray[np.floating]]:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        graph = onnx.load(path).graph
    except (DecodeError, OSError) as error:
        raise ArtifactError(f"{str(path)!r} is no ONNX file: {error}") from error
    # Only kernels: the initialisers of a graph hold constants of all kinds.
    kernels = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    quantised = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    tensors = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name in kernels
    }
    if not any(tensor.ndim == 5 for tensor in tensors.values()) and quantised:
        raise ArtifactError(
            f"the weights of {str(path)!r} are quantised; analyse the file that it was made from"
        )
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}


def _from_safetensors(path: Path) -> Mapping[str, NDArray[np.floating]]:
    from safetensors import SafetensorError, safe_open

    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            # Such a file has no order of its own: layer3.2 comes before layer3.10.
            for name in sorted(file.keys(), key=_natural):
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError, TypeError) as error:
        raise ArtifactError(f"{str(path)!r} is no usable safetensors file: {error}") from error
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}


def _natural(name: str) -> list[tuple[int, str]]:
    """A key to sort by that takes digits as numbers."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _from_torch(path: Path, *, folded: bool) -> Mapping[str, NDArray[np.floating]]:
    content = torch_content(path, extra="analysis")
    if isinstance(content, dict) and isinstance(content.get("card"), str):
        del content  # it is read once more, checked against its card
        return dict(_of_our_checkpoint(path, folded=folded))
    tensors = foreign_tensors(content, path)
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def _of_our_checkpoint(path: Path, *, folded: bool) -> Iterator[tuple[str, NDArray[np.floating]]]:
    from stdeploy.fusion import filters_of
    from stdeploy.models.checkpoint import load_model

    model, _ = load_model(path)
    for name, layer in filters_of(model):
        yield name, kernel_of(layer, folded=folded)


def kernel_of(layer: "TemporalFilter", *, folded: bool = False) -> NDArray[np.floating]:
    """The kernel of a TemporalFilter in evaluation mode; see `read_kernels`.

    Args:
        layer: a filter of ours.
        folded: with its norm, even if there is only one branch.

    Returns:
        (C_out, C_in, t, h, w).
    """
    branches = layer.typed_branches()
    if len(branches) == 1 and not folded:
        raw: NDArray[np.floating] = branches[0].kernel().detach().cpu().numpy()
        return raw
    # Folding is in float64, as always; a whole network in it would take gigabytes.
    kernel: NDArray[np.floating] = layer.fold().weight.detach().float().cpu().numpy()
    return kernel


def _form(path: Path) -> Form:
    """How an .onnx file of ours computes in time; "conv3d" of any other file."""
    if path.suffix != ".onnx" or read_contents(path).card is None:
        return "conv3d"
    return read_card(path).form
