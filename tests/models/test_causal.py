"""Networks that look back only: what no feature sees, and what stays as it was."""

import itertools

import pytest
import torch
from torch import Tensor

from stdeploy.analysis.receptive_field import receptive_field, theoretical_extents
from stdeploy.artifacts.layouts import (
    InceptionLayout,
    ResNetLayout,
    SlowFastLayout,
    StageLayout,
    StemLayout,
    X3DLayout,
    X3DStageLayout,
)
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.errors import SpecError
from stdeploy.export.flops import count_flops
from stdeploy.fusion import fuse_model, verify
from stdeploy.layers.convolution import CausalConv3d, first_frame_before
from stdeploy.models.base import ActionModel
from stdeploy.models.planar import planar_form
from stdeploy.models.planar_modules import Taps
from stdeploy.models.registry import ARCHITECTURES, build
from tests.helpers.models import TINY_CLIP, randomise_norms, tiny_model

FRAMES = 18
SIDE_PX = 32
LENGTHS = (3, 1, 3, 3, 5)


def resnet_layout(**fields: object) -> ResNetLayout:
    """Strides and pools in time at every place where a residual network may have them."""
    stages = tuple(
        StageLayout(channels=8, lengths=(3,), stride=(1 + (number == 1), 1 + (number > 0)))
        for number in range(4)
    )
    stem = StemLayout(
        channels=8, kernel=(5, 7, 7), pool_kernel=(3, 3, 3), pool_stride=(2, 2, 2), **fields
    )
    return ResNetLayout(block="basic", stem=stem, stages=stages, pool_in_time=True)


LAYOUTS = {
    "resnet3d": resnet_layout(),
    "resnet3d, pool not padded": resnet_layout(pool_padded=False),
    "resnet3d, shortcuts of zeros": resnet_layout().model_copy(update={"shortcut": "padding"}),
    "inception3d": InceptionLayout(lengths=LENGTHS, padding="centred"),
    "inception3d, separable": InceptionLayout(lengths=LENGTHS, separable=True),
}


def laid_out(name: str, *, causal: bool = True, branches: str = "multi") -> ActionModel:
    layout = LAYOUTS[name]
    spec = ModelSpec(
        architecture=name.partition(",")[0],
        temporal_lengths=layout.temporal_lengths,
        branches=branches,
        num_classes=5,
        width=1.0 if name.startswith("resnet3d") else 0.125,
        layout=layout,
        causal=causal,
    )
    torch.manual_seed(0)
    model = build(spec)
    randomise_norms(model)
    return model


@pytest.fixture(params=[*ARCHITECTURES, *LAYOUTS])
def model(request: pytest.FixtureRequest) -> ActionModel:
    name = request.param
    if name in LAYOUTS:
        return laid_out(name)
    return tiny_model(name, temporal_lengths=LENGTHS, causal=True)


def clips(frames: int = FRAMES, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((2, 3, frames, SIDE_PX, SIDE_PX), generator=generator, dtype=torch.float64)


def features(model: ActionModel, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.double().forward_features(x)


def stride_of(model: ActionModel) -> int:
    """Frames from one feature to the next."""
    count = features(model, clips(32)).shape[2]
    assert 32 % count == 0
    return 32 // count


@pytest.mark.parametrize("fused", [False, True], ids=["branches", "fused"])
def test_no_feature_depends_on_frames_after_its_own(model: ActionModel, fused: bool) -> None:
    model = fuse_model(model) if fused else model
    stride, x = stride_of(model), clips()
    whole = features(model, x)
    for changed in (1, 8, 13):
        other = x.clone()
        other[:, :, changed:] = clips(seed=1)[:, :, changed:]
        seen = (features(model, other) != whole).any(dim=1).flatten(2).any(dim=2).any(dim=0)
        before = -(-changed // stride)  # features 0 .. before-1 are of frames before the change
        assert not seen[:before].any()
        assert seen[before:].any() == (before < len(seen))


def test_the_feature_of_a_frame_sees_the_newest_one(model: ActionModel) -> None:
    """Else the network would answer later than it could."""
    stride, x = stride_of(model), clips()
    other = x.clone()
    other[:, :, 8:9] += 1.0
    changed = (features(model, other) != features(model, x)).any(dim=1).flatten(2).any(dim=2)
    assert changed[:, 8 // stride].all()


def test_a_longer_video_changes_no_feature(model: ActionModel) -> None:
    x = clips()
    longer = features(model, torch.cat([x, clips(seed=2)], dim=2))
    short = features(model, x)
    torch.testing.assert_close(longer[:, :, : short.shape[2]], short, rtol=1e-12, atol=1e-12)


def test_a_clip_is_a_video_that_stood_still_before_it(model: ActionModel) -> None:
    """So a network that learns from clips alone knows what stands before them in a stream."""
    x, stride = clips(), stride_of(model)
    still = x[:, :, :1].expand(-1, -1, 2 * stride, -1, -1)
    longer = features(model, torch.cat([still, x], dim=2))
    torch.testing.assert_close(longer[:, :, 2:], features(model, x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(longer[:, :, 0], longer[:, :, 1], rtol=1e-12, atol=1e-12)


def test_channels_stay_where_they_lie_in_memory() -> None:
    x = torch.randn(2, 8, 6, 5, 5).contiguous(memory_format=torch.channels_last_3d)
    before = first_frame_before(x, 2)
    assert before.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(before, torch.cat([x[:, :, :1], x[:, :, :1], x], dim=2))
    assert first_frame_before(x, 0) is x


def test_weights_fit_the_network_that_looks_both_ways(model: ActionModel) -> None:
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    other = build(model.spec.model_copy(update={"causal": False}))
    assert {name: tensor.shape for name, tensor in other.state_dict().items()} == shapes
    if model.spec.layout is None:  # of pools that are not padded fewer come out
        assert features(other.eval(), clips()).shape == features(model, clips()).shape


def test_fusing_changes_nothing(model: ActionModel) -> None:
    fused = fuse_model(model)
    rows = list(verify(model, fused, TINY_CLIP, seed=0))
    assert rows
    assert not [row for row in rows if not row.passed]
    with torch.inference_mode():
        torch.testing.assert_close(fused(clips()), model.double()(clips()), rtol=1e-10, atol=1e-10)
    built = build(fused.spec).double()
    built.load_state_dict(fused.state_dict())  # a fused network from a file
    with torch.inference_mode():
        assert torch.equal(built.eval()(clips()), fused(clips()))


@pytest.mark.parametrize("frames", [1, 2, 8, 9])
def test_the_planar_form_is_the_same(model: ActionModel, frames: int) -> None:
    fused = fuse_model(model)
    planar = planar_form(fused, frames)
    with torch.inference_mode():
        torch.testing.assert_close(
            planar(clips(frames)), fused(clips(frames)), rtol=1e-10, atol=1e-10
        )


def test_windows_of_the_planar_form_end_at_their_frame() -> None:
    fused = fuse_model(tiny_model(temporal_lengths=LENGTHS, causal=True))
    taps = planar_form(fused, 8).get_submodule("conv5.0.conv1").taps
    assert taps == Taps(frames=8, length=5, stride=1, before=4, edges=True)
    assert taps.outputs == 8
    assert [row[0] for row in taps.numbers] == [0, 0, 0, 0, 0]
    assert [row[7] for row in taps.numbers] == [3, 4, 5, 6, 7]


def test_it_is_the_filter_of_the_other_network_moved_back_in_time() -> None:
    """With one branch: y_causal[i] = y_centred[i - (t - 1) / 2], away from the ends."""
    torch.manual_seed(0)
    causal, centred = (
        tiny_model("plain", temporal_lengths=LENGTHS, branches="single", causal=causal)
        for causal in (True, False)
    )
    delay = 1 + 0 + 1 + 1 + 2 + 2
    moved, there = features(causal, clips(40)), features(centred, clips(40))
    inner = slice(delay, 40 - delay)
    torch.testing.assert_close(moved[:, :, 2 * delay :], there[:, :, inner], rtol=1e-10, atol=1e-10)


def test_branches_end_at_the_newest_frame() -> None:
    layer = tiny_model("plain", temporal_lengths=LENGTHS, causal=True).get_submodule("conv5.0")
    parts = [branch.folded()[0] for branch in layer.double().typed_branches()]
    conv = layer.fold()
    assert isinstance(conv, CausalConv3d)
    kernel = conv.weight
    assert [part.shape[2] for part in parts] == [1, 3, 5]
    torch.testing.assert_close(kernel[:, :, 4], sum(part[:, :, -1] for part in parts))
    torch.testing.assert_close(kernel[:, :, 2], parts[1][:, :, 0] + parts[2][:, :, 2])
    torch.testing.assert_close(kernel[:, :, 0], parts[2][:, :, 0])


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolution_gives_as_many_outputs_as_a_centred_one(stride: int) -> None:
    for length, frames in itertools.product((3, 5), range(1, 9)):
        conv = CausalConv3d(1, 1, (length, 1, 1), stride=(stride, 1, 1))
        assert conv(torch.zeros(1, 1, frames, 2, 2)).shape[2] == -(-frames // stride)


def test_the_receptive_field_ends_at_the_unit() -> None:
    for name in ("i3d-resnet18", "s3d-resnet50"):
        model = tiny_model(name, temporal_lengths=LENGTHS, causal=True)
        inputs = clips(24)[:1].float()
        field = receptive_field(model, TINY_CLIP, inputs)
        assert field.causal
        assert field.over_time[-1] > 0
        other = tiny_model(name, temporal_lengths=LENGTHS)
        assert field.theoretical == theoretical_extents(other.spec)
        # Not a feature of the middle, either: its gradient is 0 at all later frames.
        x = inputs.clone().requires_grad_()
        model.forward_features(x)[:, :, 10].sum().backward()
        seen = x.grad.abs().sum(dim=(0, 1, 3, 4)) > 0
        assert seen[10]
        assert not seen[11:].any()


def test_it_costs_as_much_as_the_other() -> None:
    spec = tiny_model(temporal_lengths=LENGTHS).spec
    costs = [
        count_flops(spec.model_copy(update={"causal": causal, "fused": fused}), num_frames=8)
        for causal, fused in itertools.product((False, True), (False, True))
    ]
    assert costs[:2] == costs[2:]


def x3d_layout() -> X3DLayout:
    stage = X3DStageLayout(channels=4, inner=4, excitations=(2,))
    return X3DLayout(channels=4, stages=(stage,) * 4, projected=4, features=4)


def slowfast_layout() -> SlowFastLayout:
    path = resnet_layout().model_copy(update={"pool_in_time": False})
    return SlowFastLayout(
        slow=path,
        fast=path,
        alpha=2,
        slow_frames="every",
        lateral=(4, 4, 4, 4),
        lateral_length=3,
        lateral_relu=True,
    )


@pytest.mark.parametrize(
    ("architecture", "layout", "reason"),
    [
        ("x3d", x3d_layout(), "squeeze-excitation weighs channels by averages over all frames"),
        ("slowfast", slowfast_layout(), "features are averages over all frames of a clip"),
    ],
)
def test_what_cannot_be_causal_is_refused_by_name(
    architecture: str, layout: X3DLayout | SlowFastLayout, reason: str
) -> None:
    spec = ModelSpec(
        architecture=architecture,
        temporal_lengths=layout.temporal_lengths,
        num_classes=2,
        layout=layout,
    )
    build(spec)
    with pytest.raises(SpecError, match=rf"'{architecture}' cannot be causal: its {reason}"):
        build(spec.model_copy(update={"causal": True}))


def test_an_architecture_that_says_nothing_is_refused() -> None:
    class Other(ActionModel):
        def forward_features(self, x: Tensor) -> Tensor:
            return x

    spec = ModelSpec(architecture="c3d", num_classes=2, causal=True)
    with pytest.raises(SpecError, match=r"'c3d' cannot be causal: it does not say .*leave model"):
        Other(spec)
    Other(spec.model_copy(update={"causal": False}))
