"""Networks that train at once are the networks that they are when each trains by itself."""

import pytest
import torch
from torch import nn

from stdeploy.artifacts.spec import ModelSpec
from stdeploy.models.registry import build
from stdeploy.train.stacked_training import StackedNetworks, StackedOptimiser

STEPS = 4


def plain(seed: int, branches: str = "multi") -> nn.Module:
    torch.manual_seed(seed)
    spec = ModelSpec(
        architecture="plain",
        num_classes=3,
        temporal_lengths=(1, 1, 3, 3, 5),
        branches=branches,
        eta=2.0,
        width=0.25,
    )
    network = build(spec)
    network.head.dropout.p = 0.0
    return network.double()


def alone(network: nn.Module, clips: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """One network, by modules and optimiser as torch has them."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others}]
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    losses = []
    for step, (batch, right) in enumerate(zip(clips, labels, strict=True)):
        for group in optimiser.param_groups:
            cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / STEPS)).item())
            group["lr"] = 0.1 * min(1.0, (step + 1) / 2) * cosine
        loss = nn.functional.cross_entropy(network(batch), right)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("branches", ["single", "multi"])
def test_training_at_once_is_training_each_alone(count: int, branches: str) -> None:
    torch.manual_seed(0)
    clips = torch.randn(STEPS, count, 4, 3, 6, 8, 8, dtype=torch.float64)
    labels = torch.randint(3, (STEPS, count, 4))
    networks = [plain(seed, branches) for seed in range(count)]
    stacked = StackedNetworks(networks)
    optimiser = StackedOptimiser(stacked, steps=STEPS, learning_rate=0.1, warmup_steps=2)
    losses = torch.stack([optimiser.step(x, y) for x, y in zip(clips, labels, strict=True)], dim=1)
    for number, network in enumerate(networks):
        own = alone(network, clips[:, number], labels[:, number])
        assert losses[number].tolist() == pytest.approx(own, rel=1e-5)
        assert own[-1] != own[0]
        for name, tensor in stacked.network(number).items():
            torch.testing.assert_close(tensor, network.state_dict()[name], rtol=1e-5, atol=1e-8)
        network.eval()
        with torch.no_grad():
            wanted = network(clips[0, number])
            given = stacked.logits(clips[0], training=False)[number]
        torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-8)


def test_several_things_may_be_there() -> None:
    torch.manual_seed(0)
    stacked = StackedNetworks([plain(0), plain(1)])
    optimiser = StackedOptimiser(stacked, steps=20, learning_rate=0.1, warmup_steps=1)
    clips = torch.randn(2, 4, 3, 4, 16, 16, dtype=torch.float64)
    there = torch.randint(2, (2, 4, 3)).double()
    losses = [optimiser.step(clips, there) for _ in range(20)]
    assert (losses[-1] < 0.5 * losses[0]).all()


def test_networks_that_were_stacked_are_left_alone() -> None:
    network = plain(0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    stacked = StackedNetworks([network, plain(1)])
    optimiser = StackedOptimiser(stacked, steps=1, learning_rate=0.1, warmup_steps=1)
    optimiser.step(torch.randn(2, 2, 3, 4, 16, 16, dtype=torch.float64), torch.zeros(2, 2).long())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
