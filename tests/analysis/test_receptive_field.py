from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stdeploy.analysis.receptive_field import (
    ReceptiveField,
    field_of_file,
    folded,
    gaussian_clips,
    receptive_field,
    theoretical_extents,
)
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.errors import ArtifactError, DatasetError
from stdeploy.fusion import fuse_model
from stdeploy.models.checkpoint import save_checkpoint
from tests.helpers.models import TINY_CLIP, card_of, tiny_model
from tests.helpers.odd_videos import coloured_frames, encode

CLIP = ClipSpec(num_frames=12, frame_stride=3, fps=12.0, short_side_px=64, crop_px=64)


def doubles(clip: ClipSpec, count: int) -> Iterator[torch.Tensor]:
    return (each.double() for each in gaussian_clips(clip, count))


@pytest.mark.parametrize(
    ("architecture", "lengths", "expected"),
    [
        # By hand: 7x7 stride 2, pool 3 stride 2, then 3x3 with jumps of 4, 8, 16, 32.
        ("i3d-resnet50", (3, 3, 3, 3, 3), (35, 427, 427)),
        ("i3d-resnet50", (1, 1, 3, 3, 5), (33, 427, 427)),
        ("i3d-resnet50", (1, 1, 1, 1, 1), (1, 427, 427)),
        ("s3d-resnet50", (3, 3, 3, 3, 3), (35, 427, 427)),
        ("i3d-resnet18", (3, 3, 3, 3, 3), (35, 435, 435)),
    ],
)
def test_theoretical_extents(
    architecture: str, lengths: tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    spec = ModelSpec.parse(
        {"architecture": architecture, "temporal_lengths": lengths, "num_classes": 7}
    )
    assert theoretical_extents(spec) == expected


def test_theoretical_extents_of_inception_count_its_temporal_pools() -> None:
    # 7 with stride 2; then jumps of 2: 2 + 4 layers, pool; 4: 5 modules, pool of 2; 8: 2 modules.
    spec = ModelSpec(architecture="i3d-inception", temporal_lengths=(7, 3, 3, 3, 3), num_classes=7)
    frames = 7 + 2 * (2 + 2 * 2) + 2 * 2 + 4 * (2 * 5) + 4 * 1 + 8 * (2 * 2)
    assert theoretical_extents(spec)[0] == frames


@pytest.mark.parametrize("branches", ["single", "multi"])
@pytest.mark.parametrize("architecture", ["i3d-resnet18", "s3d-resnet50", "i3d-inception"])
def test_fusing_changes_no_field(architecture: str, branches: str) -> None:
    model = tiny_model(architecture, branches=branches).double()
    one = receptive_field(model, CLIP, doubles(CLIP, 2))
    other = receptive_field(fuse_model(model), CLIP, doubles(CLIP, 2))
    for name in ("density", "over_time", "over_space", "over_x_and_time"):
        before, after = getattr(one, name), getattr(other, name)
        assert np.abs(before - after).max() <= 1e-5 * before.max()
    assert other.spread_frames == pytest.approx(one.spread_frames, rel=1e-5)


def test_a_network_without_temporal_filters_sees_one_frame() -> None:
    model = tiny_model(temporal_lengths=(1, 1, 1, 1, 1))
    field = receptive_field(model, CLIP, gaussian_clips(CLIP, 1))
    np.testing.assert_array_equal(field.over_time > 0, np.arange(12) == 6)
    assert field.spread_frames == 0.0


def test_no_frame_is_seen_outside_of_the_theoretical_field() -> None:
    model = tiny_model(temporal_lengths=(1, 1, 1, 1, 3))  # 4 filters of 3: 9 frames
    clip = CLIP.model_copy(update={"num_frames": 16})
    field = receptive_field(model, clip, gaussian_clips(clip, 2))
    assert field.theoretical[0] == 9
    np.testing.assert_array_equal(field.over_time > 0, np.abs(np.arange(16) - 8) <= 4)


def test_the_field_is_the_gradient_of_the_centre_unit() -> None:
    model = tiny_model(temporal_lengths=(1, 1, 1, 3, 3)).double()
    (clip,) = doubles(CLIP, 1)
    field = receptive_field(model, CLIP, [clip])

    def unit(x: torch.Tensor) -> float:
        with torch.inference_mode():
            features = model.forward_features(x[None])
        return float(features[0, :, 6, 1, 1].mean())

    # Central differences for a few pixels, whose ratios the density has to show.
    measured, shown = [], []
    for frame, y, x in ((6, 32, 32), (5, 30, 33), (7, 20, 40), (4, 32, 31)):
        total = 0.0
        for colour in range(3):
            step = torch.zeros_like(clip)
            step[colour, frame, y, x] = 1e-6
            total += abs(unit(clip + step) - unit(clip - step)) / 2e-6
        measured.append(total)
        shown.append(field.density[frame, y, x])
    np.testing.assert_allclose(
        np.array(shown) / shown[0], np.array(measured) / measured[0], rtol=1e-4
    )


def test_marginals_sum_to_1_and_spreads_have_units() -> None:
    density = np.zeros((5, 4, 6))
    density[1, 1, 2] = density[3, 1, 4] = 0.5
    field = ReceptiveField(density, clips=1, interval_seconds=0.25, theoretical=(9, 9, 9))
    np.testing.assert_allclose(field.over_time, [0, 0.5, 0, 0.5, 0])
    assert field.over_space.shape == (4, 6)
    assert field.over_x_and_time.shape == (5, 6)
    assert field.spread_frames == 1.0
    assert field.spread_seconds == 0.25
    assert field.spread_px == (0.0, 1.0)


def test_the_network_is_left_as_it_was() -> None:
    model = tiny_model().train()
    next(model.parameters()).requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    receptive_field(model, CLIP, gaussian_clips(CLIP, 1))
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_network_of_zeros_is_refused() -> None:
    model = tiny_model()
    torch.nn.init.zeros_(model.conv1.branches[0].coefficients)
    with pytest.raises(ArtifactError, match=r"gradient of the centre unit is 0"):
        receptive_field(model, CLIP, gaussian_clips(CLIP, 1))


def test_folding_first_is_what_files_get(tmp_path: Path) -> None:
    model = tiny_model(branches="multi")
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    done: list[tuple[int, int]] = []
    field = field_of_file(tmp_path / "a.pt", clips=3, progress=lambda *counts: done.append(counts))
    expected = receptive_field(folded(model), TINY_CLIP, gaussian_clips(TINY_CLIP, 3))
    np.testing.assert_array_equal(field.density, expected.density)
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_videos_are_looked_at_and_broken_ones_passed_over(tmp_path: Path) -> None:
    model = tiny_model()
    save_checkpoint(tmp_path / "a.pt", model, card_of(model))
    videos = [tmp_path / f"{number}.mp4" for number in range(4)]
    for video in videos[1:]:
        encode(video, coloured_frames(40), "libx264")
    videos[0].write_bytes(b"no video")
    field = field_of_file(tmp_path / "a.pt", videos, clips=3)
    assert field.clips == 3
    noise = field_of_file(tmp_path / "a.pt", clips=3)
    assert np.abs(field.density - noise.density).max() > 1e-6
    with pytest.raises(DatasetError, match=r"none of the 1 videos can be read; .*0\.mp4"):
        field_of_file(tmp_path / "a.pt", videos[:1], clips=3)
