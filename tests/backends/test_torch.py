"""Forms in which torch runs a network: all answer alike, in the memory format that was meant."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.backends import loader, selection, torch_epilogues
from stdeploy.backends.base import Runtime, RuntimeOptions
from stdeploy.backends.torch import TorchRuntime, align_channels, keep_channels_last
from stdeploy.backends.torch_epilogues import conv_relu, with_fused_epilogues
from stdeploy.errors import SpecError
from stdeploy.fusion import fuse_model
from stdeploy.hardware import gpus
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import save_fused
from stdeploy.models.frames_to_logits import FramesToLogits
from stdeploy.models.planar import planar_form
from tests.helpers.models import TINY_CLIP, card_of, tiny_model

NETWORKS = [
    ("i3d-resnet18", (1, 1, 3, 3, 5)),
    ("i3d-resnet50", (3, 3, 3, 3, 3)),
    ("s3d-resnet50", (1, 3, 3, 3, 3)),
    ("i3d-inception", (7, 3, 3, 3, 3)),  # strides in time, padding of TensorFlow
]
CLIP = ClipSpec(num_frames=8, short_side_px=66, crop_px=65)  # an odd side


def planar_graph(architecture: str, lengths: tuple[int, ...]) -> FramesToLogits:
    model = tiny_model(architecture, temporal_lengths=lengths)
    graph = FramesToLogits(planar_form(fuse_model(model).float(), CLIP.num_frames), CLIP).eval()
    align_channels(graph)
    keep_channels_last(graph)
    return graph


@pytest.mark.parametrize(("architecture", "lengths"), NETWORKS)
def test_channels_stay_last_through_the_planar_form(
    architecture: str, lengths: tuple[int, ...]
) -> None:
    graph, seen = planar_graph(architecture, lengths), list[bool]()

    def look(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for module in graph.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.register_forward_pre_hook(look)
    with torch.inference_mode():
        graph(clips(2))
    assert len(seen) > 15
    assert all(seen)


@pytest.mark.parametrize(("architecture", "lengths"), NETWORKS)
def test_relus_within_convolutions_change_nothing(
    architecture: str, lengths: tuple[int, ...]
) -> None:
    graph = planar_graph(architecture, lengths)
    relus = 0

    def count(_module: nn.Module, _inputs: object) -> None:
        nonlocal relus
        relus += 1

    for module in graph.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(count)
    fused = with_fused_epilogues(graph, CLIP)
    relus = 0  # of tracing
    with torch.inference_mode():
        for batch in (1, 3):
            torch.testing.assert_close(fused(clips(batch)), graph(clips(batch)), rtol=0, atol=1e-6)
    targets = [node.target for node in fused.graph.nodes]
    assert torch.ops.stdeploy.stack_frames.default in targets
    assert torch.ops.aten.pad.default not in targets or architecture == "i3d-inception"
    # Of the narrow Inception some filters make no multiple of 8 channels.
    left = sum(targets.count(relu) for relu in torch_epilogues._RELUS)
    assert targets.count(conv_relu) + left == relus // 2
    assert not left or architecture == "i3d-inception"
    assert targets.count(conv_relu) > relus // 8


@pytest.mark.parametrize(("architecture", "lengths"), NETWORKS)
def test_channels_that_are_filled_up_change_nothing(
    architecture: str, lengths: tuple[int, ...]
) -> None:
    model = fuse_model(tiny_model(architecture, temporal_lengths=lengths)).double()
    planar = planar_form(model, CLIP.num_frames)
    graph = FramesToLogits(planar.double(), CLIP).eval()
    with torch.inference_mode():
        expected = graph(clips(2))
        align_channels(graph)
        torch.testing.assert_close(graph(clips(2)), expected, rtol=1e-10, atol=1e-10)
    convs = [m for m in graph.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    assert all(conv.in_channels % 8 == conv.weight.shape[1] % 8 == 0 for conv in convs)
    assert any(conv.empty_channels for conv in convs)
    with torch.inference_mode():  # the network itself is not changed
        again = FramesToLogits(planar_form(model, CLIP.num_frames), CLIP).eval()(clips(2))
    torch.testing.assert_close(again, expected)


def test_what_is_added_goes_into_the_convolution_too() -> None:
    fused = with_fused_epilogues(planar_graph(*NETWORKS[0]), CLIP)
    sums = [node for node in fused.graph.nodes if node.target == conv_relu and node.args[3]]
    assert len(sums) == 8  # blocks of a ResNet-18


def test_a_sum_that_something_else_needs_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.relu(y) + y + torch.relu(y + 1) + torch.relu(torch.add(y, y, alpha=2))

    torch.manual_seed(0)
    module = torch.export.export(Twice().eval(), (torch.randn(1, 3, 8, 8),)).module()
    assert not any(torch_epilogues._fuse(module, node) for node in list(module.graph.nodes))


def test_a_network_without_such_a_place_is_refused() -> None:
    fused: ActionModel = fuse_model(tiny_model()).float()
    with pytest.raises(SpecError, match="no ReLU behind a 2D convolution"):
        with_fused_epilogues(FramesToLogits(fused, TINY_CLIP).eval(), TINY_CLIP)


def test_auto_has_every_form_to_choose_from_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    card = card_of(fuse_model(tiny_model()).float())
    asked = RuntimeOptions(backend="torch", device="cuda", precision="bf16")
    if not gpus():  # where the CPU is allowed in its place there is nothing to choose from
        assert TorchRuntime.automatic_ways(card, asked) == (asked,)
    monkeypatch.setattr(TorchRuntime, "sees_gpu", lambda: True)
    ways = TorchRuntime.automatic_ways(card, asked)
    forms = [(way.planar, way.fused_relu, way.cuda_graphs) for way in ways]
    assert len(forms) == len(set(forms)) == 6
    assert all((way.precision, way.compile) == ("bf16", False) for way in ways)
    graphs = dataclasses.replace(asked, cuda_graphs=True)
    assert {way.cuda_graphs for way in TorchRuntime.automatic_ways(card, graphs)} == {True}
    on_cpu = dataclasses.replace(asked, device="cpu")
    assert TorchRuntime.automatic_ways(card, on_cpu) == (on_cpu,)
    trained = card_of(tiny_model())
    assert TorchRuntime.automatic_ways(trained, asked) == (asked,)


def test_auto_times_the_forms_once_and_remembers_the_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, which has one form by itself, so that two are told to it."""
    model = fuse_model(tiny_model()).float()
    fused = tmp_path / "a.fused.safetensors"
    save_fused(fused, model, card_of(model))
    monkeypatch.setattr(selection, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(
        TorchRuntime,
        "automatic_ways",
        lambda _card, options: (options, dataclasses.replace(options, planar=True)),
    )
    opened: list[bool] = []
    real = loader.open_backend

    def spy(artifact: Path, card: ModelCard, options: RuntimeOptions) -> Runtime:
        opened.append(options.planar)
        return real(artifact, card, options)

    monkeypatch.setattr(loader, "open_backend", spy)
    with loader.open_runtime(fused) as runtime:
        chosen = runtime.device == "CPU, planar"
    assert opened == [False, True]
    (kept,) = json.loads((tmp_path / "cache" / "choices.json").read_text()).values()
    assert kept == ("torch planar" if chosen else "torch")
    loader.open_runtime(fused).close()
    assert opened == [False, True, chosen]
    named = RuntimeOptions(backend="torch")
    loader.open_runtime(fused, options=named).close()
    assert opened[3:] == [False]  # what is asked for by name is not replaced


def clips(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(
        0, 256, (batch, *CLIP.frames_shape), dtype=torch.uint8, generator=generator
    )
