"""Layouts of networks of other projects, as cards hold them."""

import pytest

from stdeploy.artifacts.layouts import InceptionLayout, ResNetLayout
from stdeploy.artifacts.spec import ModelSpec
from stdeploy.errors import SpecError

STAGES = [{"channels": 4, "lengths": [1]}] * 4
RESNET = {"block": "basic", "stages": STAGES}


def spec_with(layout: object, lengths: tuple[int, ...] = (3, 1, 1, 1, 1)) -> ModelSpec:
    fields = {"architecture": "resnet3d", "num_classes": 2, "temporal_lengths": lengths}
    return ModelSpec.parse({**fields, "layout": layout})


def test_a_card_that_names_no_kind_holds_a_residual_network() -> None:
    spec = spec_with(RESNET)
    assert isinstance(spec.layout, ResNetLayout)
    assert spec == spec_with({**RESNET, "kind": "resnet"})


def test_kinds_go_to_json_and_back() -> None:
    spec = spec_with({"kind": "inception"}, (7, 3, 3, 3, 3))
    assert isinstance(spec.layout, InceptionLayout)
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("layout", "error"),
    [
        ({"kind": "r"}, r"layout = {'kind': 'r'}: kind 'r' is not known; 'resnet', 'inception', "),
        ({**RESNET, "block": "basi"}, r"layout\.block = 'basi': 'basic' or 'bottleneck'"),
        ({**RESNET, "stagess": []}, r"layout\.stagess .*; did you mean 'stages'\?$"),
        (
            {"kind": "inception", "chanels": 1},
            r"layout\.chanels = 1: there is no such field; did you mean 'channels'\?$",
        ),
        (
            {**RESNET, "stem": {"chanels": 1}},
            r"layout\.stem\.chanels = 1: .* did you mean 'channels'\?$",
        ),
        ({"kind": "x3d"}, r"layout\.stages is missing, and has no default$"),
        ({"kind": "inception", "lengths": [2, 1, 1, 1, 1]}, "temporal length 2: odd numbers"),
        ({"kind": "inception"}, r"beside a layout whose filters have \(7, 3, 3, 3, 3\)$"),
        (5, r"layout = 5: a table is wanted$"),
    ],
)
def test_wrong_layouts_are_one_line(layout: object, error: str) -> None:
    with pytest.raises(SpecError, match=error) as raised:
        spec_with(layout)
    assert "\n" not in str(raised.value)
