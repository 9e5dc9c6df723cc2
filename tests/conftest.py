"""Fixtures and hooks of all tests. It imports nothing but what every installation has."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests without a GPU, except where `make gpu-check` wants them run or rehearsed."""
    on_a_gpu = [item for item in items if item.get_closest_marker("needs_cuda")]
    wanted = ("STDEPLOY_REQUIRE_GPU", "STDEPLOY_REHEARSE_GPU")
    if not on_a_gpu or any(os.environ.get(name) for name in wanted) or _torch_has_a_gpu():
        return
    for item in on_a_gpu:
        item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


def _torch_has_a_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True, scope="session")
def _choices_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Which backend was faster in a test is not remembered among the user's own artifacts."""
    folder = tmp_path_factory.mktemp("choices")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stdeploy.backends.selection.cache_folder", lambda: folder)
        yield


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """Real and odd videos of this workplace; they are no part of the project."""
    folder = SHARED / "videos"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder
