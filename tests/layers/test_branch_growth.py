import math

import pytest
import torch
from torch import nn

from stdeploy.errors import SpecError
from stdeploy.layers.branch_growth import grow_filter
from stdeploy.layers.temporal import Branches, TemporalFilter


def filter_of(
    branches: Branches, eta: float, *, groups: int = 1, length: int = 5, causal: bool = False
) -> TemporalFilter:
    torch.manual_seed(3)
    made = TemporalFilter(
        6,
        6,
        (length, 3, 3),
        stride=(2, 1, 1),
        branches=branches,
        eta=eta,
        groups=groups,
        causal=causal,
    )
    for module in made.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("eta", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("causal", [False, True])
def test_a_grown_filter_computes_the_same(
    *, training: bool, groups: int, eta: float, causal: bool
) -> None:
    parent = filter_of("single", 1.0, groups=groups, causal=causal).train(training)
    grown = filter_of("multi", eta, groups=groups, causal=causal).train(training)
    grow_filter(grown, parent)
    x = torch.randn(2, 6, 8, 5, 5)
    torch.testing.assert_close(grown(x), parent(x), rtol=1e-5, atol=1e-5)


def test_every_branch_of_a_grown_filter_learns() -> None:
    grown = filter_of("multi", 2.0).train()
    grow_filter(grown, filter_of("single", 1.0))
    x = torch.randn(2, 6, 8, 5, 5)
    optimiser = torch.optim.SGD(grown.parameters(), lr=0.1)
    before = [branch.coefficients.detach().clone() for branch in grown.typed_branches()]
    for _ in range(2):  # the first step moves gamma of the new branches, the second their filters
        optimiser.zero_grad()
        grown(x).square().mean().backward()
        optimiser.step()
    for branch, old in zip(grown.typed_branches(), before, strict=True):
        assert not torch.equal(branch.coefficients, old)


def test_what_cannot_be_the_same_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"branches of \[1, 3, 5\] frames cannot become one of \[5\]"
    ):
        grow_filter(filter_of("single", 1.0), filter_of("multi", 1.0))
    with pytest.raises(SpecError, match="eta = inf excludes the average"):
        grow_filter(filter_of("multi", math.inf), filter_of("single", 1.0))
