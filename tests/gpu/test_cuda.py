"""Networks on a GPU: the logits of the CPU, and gradients that can be had again."""

import numpy as np
import pytest
import torch

from stdeploy.fusion import fuse_model
from stdeploy.models.frames_to_logits import FrameNormalisation, logits_of
from stdeploy.models.planar import planar_form
from stdeploy.models.registry import ARCHITECTURES
from stdeploy.train.determinism import deterministic_algorithms, replace_max_pools
from tests.gpu.conftest import Gpu
from tests.helpers.models import TINY_CLIP, tiny_model

pytestmark = pytest.mark.needs_cuda


@pytest.mark.parametrize("causal", [False, True], ids=["centred", "causal"])
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_cuda_gives_the_logits_of_the_cpu(architecture: str, causal: bool, gpu: Gpu) -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    lengths = (3, 1, 3, 3, 5)
    model = fuse_model(tiny_model(architecture, temporal_lengths=lengths, causal=causal)).float()
    frames = np.random.default_rng(0).integers(0, 256, (3, *TINY_CLIP.frames_shape), np.uint8)
    expected = logits_of(model, TINY_CLIP, frames)
    planar = planar_form(model, TINY_CLIP.num_frames).to(gpu.device)
    for network in (model.to(gpu.device), planar):
        actual = logits_of(network, TINY_CLIP, frames)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize(
    ("precision", "causal"), [("fp32", False), ("bf16", False), ("bf16", True)]
)
def test_gradients_are_equal_each_time_where_they_have_to_be(
    architecture: str, precision: str, causal: bool, gpu: Gpu
) -> None:
    model = tiny_model(
        architecture, temporal_lengths=(3, 1, 3, 3, 5), branches="multi", causal=causal
    )
    model = model.to(gpu.device).train()
    replace_max_pools(model)
    normalise = FrameNormalisation(TINY_CLIP).to(gpu.device)
    frames = torch.randint(256, (4, 8, 64, 64, 3), dtype=torch.uint8, device=gpu.device)
    labels = torch.arange(4, device=gpu.device)
    found = []
    for _ in range(5):
        torch.manual_seed(0)  # dropout
        model.zero_grad()
        with deterministic_algorithms():
            with torch.autocast(gpu.device, torch.bfloat16, enabled=precision == "bf16"):
                loss = torch.nn.functional.cross_entropy(model(normalise(frames)), labels)
            loss.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for again in found[1:]:
        assert [n for n, grad in again.items() if not torch.equal(grad, found[0][n])] == []
