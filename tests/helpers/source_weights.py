"""What another project would have saved of a network of ours."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.parity import relative_error
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.dense_trunk import DenseTrunk
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import SpecError
from stdeploy.export.flops import STAGES, count_flops
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_checkpoint, fuse_model
from stdeploy.importing.source_weights import ConvNorm
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.models.planar import planar_form
from tests.helpers.models import card_of, randomise_norms


def without_norms(model: ActionModel, pairs: Mapping[str, ConvNorm], eps: float) -> None:
    """Random norms, but for those that the project does not have: these change nothing."""
    randomise_norms(model, seed=7)
    for ours, theirs in pairs.items():
        if theirs.norm is None:
            layer = model.get_submodule(ours)
            assert isinstance(layer, TemporalFilter)
            norm = layer.typed_branches()[0].norm
            norm.reset_parameters()
            assert norm.running_var is not None
            norm.running_var.fill_(1.0 - eps)


def under_their_names(
    model: ActionModel,
    pairs: Mapping[str, ConvNorm],
    classifier: str,
    plain: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """The tensors of a network under the names of another project.

    Args:
        model: with one branch a filter.
        pairs: our filters with their names.
        classifier: their name of the linear layer.
        plain: convolutions without norms, with their names.
    """
    tensors: dict[str, Tensor] = {}
    for ours, theirs in pairs.items():
        layer = model.get_submodule(ours)
        assert isinstance(layer, TemporalFilter)
        (branch,) = layer.typed_branches()
        tensors[f"{theirs.conv}.weight"] = branch.kernel().detach()
        if theirs.norm is not None:
            for name, tensor in branch.norm.state_dict().items():
                tensors[f"{theirs.norm}.{name}"] = tensor.clone()
    for ours, name in (plain or {}).items():
        conv = model.get_submodule(ours)
        assert isinstance(conv, nn.Conv3d)
        assert conv.bias is not None
        tensors |= {f"{name}.weight": conv.weight.detach(), f"{name}.bias": conv.bias.detach()}
    tensors[f"{classifier}.weight"] = model.head.classifier.weight.detach()
    tensors[f"{classifier}.bias"] = model.head.classifier.bias.detach()
    return tensors


def noise(model: ActionModel, frames: int, side: int) -> Tensor:
    """Two clips of normal random numbers, (2, 3, T, H, W), in the type of the weights."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((2, 3, frames, side, side), generator=generator, dtype=torch.float64)
    return x.to(next(model.parameters()).dtype)


def check_same_and_folded(model: ActionModel, ours: ActionModel, *, frames: int, side: int) -> None:
    """A network that was read computes what the other one does, folded and in planar form too."""
    x = noise(model, frames, side)
    with torch.inference_mode():
        expected, found = (network(x).double().numpy() for network in (model, ours))
        fused = fuse_model(ours)
        folded = fused(x.double()).numpy()
        planar = planar_form(fused, frames)(x.double()).numpy()
    assert relative_error(expected, found) < 1e-5
    assert relative_error(expected, folded) < 1e-5
    assert relative_error(folded, planar) < 1e-12


def check_fused_exported_counted(model: ActionModel, clip: ClipSpec, folder: Path) -> Path:
    """Every step from a checkpoint to an .onnx file, which is returned, keeps what it is."""
    save_checkpoint(folder / "a.pt", model, card_of(model, clip))
    assert all(row.passed for row in fuse_checkpoint(folder / "a.pt").parity)
    export_onnx(folder / "a.fused.safetensors")
    card = read_card(folder / "a.onnx")
    assert card.model.layout == model.spec.layout
    cost = count_flops(card.model, num_frames=clip.num_frames, side_px=clip.crop_px)
    assert sum(cost.by_stage[stage] for stage in STAGES) == cost.total
    return folder / "a.onnx"


def check_refused_by_dense_timelines(path: Path, said: str) -> None:
    """Why a dense timeline cannot take a network, and what can."""
    card, options = read_card(path), RuntimeOptions(backend="onnxruntime")
    with (
        open_runtime(path, card, options) as runtime,
        pytest.raises(SpecError, match=rf"{said}.* pass --timeline windows$"),
    ):
        DenseTrunk.open(path, card, runtime)
