"""From files to what the analysis says about them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stdeploy.analysis.receptive_field import ReceptiveField, gaussian_clips, receptive_field
from stdeploy.errors import DatasetError, VideoError
from stdeploy.fuse import fuse_model
from stdeploy.layers.frames import FrameNormalisation
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.spec import ClipSpec
from stdeploy.video.clips import read_views


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
    three times faster.

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
    given = 0
    for video in evenly(videos, count):
        if given == count:
            return
        try:
            frames: NDArray[np.uint8] = read_views(video, clip, views=1).frames
        except VideoError as error:
            reason = error
            continue
        given += 1
        yield normalise(torch.from_numpy(frames))[0]
    if not given:
        raise DatasetError(
            f"none of the {len(videos)} video(s) can be read; the last, {str(video)!r}, {reason}"
        )


def evenly(videos: Sequence[Path], count: int) -> list[Path]:
    """All videos, so ordered that the first `count` are spread evenly over them.

    The others are spares for those that cannot be read.
    """
    wanted = min(count, len(videos))
    chosen = [videos[number * len(videos) // wanted] for number in range(wanted)]
    return [*chosen, *(video for video in videos if video not in set(chosen))]
