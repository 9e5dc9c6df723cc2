import hashlib

import numpy as np
import pytest

from stdeploy.artifacts.golden import check_golden, golden_clip
from stdeploy.artifacts.parity import relative_error
from stdeploy.errors import ParityError


def test_golden_clip_is_the_same_on_every_machine() -> None:
    clip = golden_clip(2026, (16, 56, 56, 3))
    assert hashlib.sha256(clip.tobytes()).hexdigest() == (
        "e419894ee7da0c9a8ba772e97cef811aff77a64e4e90a8cac930b614b07a3708"
    )


def test_golden_clip_tells_frames_rows_columns_and_colours_apart() -> None:
    clip = golden_clip(1, (8, 32, 32, 3)).astype(int)
    for axis in range(4):
        for shift in range(1, clip.shape[axis]):
            assert np.abs(clip - np.roll(clip, shift, axis=axis)).mean() > 1, (axis, shift)
        assert np.abs(clip - np.flip(clip, axis=axis)).mean() > 1


def test_golden_clip_depends_on_its_seed() -> None:
    assert not np.array_equal(golden_clip(1, (4, 16, 16, 3)), golden_clip(2, (4, 16, 16, 3)))


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (2, 9, 9, 3), (64, 224, 224, 3)])
def test_golden_clip_has_any_shape(shape: tuple[int, int, int, int]) -> None:
    assert golden_clip(0, shape).shape == shape


def test_relative_error_is_relative_to_the_largest_number() -> None:
    assert relative_error(np.array([1.0, -4.0]), np.array([1.0, -3.0])) == 0.25
    assert relative_error(np.zeros(2), np.array([0.0, 0.5])) == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_relative_error_of_broken_numbers_is_infinite(bad: float) -> None:
    assert relative_error(np.array([1.0, bad]), np.array([1.0, bad])) == np.inf
    assert relative_error(np.array([1.0, 2.0]), np.array([1.0, bad])) == np.inf


def test_another_number_of_logits_is_refused() -> None:
    with pytest.raises(ParityError, match=r"shape \(3,\) .* announces 2 classes"):
        check_golden((1.0, 4.0), np.ones(3), magnitude=0.0, tolerance=1e-4, source="'a.onnx'")


def test_logits_that_cancel_are_measured_by_a_fifth_of_what_was_added_up() -> None:
    expected, actual = (0.01, -0.01), np.array([0.012, -0.012])
    allowed = {"tolerance": 1e-2, "source": "'a.onnx'"}
    assert check_golden(expected, actual, magnitude=10.0, **allowed) == pytest.approx(0.002 / 2)
    with pytest.raises(ParityError, match=r"relative error 2\.00e-01"):
        check_golden(expected, actual, magnitude=0.0, **allowed)
    wrong = np.array([0.05, -0.05])
    with pytest.raises(ParityError, match=r"relative error 2\.00e-02"):
        check_golden(expected, wrong, magnitude=10.0, **allowed)


def test_check_golden_names_source_and_error() -> None:
    with pytest.raises(ParityError, match=r"'a\.onnx' answers .* 2\.50e-01, allowed 1e-04"):
        check_golden(
            (1.0, 4.0), np.array([1.0, 3.0]), magnitude=0.0, tolerance=1e-4, source="'a.onnx'"
        )
