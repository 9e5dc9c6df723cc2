"""The networks that are measured, as artifacts; in a rehearsal tiny ones of the same kinds."""

import dataclasses
import shutil
from pathlib import Path

import torch
from results import digest_of_sources

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import cache_folder, fused_path, onnx_path
from stdeploy.artifacts.spec import ClipSpec, Form, ModelSpec, Precision
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_model
from stdeploy.models.checkpoint import load_model, save_checkpoint, save_fused
from stdeploy.models.frames_to_logits import golden_of
from stdeploy.models.registry import build
from stdeploy.pull.download import KINETICS_I3D
from stdeploy.pull.kinetics import CLIP, SPEC, pull_kinetics_i3d

# I3D-ResNet-50 b1 of the paper's Table 2.
_B1 = ModelSpec(architecture="i3d-resnet50", temporal_lengths=(1, 1, 3, 3, 5), num_classes=87)
_TINY = {"width": 0.125, "num_classes": 5}
_TINY_CLIP = ClipSpec(
    num_frames=8, frame_stride=2, fps=12.0, short_side_px=40, crop_px=32, short_video="hold"
)


@dataclasses.dataclass(frozen=True)
class Where:
    """Where a stage runs.

    Attributes:
        rehearsal: on a CPU, with tiny networks.
        folder: for artifacts; what lies there is taken.
    """

    rehearsal: bool
    folder: Path


def spec_of(name: str, where: Where) -> tuple[ModelSpec, ClipSpec]:
    """Of "kinetics" or "b1"."""
    spec, clip = {"kinetics": (SPEC, CLIP), "b1": (_B1, ClipSpec(num_frames=32))}[name]
    return (spec.model_copy(update=_TINY), _TINY_CLIP) if where.rehearsal else (spec, clip)


def has_real_weights() -> bool:
    """Whether the Kinetics weights have been downloaded before."""
    return (cache_folder() / KINETICS_I3D.file_name).is_file()


def checkpoint(name: str, where: Where) -> Path:
    """The network with its branches, and its fused weights beside it; made if they are not there.

    `stdeploy fuse` would verify them; the tests have. Without the Kinetics weights they are
    random, which times do not depend on.
    """
    path = where.folder / digest_of_sources() / f"{name}.pt"
    if fused_path(path).is_file():
        return path
    for older in where.folder.glob("*/kinetics.pt"):  # of other sources
        if older.parent != path.parent:
            shutil.rmtree(older.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "kinetics" and not where.rehearsal and has_real_weights():
        pull_kinetics_i3d(path, lambda _done, _total: None)
        model, card = load_model(path)
    else:
        spec, clip = spec_of(name, where)
        torch.manual_seed(0)
        model = build(spec).eval()
        labels = tuple(f"class {number}" for number in range(spec.num_classes))
        card = ModelCard(model=spec, clip=clip, labels=labels, golden=golden_of(model, clip))
        save_checkpoint(path, model, card)
    fused = fuse_model(model).float()
    save_fused(fused_path(path), fused, card.model_copy(update={"model": fused.spec}))
    return path


def exported(name: str, precision: Precision, where: Where, form: Form = "conv3d") -> Path:
    """Its .onnx file in a precision and a form; made if it is not there."""
    fused = fused_path(checkpoint(name, where))
    path = onnx_path(fused, precision, form)
    if not path.is_file():
        # Random weights hesitate between classes, which rounding then decides.
        random = where.rehearsal or not has_real_weights()
        allow = {"top1_changed": 1.0} if random and precision != "fp32" else {}
        export_onnx(fused, precision=precision, form=form, allow=allow)
    return path
