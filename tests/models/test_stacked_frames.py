"""Frames that are stacked by copies are those that are padded and concatenated."""

import itertools

import pytest
import torch

from stdeploy.models.planar_modules import Taps
from stdeploy.models.stacked_frames import stack_frames

WINDOWS = [
    taps
    for taps in itertools.starmap(
        Taps,
        itertools.product(
            *((1, 2, 5, 8), (1, 2, 3, 5, 7), (1, 2, 3), (0, 1, 3), (0, 1, 2), (False, True))
        ),
    )
    if taps.frames + taps.before + taps.after >= taps.length
]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("empty", [0, 2])
def test_like_padding_and_concatenating(layout: torch.memory_format, empty: int) -> None:
    assert len(WINDOWS) > 800
    for taps, clips in itertools.product(WINDOWS, (1, 2)):
        generator = torch.Generator().manual_seed(clips)
        x = torch.randn(taps.frames * clips, 3, 4, 5, generator=generator)
        x = x.to(memory_format=layout)
        parts = taps.of(x)
        nothing = x.new_zeros(len(parts[0]), empty, 4, 5)
        stacked = stack_frames(x, *taps, empty)
        assert torch.equal(stacked, torch.cat([*parts, nothing], dim=1)), (taps, clips)
        assert stacked.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("edges", [False, True])
def test_torch_knows_its_shape_and_layout_without_running_it(*, edges: bool) -> None:
    x = torch.randn(16, 3, 4, 5).to(memory_format=torch.channels_last)
    torch.library.opcheck(stack_frames, (x, *Taps(8, 3, 2, 1, 1, edges), 1))
