"""Frames that are resized as tensors are those that OpenCV resizes."""

import numpy as np
import pytest
import torch

from stdeploy.errors import VideoError
from stdeploy.video import tensor_transform, transform


@pytest.mark.parametrize(
    ("height", "width", "short_side"),
    [
        *[(256, 340, 256), (240, 427, 256), (480, 854, 224), (1080, 1920, 256), (96, 64, 200)],
        *[(301, 517, 150), (301, 517, 149), (720, 405, 128), (1080, 608, 112)],
    ],
)
def test_like_opencv(height: int, width: int, short_side: int) -> None:
    frames = scene(height, width)
    expected = np.stack([transform.resize_short_side(frame, short_side) for frame in frames])
    resized = tensor_transform.resize_short_side(torch.from_numpy(frames), short_side)
    assert resized.dtype == torch.uint8
    np.testing.assert_array_equal(resized.numpy(), expected)


def test_a_frame_too_narrow_is_refused() -> None:
    frames = torch.zeros(1, 2, 2000, 3, dtype=torch.uint8)
    with pytest.raises(VideoError, match="2000x2 px, which cannot be resized"):
        tensor_transform.resize_short_side(frames, 224)


def scene(height: int, width: int) -> np.ndarray:
    """Two frames, with structure of a few pixels and noise of one."""
    rng = np.random.default_rng(height * width)
    rows, columns = np.mgrid[:height, :width]
    waves = 60 * np.sin(rows / 5) + 60 * np.cos(columns / 7)
    noise = rng.integers(-60, 60, (2, height, width, 3))
    return np.clip(128 + waves[None, :, :, None] + noise, 0, 255).astype(np.uint8)
