"""Memory of a GPU: what a runtime holds does not grow, and too large a batch is one error."""

from pathlib import Path

import numpy as np
import pytest

from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ArtifactError
from stdeploy.fusion import fuse_model
from stdeploy.models.checkpoint import save_fused
from tests.gpu.conftest import Gpu
from tests.helpers.models import TINY_CLIP, card_of, tiny_model

pytestmark = pytest.mark.needs_cuda


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "a.fused.safetensors"
    model = fuse_model(tiny_model()).float()
    save_fused(path, model, card_of(model))
    return path


def frames(batch: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, *TINY_CLIP.frames_shape), np.uint8)


@pytest.mark.parametrize("graphs", [False, True])
def test_memory_does_not_grow_with_the_number_of_batches(
    artifact: Path, gpu: Gpu, graphs: bool
) -> None:
    with open_runtime(artifact, options=gpu.torch("fp32", cuda_graphs=graphs)) as runtime:
        for batch in (1, 2, 5, 8):  # each is captured once
            runtime.run(frames(batch))
        before = gpu.allocated_bytes()
        answers = [runtime.run(frames(batch)) for _ in range(10) for batch in (1, 2, 5, 8)]
        assert gpu.allocated_bytes() <= before
    assert np.array_equal(answers[0], answers[4])


def test_a_batch_that_does_not_fit_is_one_error_and_the_next_one_runs(
    artifact: Path, gpu: Gpu
) -> None:
    with open_runtime(artifact, options=gpu.torch("fp32")) as runtime:
        expected = runtime.run(frames(1))
        message = f"a batch of 64 clips does not fit into the memory of {gpu.name}"
        with gpu.without_memory(runtime), pytest.raises(ArtifactError, match=message):
            runtime.run(frames(64))
        np.testing.assert_allclose(runtime.run(frames(1)), expected, rtol=1e-4, atol=1e-4)
