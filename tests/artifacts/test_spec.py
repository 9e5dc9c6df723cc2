import math
import re

import pytest

from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.artifacts.values import Spec
from stdeploy.errors import SpecError
from stdeploy.train.augment import Augmentation
from stdeploy.train.recipe import Optimisation, Recipe, Start, SyntheticData

FIELDS = {"architecture": "i3d-resnet18", "num_classes": 10}


@pytest.mark.parametrize("eta", [1.0, 2.5, math.inf])
def test_model_spec_goes_through_json(eta: float) -> None:
    spec = ModelSpec(**FIELDS, eta=eta, temporal_lengths=(1, 1, 3, 3, 5))
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temporal_lengths": (1, 2, 3, 3, 3)}, r"temporal_lengths = .*t2 is 2; .* odd"),
        ({"temporal_lengths": (1, 3, 3)}, r"temporal_lengths = \(1, 3, 3\): a list of 5 values"),
        ({"temporal_lengths": (1,) * 6}, r"temporal_lengths = .*: a list of 5 values is wanted$"),
        (
            {"temporal_lengths": 3},
            r"temporal_lengths = 3: a list in brackets is wanted, such as \[1, 2\] or",
        ),
        ({"temporal_lengths": (1, 1.5, 1, 1, 1)}, r"lengths\.1 = 1\.5: a whole number is allowed$"),
        ({"eta": 0.5}, r"eta = 0\.5: 1 or more is allowed$"),
        ({"eta": math.nan}, r"eta"),
        ({"eta": "big"}, r"eta = 'big': a number is allowed$"),
        ({"branches": "many"}, r"branches = 'many': 'single' or 'multi' is allowed$"),
        ({"num_classes": 0}, r"num_classes = 0: 1 or more is allowed$"),
        ({"num_classes": "two"}, r"num_classes = 'two': a whole number is allowed$"),
        ({"num_classes": []}, r"num_classes = \[\]: a whole number is allowed$"),
        ({"width": 0}, r"width = 0: more than 0 is allowed$"),
        ({"width": 9}, r"width = 9: 8 or less is allowed$"),
        ({"fused": "maybe"}, r"fused = 'maybe': true or false is allowed$"),
        ({"architecture": 3}, r"architecture = 3: text is allowed$"),
        ({"depth": 3}, r"depth = 3: there is no such field; there are architecture, "),
    ],
)
def test_model_spec_refuses_in_one_line(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        ModelSpec.parse({**FIELDS, **fields})
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_no_table_is_said_in_one_line() -> None:
    with pytest.raises(
        SpecError, match=r"^ModelSpec: architecture is missing, and has no default$"
    ):
        ModelSpec.parse({"num_classes": 3})
    with pytest.raises(SpecError, match=r"^ModelSpec: a table is wanted$"):
        ModelSpec.parse(3)


HOW = {"epochs": 1, "batch_size": 1, "learning_rate": 0.1}
WHOLE: dict[type[Spec], dict[str, object]] = {
    ModelSpec: FIELDS,
    ClipSpec: {},
    Recipe: {"optimisation": HOW},
    Optimisation: HOW,
    Start: {},
    SyntheticData: {"train_videos": 10, "validation_videos": 10},
    Augmentation: {},
}


@pytest.mark.parametrize("spec", WHOLE)
def test_no_wrong_field_is_told_in_the_words_of_pydantic(spec: type[Spec]) -> None:
    told = []
    for field in spec.model_fields:
        for value in (None, "wrong", -1e9, 1e9, [], [[]] * 9, {}, math.inf):
            try:
                spec.parse({**WHOLE[spec], field: value})
            except SpecError as error:
                told.append(str(error))
    assert len(told) > len(spec.model_fields)
    assert [words for words in told if re.search("should|Input|required|valid ", words)] == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_px": 300}, "^ClipSpec: crop_px 300 is larger than short_side_px 256"),
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
