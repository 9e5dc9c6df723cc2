"""Frames of clips, in the memory of this program or of a GPU, and what decodes them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    # uint8 (..., H, W, 3), RGB.
    Frames = NDArray[np.uint8] | Tensor
else:
    Frames = Any


# What reads videos; here, because settings and options name it and load no library.
DecoderName = Literal["auto", "opencv", "pyav", "nvdec"]


def on_host(frames: Frames) -> NDArray[np.uint8]:
    """The same frames, fetched where they lie on a GPU."""
    if isinstance(frames, np.ndarray):
        return frames
    fetched: NDArray[np.uint8] = frames.cpu().numpy()
    return fetched


def stacked(clips: Sequence[Frames]) -> Frames:
    """Clips (T, H, W, 3) as one batch (N, T, H, W, 3), on the GPU where all of them lie there."""
    if len(clips) == 1:
        return clips[0][None]  # needs no copy
    if any(isinstance(clip, np.ndarray) for clip in clips):
        return np.stack([on_host(clip) for clip in clips])
    import torch  # whoever has made tensors has it

    return torch.stack(list(clips))  # type: ignore[arg-type]
