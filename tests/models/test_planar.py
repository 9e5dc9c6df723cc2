"""The planar form computes what the 3D network does, to the last digits of float64."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from stdeploy.artifacts.parity import relative_error
from stdeploy.errors import SpecError
from stdeploy.fusion import fuse_model
from stdeploy.models.base import ActionModel, SlidingAverage, frames_to_batch
from stdeploy.models.i3d_inception import SamePadding
from stdeploy.models.planar import planar_form
from stdeploy.models.planar_modules import (
    PlanarMaxPool,
    PlanarSamePadding,
    PlanarSlidingAverage,
    StackedConv,
    SummedConv,
    Taps,
)
from stdeploy.models.registry import ARCHITECTURES
from tests.helpers.models import tiny_model

LENGTHS = [(1, 1, 3, 3, 5), (7, 3, 5, 3, 3), (5, 1, 1, 1, 1)]
# Networks of few channels and random weights: rounding alone makes 2e-6 in float32.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}


def fused(architecture: str = "i3d-resnet18", **fields: object) -> ActionModel:
    return fuse_model(tiny_model(architecture, **fields))  # type: ignore[arg-type]


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        dtype
    )


def batch_to_clips(x: Tensor, clips: int) -> Tensor:
    """What `frames_to_batch` made of clips, as clips again."""
    return x.unflatten(0, (-1, clips)).permute(1, 2, 0, 3, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_the_logits_are_the_same(
    architecture: str, lengths: tuple[int, ...], dtype: torch.dtype
) -> None:
    model = fused(architecture, temporal_lengths=lengths).to(dtype)
    for frames in (8, 13):
        planar = planar_form(model, frames)
        x = noise(3, 3, frames, 64, 64, dtype=dtype)
        with torch.inference_mode():
            expected = model(x).double().numpy()
            assert relative_error(expected, planar(x).double().numpy()) < TOLERANCE[dtype]


def test_no_operation_of_five_dimensions_is_left() -> None:
    planar = planar_form(fused("i3d-inception"), 8)
    of_3d = (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d, nn.BatchNorm3d)
    assert not [module for module in planar.modules() if isinstance(module, of_3d)]
    model = fused("i3d-inception")
    count = {sum(p.numel() for p in network.parameters()) for network in (planar, model)}
    assert len(count) == 1
    assert set(planar.state_dict()) == set(model.state_dict())


WINDOWS = list(itertools.product((1, 2, 3, 5), (1, 2, 4), (0, 1, 2), (1, 4)))


@pytest.mark.parametrize(("length", "stride", "padding", "groups"), WINDOWS)
def test_a_convolution_of_any_window(length: int, stride: int, padding: int, groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(
        4, 8, (length, 3, 1), stride=(stride, 2, 1), padding=(padding, 1, 0), groups=groups
    ).double()
    x = noise(2, 4, 9, 6, 5)
    kind = SummedConv if groups > 1 and length > 1 else StackedConv
    with torch.inference_mode():
        found = batch_to_clips(kind(conv, 9)(frames_to_batch(x)), 2)
        torch.testing.assert_close(found, conv(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("length", "stride"), list(itertools.product((1, 2, 3), (1, 2, 3))))
def test_a_max_pool_of_any_window(length: int, stride: int) -> None:
    pool = nn.MaxPool3d((length, 3, 2), (stride, 2, 1), padding=(length // 2, 1, 0))
    x = noise(2, 4, 9, 6, 5) - 5.0  # zeros would be larger
    found = batch_to_clips(PlanarMaxPool(pool, 9)(frames_to_batch(x)), 2)
    assert torch.equal(found, pool(x))


@pytest.mark.parametrize("window", [(0, 0, 0), (2, 3, 3), (1, 7, 7), (13, 5, 5), (3, 0, 2)])
def test_a_sliding_average_of_any_window(window: tuple[int, int, int]) -> None:
    average, x = SlidingAverage(window), noise(2, 4, 9, 6, 5)
    found = batch_to_clips(PlanarSlidingAverage(average, 9)(frames_to_batch(x)), 2)
    torch.testing.assert_close(found, average(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padding_as_tensorflow_has_it(stride: int) -> None:
    padding, x = SamePadding((3, 4, 7), (stride, 2, 1)), noise(2, 4, 8, 6, 5)
    found = batch_to_clips(PlanarSamePadding(padding, 8)(frames_to_batch(x)), 2)
    assert torch.equal(found, padding(x))


def test_frames_of_one_clip_do_not_meet_those_of_another() -> None:
    model = fused(temporal_lengths=(3, 3, 3, 3, 3))
    planar, x = planar_form(model, 8), noise(3, 3, 8, 32, 32)
    with torch.inference_mode():
        together = planar(x)
        alone = torch.cat([planar(each[None]) for each in x])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_channels_last_stay_last() -> None:
    # Copies between the two would cost what half precision gains on a GPU.
    taps = Taps(frames=8, length=3, stride=1, before=1, after=1)
    x = noise(16, 4, 6, 5).to(memory_format=torch.channels_last)
    assert all(tap.is_contiguous(memory_format=torch.channels_last) for tap in taps.of(x))
    assert torch.cat(taps.of(x), dim=1).is_contiguous(memory_format=torch.channels_last)


def test_a_graph_takes_other_shapes_but_gives_the_same() -> None:
    zeros = Taps(frames=8, length=3, stride=2, before=1, after=1)
    edges = zeros._replace(edges=True)

    class Windows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([*zeros.of(x), *edges.of(x)], dim=1)

    x = noise(16, 4, 6, 5)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Windows(), (x,), dynamic_shapes=({0: 8 * batch},))
    for clips in (2, 5):  # torch.export takes 1 for a case of its own
        given = noise(8 * clips, 4, 6, 5)
        assert torch.equal(program.module()(given), Windows()(given))
    sizes = {node.meta["val"].dim() for node in program.graph.nodes if "val" in node.meta}
    assert max(sizes) == 4


def test_what_has_no_planar_form_is_named() -> None:
    with pytest.raises(SpecError, match="of a fused network; fuse it first"):
        planar_form(tiny_model(), 8)
    model = fused()
    model.pool = nn.AvgPool3d(2)
    with pytest.raises(SpecError, match="no planar form is known of 'pool', which is a AvgPool3d"):
        planar_form(model, 8)
    model.pool = nn.Conv3d(4, 4, 3, dilation=2)
    with pytest.raises(SpecError, match=r"no planar form is known of Conv3d\(.*dilation"):
        planar_form(model, 8)


def test_clips_of_another_length_are_refused_not_mixed() -> None:
    planar = planar_form(fused(), 8)
    with pytest.raises(SpecError, match="takes clips of 8 frames, not 16; make one for that"):
        planar(noise(1, 3, 16, 32, 32))
    with pytest.raises(SpecError, match="in planar form already"):
        planar_form(planar, 8)
