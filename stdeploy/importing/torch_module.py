"""Anybody's torch module to an artifact, from Python: exported, then imported as its graph."""

import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stdeploy.artifacts.files import ONNX_SUFFIX, StrPath, as_path, checked_output
from stdeploy.artifacts.golden import GOLDEN_SEED, golden_clip
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.errors import ArtifactError, SpecError
from stdeploy.export.torch_to_onnx import torch_to_onnx
from stdeploy.importing.clip_description import ClipDescription, Described, OwnerAnswer, inputs_of
from stdeploy.importing.graph_output import time_axis
from stdeploy.importing.onnx_import import ImportResult, import_onnx
from stdeploy.optional_packages import require

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal


def import_network(
    module: nn.Module,
    output: StrPath,
    *,
    clip: ClipSpec,
    labels: Sequence[str],
    example: Tensor | None = None,
    layout: str = "NCTHW",
    gives: Literal["logits", "probabilities"] = "logits",
    per_frame: bool = False,
    colour_order: Literal["RGB", "BGR"] = "RGB",
    name: str = "",
    origin: str = "",
    licence: str = "",
    progress: Progress = lambda _what, _done, _total: None,
) -> ImportResult:
    """Make an artifact of a torch module: uint8 frames (N, T, H, W, 3) in, logits (N, K) out.

    It is exported to ONNX and imported as `import_onnx` does it. What comes out has to repeat the
    module's own answer to a clip, too.

    Args:
        module: in evaluation mode, float32, on the CPU; it takes one tensor of normalised clips and
            gives one of (N, K), or of a row for each step in time. It is not changed.
        output: a name that ends in .onnx.
        clip: what it sees; pixels in 0..1 are normalised by its mean and std, which stand for R, G,
            B whatever the order of the channels is.
        labels: names of the K classes, in the order of the logits.
        example: what the module takes, where zeros of the clip's shape and a batch of two will not
            do; for tracing alone.
        layout: axes of what it takes; see `InputDescription`.
        gives: what its numbers are.
        per_frame: whether it gives a row for each step in time, which are averaged.
        colour_order: of the channels.
        name: of the network, for the card.
        origin: who made the weights, for the card.
        licence: of the weights, for the card.
        progress: is told what is done, how much of it and of how much.

    Raises:
        SpecError: the module is in training mode, or of another type or device, or the arguments
            do not fit it.
        ArtifactError: it cannot be exported, or its graph cannot be used.
        ParityError: the artifact answers otherwise than the module; nothing is written.
        MissingExtraError: onnxscript or ONNX Runtime is not installed.
    """
    require("onnxscript", extra="export", purpose="exporting to ONNX")
    path = checked_output(as_path(output, "an output"), ONNX_SUFFIX)
    network = _checked(module, clip, labels)
    turned = -1 if colour_order == "BGR" else 1
    said = Described.parse(
        {
            "name": name,
            "origin": origin,
            "licence": licence,
            "labels": tuple(labels),
            "clip": clip.model_dump(exclude={"mean", "std", "colour_order"}),
            "input": {
                "layout": layout,
                "range": "0..1",
                "mean": clip.mean[::turned],
                "std": clip.std[::turned],
                "colour_order": colour_order,
            },
            "output": {"gives": gives, "per_frame": per_frame},
        },
        source="import_network",
    )
    description = ClipDescription.of(said, Path("import_network"))
    frames = golden_clip(GOLDEN_SEED, description.clip.frames_shape)
    (taken,) = inputs_of(description, frames[None])
    owner = OwnerAnswer(frames, _answer(network, torch.from_numpy(taken), description))
    description = dataclasses.replace(description, owner=owner, answered_by="its module")
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / path.name
        progress("writing the graph", 0, 1)
        twice = torch.zeros((2, *taken.shape[1:])) if example is None else example
        _export(network, twice, graph)
        return import_onnx(graph, description, path, progress=progress)


def _checked(module: nn.Module, clip: ClipSpec, labels: Sequence[str]) -> nn.Module:
    """The network in a module, once the arguments are of their kinds.

    Raises:
        SpecError: they are not, or it cannot be exported as it is.
    """
    for what, value, kind in (("module", module, nn.Module), ("clip", clip, ClipSpec)):
        if not isinstance(value, kind):
            raise SpecError(f"{what} is wanted as {kind.__name__}, not as {type(value).__name__}")
    if isinstance(labels, str):
        raise SpecError(f"labels = {labels[:80]!r}: a list of names is wanted, not one text")
    network = _bare(module)
    _check(network)
    return network


def _bare(module: nn.Module) -> nn.Module:
    """The network within what training programs put around it."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner  # of torch.compile
        else:
            return module


def _check(network: nn.Module) -> None:
    """Refuse what would be exported as something else, or not at all.

    Raises:
        SpecError: training mode, other numbers than float32, or another device.
    """
    if any(part.training for part in network.modules()):
        raise SpecError(
            "the module is in training mode, in which norms and dropout answer by chance; call "
            "module.eval() first"
        )
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise SpecError(f"{name} is {tensor.dtype}; call module.float() first")
        if tensor.device.type != "cpu":
            raise SpecError(f"{name} is on {tensor.device}; call module.cpu() first")


@torch.no_grad()
def _answer(network: nn.Module, x: Tensor, description: ClipDescription) -> NDArray[np.float64]:
    """What the module itself gives for a clip: (K,), averaged where it has rows.

    Raises:
        SpecError: it does not take the clip, or gives what is not described.
    """
    try:
        answer = network(x)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError(
            f"the module does not take {tuple(x.shape)}, which clip and layout make: {reason}"
        ) from error
    if not isinstance(answer, Tensor):
        raise SpecError(f"the module gives {type(answer).__name__}; one tensor of logits is wanted")
    axis = time_axis(answer.shape, description, source=type(network).__name__)
    answer = answer.double()
    return (answer if axis is None else answer.mean(dim=axis)).reshape(-1).numpy()


def _export(network: nn.Module, example: Tensor, path: Path) -> None:
    batch = torch.export.Dim("batch")
    try:
        graph = torch_to_onnx(network, (example,), dynamic_shapes=({0: batch},), precision="fp32")
    except Exception as error:  # whatever a stranger's module makes torch.export raise
        # What it raises is a page of advice; what went wrong is its cause.
        reason = " ".join(_COLOURS.sub("", str(error.__cause__ or error)).split())[:200]
        raise ArtifactError(
            f"torch.onnx.export cannot export the module: {reason}; export it by other means, "
            "and import the .onnx file"
        ) from error
    onnx.save(graph, path)
