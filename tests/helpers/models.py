"""Small networks with random norms, and the cards and files that tests need of them."""

from pathlib import Path

import onnx
import torch
from torch import nn

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.digest import CARD_KEY, OnnxFile
from stdeploy.artifacts.golden import GOLDEN_SEED, golden_clip
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.models.base import ActionModel
from stdeploy.models.frames_to_logits import golden_of, logits_of
from stdeploy.models.registry import build

TINY_CLIP = ClipSpec(
    num_frames=8, frame_stride=2, fps=12.0, short_side_px=40, crop_px=32, short_video="hold"
)


def randomise_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm random statistics and affine terms, then set evaluation mode.

    With fresh norms (mean 0, variance 1, scale 1) a folding that forgets any of them passes.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        draw = torch.rand(like.shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * draw.to(like)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.weight.copy_(uniform(module.weight, 0.5, 1.5))
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))
                module.running_mean.copy_(uniform(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(uniform(module.running_var, 0.5, 2.0))
    return model.eval()


def tiny_model(
    architecture: str = "i3d-resnet18", *, num_classes: int = 5, seed: int = 0, **fields: object
) -> ActionModel:
    """A narrow network with random norms, in evaluation mode."""
    torch.manual_seed(seed)
    spec = ModelSpec.parse(
        {"architecture": architecture, "num_classes": num_classes, "width": 0.125, **fields}
    )
    model = build(spec)
    randomise_norms(model, seed)
    return model


def cancelling_model() -> ActionModel:
    """Two classes whose logits for the golden clip are what cancelling terms leave over."""
    model = tiny_model(num_classes=2, temporal_lengths=(1, 1, 3, 3, 5))
    frames = golden_clip(GOLDEN_SEED, TINY_CLIP.frames_shape)[None]
    with torch.no_grad():
        model.head.classifier.weight.mul_(10.0)
        logits = torch.from_numpy(logits_of(model, TINY_CLIP, frames)[0]).float()
        model.head.classifier.bias.sub_(logits - torch.tensor([1e-4, -1e-4]))
    return model


def write_signed(proto: onnx.ModelProto, path: Path) -> None:
    """Write a graph that a test has changed, with the content digest of what it is now.

    So that what comes after the digest is tested: the signature, the golden clip.
    """
    file = OnnxFile.of(memoryview(proto.SerializeToString()))
    file.with_card(file.metadata[CARD_KEY]).write(path)


def card_of(model: ActionModel, clip: ClipSpec = TINY_CLIP) -> ModelCard:
    """A card for a model, with the golden logits that it really gives."""
    labels = tuple(f"class {number}" for number in range(model.spec.num_classes))
    return ModelCard(model=model.spec, clip=clip, labels=labels, golden=golden_of(model, clip))
