"""Max pooling with a gradient in a fixed order is max pooling."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from stdeploy.models.registry import ARCHITECTURES
from stdeploy.train.determinism import DeterministicMaxPool3d, replace_max_pools
from tests.helpers.models import tiny_model


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)), (4, 9, 8)),  # of the ResNets
        (nn.MaxPool3d(3, stride=1, padding=1), (4, 6, 5)),  # inside of the Inception
        (nn.MaxPool3d((3, 3, 3), (2, 2, 2)), (9, 8, 7)),
        (nn.MaxPool3d((2, 2, 2), (2, 2, 2), ceil_mode=True), (5, 5, 7)),
        (nn.MaxPool3d(3, stride=1, padding=1), (1, 2, 1)),  # beside a border everywhere
    ],
    ids=str,
)
@pytest.mark.parametrize("values", ["all differ", "many are equal"])
def test_pools_and_gradients_are_those_of_torch(
    pool: nn.MaxPool3d, size: tuple[int, int, int], values: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    if values == "many are equal":
        x = x.relu().round()
    ours = DeterministicMaxPool3d.like(pool)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [one(given) for one, given in zip((pool, ours), inputs, strict=True)]
    assert torch.equal(*outputs)
    assert type(outputs[1].grad_fn).__name__ == "_MaxPoolBackward"  # not torch's own
    gradient = torch.randn(outputs[0].shape, generator=generator, dtype=torch.float64)
    for output in outputs:
        output.backward(gradient)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=0, atol=1e-14)


def test_gradients_hold_against_finite_differences() -> None:
    pool = DeterministicMaxPool3d(3, stride=2, padding=1)
    x = torch.randperm(2 * 5 * 6 * 4).double().view(1, 2, 5, 6, 4).requires_grad_()
    assert torch.autograd.gradcheck(pool, (x,), eps=1e-3)


def test_half_types_keep_their_type() -> None:
    x = torch.randn(1, 2, 4, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    DeterministicMaxPool3d(2).forward(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert x.grad.sum() == 16


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_max_pool_of_a_network_is_replaced(architecture: str) -> None:
    model = tiny_model(architecture, temporal_lengths=(3, 1, 3, 3, 5))
    frames = torch.randn(1, 3, 8, 32, 32)
    before, names = model(frames), list(model.state_dict())
    count = sum(type(module) is nn.MaxPool3d for module in model.modules())
    replace_max_pools(model)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(DeterministicMaxPool3d) == count
    assert (count > 0) == (architecture != "plain")  # which strides instead
    assert nn.MaxPool3d not in kinds
    assert list(model.state_dict()) == names
    assert torch.equal(model(frames), before)
