import pytest
import torch
from torch import nn
from torch.nn import functional

from stdeploy.errors import FusionError
from stdeploy.layers.fold import fold_batch_norm, pad_in_time, sum_branches
from tests.helpers.models import randomise_norms


@pytest.mark.parametrize("affine", [True, False])
def test_folded_norm_equals_convolution_then_norm(affine: bool) -> None:
    conv = nn.Conv3d(3, 4, (3, 3, 3), bias=False, dtype=torch.float64)
    norm = nn.BatchNorm3d(4, affine=affine, dtype=torch.float64)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.2, 3)
    if affine:
        randomise_norms(norm)
    norm.eval()
    weight, bias = fold_batch_norm(conv.weight, norm)
    x = torch.randn(2, 3, 5, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(
        functional.conv3d(x, weight, bias), norm(conv(x)), rtol=1e-12, atol=1e-12
    )


def test_folding_computes_in_float64() -> None:
    norm = nn.BatchNorm3d(4).eval()
    weight, bias = fold_batch_norm(torch.randn(4, 3, 1, 1, 1), norm)
    assert weight.dtype == bias.dtype == torch.float64


def test_folding_a_norm_in_training_mode_is_refused() -> None:
    with pytest.raises(FusionError, match="training mode"):
        fold_batch_norm(torch.randn(4, 3, 1, 1, 1), nn.BatchNorm3d(4))


def test_folding_a_norm_without_statistics_is_refused() -> None:
    norm = nn.BatchNorm3d(4, track_running_stats=False).eval()
    with pytest.raises(FusionError, match="without running statistics"):
        fold_batch_norm(torch.randn(4, 3, 1, 1, 1), norm)


def test_pad_in_time_centres() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1, 1)
    assert pad_in_time(weight, 5).flatten().tolist() == [0, 1, 2, 3, 0]
    assert pad_in_time(weight, 3).flatten().tolist() == [1, 2, 3]


def test_pad_in_time_of_a_causal_kernel_comes_before_it() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1, 1)
    assert pad_in_time(weight, 5, causal=True).flatten().tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("length", [1, 2, 4])
def test_pad_in_time_refuses_lengths_without_a_centre(length: int) -> None:
    with pytest.raises(FusionError, match=f"3 frames cannot be centred in one of {length}"):
        pad_in_time(torch.ones(1, 1, 3, 1, 1), length)


def test_branches_are_aligned_at_their_centres() -> None:
    one = torch.full((1, 1, 1, 1, 1), 10.0), torch.tensor([1.0])
    three = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1, 1), torch.tensor([0.5])
    kernel, bias = sum_branches([one, three])
    assert kernel.flatten().tolist() == [1, 12, 3]
    assert bias.tolist() == [1.5]
    kernel, bias = sum_branches([one, three], causal=True)
    assert kernel.flatten().tolist() == [1, 2, 13]
    assert bias.tolist() == [1.5]
