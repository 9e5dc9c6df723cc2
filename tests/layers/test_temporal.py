import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from stdeploy.errors import FusionError, SpecError
from stdeploy.layers.temporal import (
    TemporalFilter,
    branch_lengths,
    coefficients_from_filter,
    filter_from_coefficients,
    temporal_basis,
)
from tests.helpers.models import randomise_norms

R2, R3, R6 = math.sqrt(2), math.sqrt(3), math.sqrt(6)


@pytest.mark.parametrize(
    ("length", "branches", "expected"),
    [(1, "multi", (1,)), (3, "multi", (1, 3)), (5, "multi", (1, 3, 5)), (5, "single", (5,))],
)
def test_branches_have_every_odd_length_up_to_t(
    length: int, branches: str, expected: tuple[int, ...]
) -> None:
    assert branch_lengths(length, branches) == expected


@pytest.mark.parametrize("length", [-1, 0, 2, 4])
def test_branch_lengths_refuses_even_lengths(length: int) -> None:
    with pytest.raises(SpecError, match=f"temporal length {length} is not odd"):
        branch_lengths(length, "multi")


def test_basis_of_three_frames_is_average_first_and_second_differential() -> None:
    expected = [
        [1 / R3, 1 / R2, 1 / R6],
        [1 / R3, 0.0, -2 / R6],
        [1 / R3, -1 / R2, 1 / R6],
    ]
    torch.testing.assert_close(
        temporal_basis(3, 1.0), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("tau", [1, 3, 5, 7])
def test_basis_is_orthonormal_without_regularisation(tau: int) -> None:
    basis = temporal_basis(tau, 1.0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(tau, dtype=torch.float64))
    torch.testing.assert_close(basis[:, 0], torch.full((tau,), tau**-0.5, dtype=torch.float64))


@pytest.mark.parametrize("eta", [2.0, 4.0])
def test_eta_divides_the_average_alone(eta: float) -> None:
    plain, regularised = temporal_basis(5, 1.0), temporal_basis(5, eta)
    torch.testing.assert_close(regularised[:, 0] * eta, plain[:, 0])
    assert torch.equal(regularised[:, 1:], plain[:, 1:])


def test_infinite_eta_leaves_filters_that_sum_to_zero_over_time() -> None:
    coefficients = torch.randn(4, 3, 5, 3, 3, dtype=torch.float64)
    kernel = filter_from_coefficients(coefficients, math.inf)
    assert float(kernel.sum(dim=2).abs().max()) < 1e-14
    assert float(kernel.abs().max()) > 0.1


@pytest.mark.parametrize("eta", [1.0, 2.0, math.inf])
def test_eta_leaves_a_filter_of_one_frame_alone(eta: float) -> None:
    coefficients = torch.randn(4, 3, 1, 3, 3)
    assert torch.equal(filter_from_coefficients(coefficients, eta), coefficients)


@pytest.mark.parametrize("eta", [1.0, 2.0, 4.0])
def test_weight_decay_on_coefficients_is_the_regulariser_of_equation_5(eta: float) -> None:
    coefficients = torch.randn(6, 2, 3, 3, 3, dtype=torch.float64)
    kernel = filter_from_coefficients(coefficients, eta)
    average = torch.einsum("t,oithw->oihw", temporal_basis(3, 1.0)[:, 0], kernel)
    complement = torch.einsum("ts,oithw->oishw", temporal_basis(3, 1.0)[:, 1:], kernel)
    regulariser = eta**2 * average.square().sum() + complement.square().sum()
    torch.testing.assert_close(coefficients.square().sum(), regulariser)


@pytest.mark.parametrize("eta", [1.0, 2.0])
def test_coefficients_from_filter_inverts_equation_6(eta: float) -> None:
    kernel = torch.randn(2, 3, 5, 3, 3, dtype=torch.float64)
    again = filter_from_coefficients(coefficients_from_filter(kernel, eta), eta)
    torch.testing.assert_close(again, kernel)


def bf16() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("eta", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("tau", [3, 5])
def test_autocast_does_not_round_equation_6(tau: int, eta: float) -> None:
    coefficients = torch.randn(8, 4, tau, 3, 3)
    expected = filter_from_coefficients(coefficients, eta)
    with bf16():
        kernel = filter_from_coefficients(coefficients, eta)
    assert kernel.dtype == torch.float32
    torch.testing.assert_close(kernel, expected, rtol=1e-6, atol=1e-6)
    if math.isinf(eta):
        assert float(kernel.sum(dim=2).abs().max()) < 2e-6


def test_autocast_rounds_the_convolution_and_goes_on_afterwards() -> None:
    layer = TemporalFilter(2, 4, (3, 3, 3), branches="multi", eta=2.0)
    x = torch.randn(1, 2, 4, 5, 5)
    with bf16():
        layer(x).float().square().sum().backward()
        assert (x.flatten()[:4].reshape(2, 2) @ torch.eye(2)).dtype == torch.bfloat16
        assert layer.branches[1].kernel().dtype == torch.float32
    for branch in layer.branches:
        assert branch.coefficients.grad.dtype == torch.float32
        assert float(branch.coefficients.grad.abs().max()) > 0


def test_eta_is_applied_on_devices_without_autocast() -> None:
    coefficients = torch.empty(4, 2, 3, 3, 3, device="meta")
    assert filter_from_coefficients(coefficients, 2.0).shape == coefficients.shape


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")  # of the cached basis
def test_equation_6_under_autocast_can_be_compiled_exported_and_mapped() -> None:
    class Kernel(nn.Module):
        def forward(self, coefficients: torch.Tensor) -> torch.Tensor:
            return filter_from_coefficients(coefficients, 2.0)

    many = torch.randn(3, 8, 4, 5, 3, 3)
    expected = torch.stack([filter_from_coefficients(one, 2.0) for one in many])
    compiled = torch.compile(Kernel(), backend="aot_eager", fullgraph=True)
    exported = torch.export.export(Kernel(), (many[0],)).module()
    torch.testing.assert_close(exported(many[1]), expected[1], rtol=1e-6, atol=1e-6)
    with bf16():
        exported = torch.export.export(Kernel(), (many[0],)).module()
        mapped = torch.func.vmap(Kernel())(many)
        for run in (compiled, exported):
            torch.testing.assert_close(run(many[1]), expected[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mapped, expected, rtol=1e-6, atol=1e-6)


def test_filter_is_the_sum_of_its_branches() -> None:
    layer = TemporalFilter(2, 4, (5, 3, 3), stride=(1, 2, 2), branches="multi", eta=2.0)
    randomise_norms(layer)
    x = torch.randn(2, 2, 6, 9, 9)
    expected = torch.zeros(2, 4, 6, 5, 5)
    for tau, branch in zip((1, 3, 5), layer.branches, strict=True):
        kernel = torch.einsum(
            "ts,oishw->oithw", temporal_basis(tau, 2.0).float(), branch.coefficients
        )
        out = functional.conv3d(x, kernel, stride=(1, 2, 2), padding=(tau // 2, 1, 1))
        expected += branch.norm(out)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2)])
def test_valid_padding_on_a_padded_clip_equals_centred(stride: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    arguments = {"stride": stride, "branches": "multi", "eta": 2.0}
    centred = TemporalFilter(3, 4, (5, 3, 3), **arguments)
    valid = TemporalFilter(3, 4, (5, 3, 3), padding="valid", **arguments)
    valid.load_state_dict(centred.state_dict())
    randomise_norms(centred)
    randomise_norms(valid)
    x = torch.randn(1, 3, 8, 10, 10)
    padded = functional.pad(x, (1, 1, 1, 1, 2, 2))
    torch.testing.assert_close(valid(padded), centred(x))
    torch.testing.assert_close(valid.fold().float()(padded), centred.fold().float()(x))


def test_folding_in_training_mode_is_refused() -> None:
    with pytest.raises(FusionError, match="training mode"):
        TemporalFilter(2, 4, (3, 3, 3)).train().fold()


def test_coefficients_get_gradients_after_a_basis_was_made_for_inference() -> None:
    temporal_basis.cache_clear()
    layer = TemporalFilter(2, 4, (3, 3, 3), branches="multi", eta=2.0)
    x = torch.randn(1, 2, 4, 5, 5)
    with torch.inference_mode():
        layer.eval()(x)
    layer.train()(x).square().sum().backward()
    for branch in layer.branches:
        assert float(branch.coefficients.grad.abs().max()) > 0


def test_layer_holds_no_more_parameters_than_coefficients_and_norms() -> None:
    layer = TemporalFilter(2, 4, (3, 3, 3), branches="multi")
    expected = 2 * 4 * 9 * (1 + 3) + 2 * 2 * 4
    assert sum(p.numel() for p in layer.parameters()) == expected
    assert isinstance(layer.branches[0].norm, nn.BatchNorm3d)
