"""From files to what the analysis says about them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stdeploy.analysis.receptive_field import ReceptiveField, gaussian_clips, receptive_field
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import DatasetError, VideoError
from stdeploy.fusion import fuse_model
from stdeploy.layers.frames import FrameNormalisation
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.video.samples import middle_clips


def field_of_file(
    path: Path,
    videos: Sequence[Path] = (),
    *,
    clips: int,
    num_frames: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ReceptiveField:
    """The effective receptive field of a network in a file.

    Branches and norms are folded first, in memory: the field stays the same, and is computed
    sooner (I3D-ResNet-50 with branches: 1.6 times).

    Args:
        path: a .pt or .fused.safetensors file of ours.
        videos: whose middle clips are looked at, evenly chosen; none for Gaussian noise.
        clips: how many, at most.
        num_frames: of a clip; None for the network's own. A field that is cut off at the ends of
            a short clip shows its width in a longer one.
        progress: is told clips done and wanted.

    Raises:
        ArtifactError: no such file, or its gradient is 0 or not finite.
        DatasetError: no video can be read.
    """
    model, card = load_model(path)
    clip = card.clip.model_copy(update={"num_frames": num_frames or card.clip.num_frames})
    inputs: Iterator[Tensor] = (
        _clips_of(videos, clip, clips) if videos else gaussian_clips(clip, clips)
    )
    count = min(clips, len(videos)) if videos else clips
    return receptive_field(folded(model), clip, inputs, progress=lambda done: progress(done, count))


def folded(model: ActionModel) -> ActionModel:
    """The same network with single filters, in float32."""
    return model if model.spec.fused else fuse_model(model).float()


def _clips_of(videos: Sequence[Path], clip: ClipSpec, count: int) -> Iterator[Tensor]:
    """The middle clips of videos, normalised, (3, T, H, W) each; broken ones are passed over.

    Raises:
        DatasetError: none can be read.
    """
    normalise = FrameNormalisation(clip)
    try:
        for frames in middle_clips(videos, clip, count=count):
            yield normalise(torch.from_numpy(frames[None]))[0]
    except VideoError as error:
        raise DatasetError(str(error)) from error
