"""What only a GPU can show. `make gpu-check` runs these and fails where one is skipped."""

import numpy as np
import pytest
import torch

from stdeploy.fuse import fuse_model
from stdeploy.models.inference import logits_of
from stdeploy.models.registry import ARCHITECTURES
from tests.conftest import TINY_CLIP, tiny_model

pytestmark = pytest.mark.needs_cuda


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_cuda_gives_the_logits_of_the_cpu(architecture: str) -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    model = fuse_model(tiny_model(architecture, temporal_lengths=(3, 1, 3, 3, 5))).float()
    frames = np.random.default_rng(0).integers(0, 256, (3, *TINY_CLIP.frames_shape), np.uint8)
    expected = logits_of(model, TINY_CLIP, frames)
    actual = logits_of(model.cuda(), TINY_CLIP, frames)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
