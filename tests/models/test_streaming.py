"""A stream, fed call by call, gives what the network gives that sees the whole video at once."""

import numpy as np
import pytest
import torch
from torch import nn

from stdeploy.artifacts.layouts import (
    ResNetLayout,
    StageLayout,
    StemLayout,
    X3DLayout,
    X3DStageLayout,
)
from stdeploy.artifacts.parity import relative_error
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.backends.streams import StreamRuntime, pooled
from stdeploy.backends.torch_streams import TorchStreams
from stdeploy.errors import SpecError
from stdeploy.export.stream_verification import verify_streaming, whole_video
from stdeploy.fusion import fuse_model
from stdeploy.models.base import ActionModel
from stdeploy.models.frames_to_logits import logits_of
from stdeploy.models.registry import ARCHITECTURES, build
from stdeploy.models.streaming import streaming_form
from stdeploy.models.streaming_modules import FrameMask, Kept, StreamedMaxPool, Timing
from tests.helpers.models import TINY_CLIP, card_of, randomise_norms, tiny_model

STRIDES = {"i3d-inception": 8}


def fused(architecture: str = "i3d-resnet18", **fields: object) -> ActionModel:
    return fuse_model(tiny_model(architecture, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", [(1, 1, 3, 3, 5), (7, 3, 5, 3, 3)], ids=str)
@pytest.mark.parametrize("calls", [1, 4, 8])
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_streams_that_begin_at_different_times_say_what_whole_videos_say(
    architecture: str, calls: int, lengths: tuple[int, ...]
) -> None:
    """In float64 and float32, of 1 and 4 streams, from the first frame to the last."""
    model = fused(architecture, temporal_lengths=lengths)
    frames = max(calls, STRIDES.get(architecture, 1))
    spec = streaming_form(model, TINY_CLIP, frames_per_call=frames, window=24).spec
    rows = list(verify_streaming(model, TINY_CLIP, spec, seed=3))
    assert [(row.precision, row.check) for row in rows] == [
        (precision, f"streaming form in {precision}, {streams}")
        for precision in ("fp64", "fp32")
        for streams in ("1 stream", "4 streams")
    ]
    assert all(row.passed for row in rows), rows


def x3d() -> ActionModel:
    stage = X3DStageLayout(channels=8, inner=16, excitations=(8, 0))
    layout = X3DLayout(channels=8, stages=(stage,) * 4, projected=16, features=32)
    fields = {"architecture": "x3d", "num_classes": 5, "branches": "single", "eta": 1.0}
    fields |= {"layout": layout, "temporal_lengths": layout.temporal_lengths}
    model = build(ModelSpec.parse(fields))
    randomise_norms(model)
    return model


def residual(*, causal: bool = False, **fields: object) -> ActionModel:
    """A narrow residual network with strides and pools in time."""
    stages = [
        StageLayout(
            channels=8 << number,
            lengths=(3,),
            stride=(2, 2) if number in (1, 3) else (1, 1),
            shortcut_middle=None,
        )
        for number in range(4)
    ]
    layout = ResNetLayout(
        block="basic",
        stem=StemLayout(channels=8, kernel=(5, 7, 7), pool_kernel=(3, 3, 3), pool_stride=(1, 2, 2)),
        stages=(stages[0], stages[1], stages[2], stages[3]),
        **fields,  # type: ignore[arg-type]
    )
    spec = ModelSpec.parse(
        {
            "architecture": "resnet3d",
            "num_classes": 5,
            "branches": "single",
            "eta": 1.0,
            "layout": layout,
            "temporal_lengths": layout.temporal_lengths,
            "causal": causal,
        }
    )
    torch.manual_seed(0)
    model = build(spec)
    randomise_norms(model)
    return fuse_model(model)


@pytest.mark.parametrize("frames_per_call", [8, 16])
@pytest.mark.parametrize(
    "fields",
    [{"pool_in_time": True}, {"pool_in_time": True, "shortcut": "padding"}],
    ids=["convolutions", "padding"],
)
@pytest.mark.parametrize("causal", [False, True], ids=["centred", "causal"])
def test_strides_and_pools_in_time(
    fields: dict[str, object], frames_per_call: int, causal: bool
) -> None:
    model = residual(causal=causal, **fields)
    spec = streaming_form(model, TINY_CLIP, frames_per_call=frames_per_call, window=32).spec
    assert spec.stride_frames == 8
    rows = list(verify_streaming(model, TINY_CLIP, spec, seed=4))
    assert all(row.passed for row in rows), rows


@pytest.mark.parametrize("calls", [1, 4])
@pytest.mark.parametrize("architecture", ["i3d-resnet18", "s3d-resnet50", "i3d-inception"])
def test_a_causal_network_streams_without_delay(architecture: str, calls: int) -> None:
    """Places are known with the last frame of their own, and say what the whole video says."""
    model = fused(architecture, causal=True, temporal_lengths=(3, 3, 3, 3, 5))
    frames = max(calls, STRIDES.get(architecture, 1))
    spec = streaming_form(model, TINY_CLIP, frames_per_call=frames, window=16).spec
    assert spec.delay_places == 0
    rows = list(verify_streaming(model, TINY_CLIP, spec, seed=3))
    assert all(row.passed for row in rows), rows


@pytest.mark.parametrize("frames_per_call", [1, 3])
def test_a_pool_of_what_may_be_negative_never_sees_padding(frames_per_call: int) -> None:
    pool, frames = nn.MaxPool3d((3, 1, 1), 1, padding=(1, 0, 0)), 9
    window, timing = Kept.of(Timing(frames_per_call), 3, 1, 1, 1)
    streamed = StreamedMaxPool(nn.Identity(), window, fill=-65504.0)
    mask = FrameMask(Timing(frames_per_call))
    x = -1.0 - torch.rand((frames, 4, 2, 2), generator=torch.Generator().manual_seed(0))
    state = torch.full((1, window.kept * 4, 2, 2), streamed.fill)
    found = []
    for start in range(0, frames + frames_per_call, frames_per_call):
        at = torch.tensor([start], dtype=torch.int32)
        new = x[start : start + frames_per_call] if start < frames else x[:frames_per_call]
        y, state = streamed(new, mask(at, torch.tensor([frames], dtype=torch.int32)), state)
        found.append(y)
    expected = pool(x.transpose(0, 1)[None])[0].transpose(0, 1)
    known = torch.cat(found)[timing.delay : timing.delay + frames]
    assert torch.equal(known, expected)


def test_a_module_that_was_exchanged_is_named() -> None:
    model = residual()
    model.relu = nn.Identity()
    with pytest.raises(SpecError, match="no streaming form is known of 'relu', which is a Ident"):
        streaming_form(model, TINY_CLIP, frames_per_call=4)


def streams_of(model: ActionModel, clip: ClipSpec, **asked: int) -> StreamRuntime:
    session = TorchStreams(streaming_form(model, clip, **asked), "fp32", device="CPU")
    return StreamRuntime(session, card_of(model, clip))


def video(frames: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed)
    return noise.integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)


def test_streams_in_changing_company_go_on_where_they_were() -> None:
    """States are put together anew for each call, and none gets into another."""
    model = fused()
    runtime = streams_of(model, TINY_CLIP, window=16)
    videos = [video(40, seed) for seed in range(3)]
    expected = [whole_video(model, TINY_CLIP, each).places for each in videos]
    streams = [runtime.begin(40) for _ in videos]
    found: list[list[np.ndarray]] = [[] for _ in videos]
    behind = runtime.spec.calls_behind
    turn = np.random.default_rng(5)
    while any(stream.position < 40 + behind for stream in streams):
        waiting = [n for n, stream in enumerate(streams) if stream.position < 40 + behind]
        chosen = turn.permutation(waiting)[: turn.integers(1, len(waiting) + 1)]
        frames = np.stack([videos[n][[min(streams[n].position, 39)]] for n in chosen])
        answer = runtime.step(frames, [streams[n] for n in chosen])
        for row, n in enumerate(chosen):
            found[n].append(answer.places[row])
    for whole, places in zip(expected, found, strict=True):
        known = np.concatenate(places)[runtime.spec.delay_places :]
        assert relative_error(whole, known.astype(np.float64)) < 1e-5


def test_a_stream_says_the_same_far_behind_its_start() -> None:
    """Positions of years do not leave 32 bits."""
    runtime = streams_of(fused(), TINY_CLIP, window=16)
    near, far = runtime.begin(), runtime.begin()
    for frame in video(48):
        runtime.step(np.stack([frame[None]] * 2), [near, far])
    far.position += 1 << 40
    for frame in video(4, seed=1):
        answer = runtime.step(np.stack([frame[None]] * 2), [near, far])
        np.testing.assert_array_equal(*answer.logits)


def test_clips_are_streams_with_two_ends() -> None:
    model = fused("i3d-inception", temporal_lengths=(7, 3, 3, 3, 3))
    clip = TINY_CLIP.model_copy(update={"num_frames": 32})
    frames = video(32)
    places = whole_video(model, clip, frames).places
    np.testing.assert_allclose(
        pooled(places[None], model.head.window)[0],
        logits_of(model, clip, frames[None])[0],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"frames_per_call": 4}, "frames_per_call = 4: the network strides in time, .* of 8 is"),
        ({"frames_per_call": 8, "window": 20}, "window = 20 frames: a multiple of 8"),
        ({"frames_per_call": 16, "window": 8}, "window = 8 .* at least the 16 frames of a call"),
        ({"frames_per_call": 0}, "frames_per_call"),
    ],
    ids=str,
)
def test_numbers_that_do_not_fit_the_strides_are_refused(asked: dict[str, int], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        streaming_form(fused("i3d-inception"), TINY_CLIP, **asked)


def test_what_cannot_be_streamed_is_named() -> None:
    with pytest.raises(SpecError, match="fuse it first"):
        streaming_form(tiny_model(), TINY_CLIP)
    with pytest.raises(SpecError, match=r"'conv2\.0\.excitation' weighs channels by an average"):
        streaming_form(fuse_model(x3d()), TINY_CLIP)


def test_no_operation_of_three_dimensions_is_left() -> None:
    network = streaming_form(fused("i3d-inception"), TINY_CLIP, frames_per_call=8)
    of_3d = (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d, nn.BatchNorm3d)
    assert not [module for module in network.modules() if isinstance(module, of_3d)]


def test_a_stream_is_there_once_in_a_call() -> None:
    runtime = streams_of(fused(), TINY_CLIP, window=16)
    stream = runtime.begin()
    with pytest.raises(SpecError, match="twice in one call"):
        runtime.step(np.stack([video(1)] * 2), [stream, stream])


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch about itself
@pytest.mark.parametrize(
    ("architecture", "frames_per_call", "causal"),
    [("i3d-resnet18", 1, False), ("s3d-resnet50", 1, True), ("i3d-inception", 8, False)],
)
def test_a_converter_to_core_ml_knows_every_operation(
    architecture: str, frames_per_call: int, causal: bool
) -> None:
    """Those of coremltools 9, which converts no alias, no `&` and no choice of a number."""
    model = fused(architecture, causal=causal).float()
    network = streaming_form(model, TINY_CLIP, frames_per_call=frames_per_call)
    side = TINY_CLIP.crop_px
    arguments = (
        torch.zeros((frames_per_call, side, side, 3)),
        torch.zeros(1, dtype=torch.int32),
        torch.full((1,), 2**31 - 1, dtype=torch.int32),
        [torch.full((1, *state.shape), state.fill) for state in network.spec.states],
    )
    program = torch.export.export(network, arguments).run_decompositions({})
    used = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    refused = {"aten.alias.default", "aten.__and__.Tensor", "aten.where.ScalarOther"}
    assert not used & refused
    assert "aten.conv2d.default" in used
    assert not [target for target in used if "3d" in target]
