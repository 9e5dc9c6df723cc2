import math

import pytest

from stdeploy.errors import SpecError
from stdeploy.spec import ClipSpec, ModelSpec

FIELDS = {"architecture": "i3d-resnet18", "num_classes": 10}


@pytest.mark.parametrize("eta", [1.0, 2.5, math.inf])
def test_model_spec_goes_through_json(eta: float) -> None:
    spec = ModelSpec(**FIELDS, eta=eta, temporal_lengths=(1, 1, 3, 3, 5))
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temporal_lengths": (1, 2, 3, 3, 3)}, r"temporal_lengths = .*t2 is 2; .* odd"),
        ({"temporal_lengths": (1, 3, 3)}, r"temporal_lengths"),
        ({"eta": 0.5}, r"eta = 0\.5: .* greater than or equal to 1"),
        ({"eta": math.nan}, r"eta"),
        ({"branches": "many"}, r"branches = 'many': .*'single' or 'multi'"),
        ({"num_classes": 0}, r"num_classes = 0"),
        ({"width": 0}, r"width = 0"),
        ({"depth": 3}, r"depth = 3: there is no such field; there are architecture, "),
    ],
)
def test_model_spec_refuses_in_one_line(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        ModelSpec.parse({**FIELDS, **fields})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_px": 300}, "crop_px 300 is larger than short_side_px 256"),
        ({"std": (1, 0, 1)}, "std"),
        ({"num_frames": 0}, "num_frames = 0"),
        ({"fps": 0}, "fps = 0"),
        ({"short_video": "pad"}, "short_video = 'pad'"),
        ({"colour_order": "BGR"}, "colour_order = 'BGR'"),
    ],
)
def test_clip_spec_refuses_in_one_line(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ClipSpec.parse(fields)


def test_clip_spec_derives_times_and_shape() -> None:
    clip = ClipSpec(num_frames=32, frame_stride=2, fps=30, crop_px=112)
    assert clip.interval_seconds == pytest.approx(1 / 15)
    assert clip.span_seconds == pytest.approx(31 / 15)
    assert clip.frames_shape == (32, 112, 112, 3)
