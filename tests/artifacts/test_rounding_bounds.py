"""How far a stored weight may be from its parent's, against every number that a format has."""

import ml_dtypes
import numpy as np
import pytest
from onnxruntime.quantization.quant_utils import compute_data_quant_params, quantize_nparray

from stdeploy.artifacts.parity import quantisation_bound, rounding_bound

FORMATS = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def all_numbers(kind: type) -> np.ndarray:
    """Every finite number from 0 on that a format of 16 bits has, as float64, in order."""
    with np.errstate(invalid="ignore"):  # half of the patterns of the last exponent are no numbers
        numbers = np.arange(1 << 15, dtype=np.uint16).view(kind).astype(np.float64)
    return numbers[np.isfinite(numbers)]


def random_numbers(smallest: float, largest: float) -> np.ndarray:
    """Float32 of all magnitudes between two, of both signs."""
    draw = np.random.default_rng(0)
    magnitude = np.exp(draw.uniform(np.log(smallest), np.log(largest), 100_000))
    return (magnitude * draw.choice([-1, 1], len(magnitude))).astype(np.float32)


@pytest.mark.parametrize(
    ("precision", "smallest", "largest"), [("fp16", 1e-9, 6e4), ("bf16", 1e-38, 3e38)]
)
def test_bound_is_half_the_gap_between_the_numbers_around(
    precision: str, smallest: float, largest: float
) -> None:
    numbers, values = all_numbers(FORMATS[precision]), random_numbers(smallest, largest)
    below = np.searchsorted(numbers, np.abs(values), side="right") - 1
    gap = numbers[below + 1] - numbers[below]
    assert np.array_equal(rounding_bound(values, precision), gap / 2)


@pytest.mark.parametrize("precision", FORMATS)
def test_rounding_stays_within_its_bound_and_the_next_number_does_not(precision: str) -> None:
    kind = FORMATS[precision]
    values = np.concatenate([random_numbers(1e-9, 6e4), np.float32([0, 1, -2, 2**-14, 2**-24])])
    rounded = values.astype(kind)
    bound = rounding_bound(values, precision)
    assert np.all(np.abs(values - rounded.astype(np.float64)) <= bound)
    assert np.any(np.abs(values - rounded.astype(np.float64)) > 0.99 * bound)
    # One further up: only the value halfway between has two nearest numbers.
    further = (rounded.view(np.uint16) + 1).view(kind).astype(np.float64)
    apart = np.abs(values - further)
    halfway = apart == np.abs(values - rounded.astype(np.float64))
    assert np.all((apart > bound) | halfway)
    assert halfway.mean() < 0.01


def test_float32_is_not_rounded() -> None:
    assert not rounding_bound(random_numbers(1e-30, 1e30), "fp32").any()


def quantised(weight: np.ndarray, *, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers and steps, as ONNX Runtime's quantiser makes them for each output channel."""
    integers, steps = [], []
    for channel in weight:
        zero, step = compute_data_quant_params(
            channel, quant_type=3, symmetric=True, reduce_range=bits == 7
        )
        assert zero == 0
        integers.append(quantize_nparray(3, channel, step, zero))
        steps.append(step)
    return np.stack(integers), np.array(steps, dtype=np.float32)


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e20])
def test_quantising_stays_within_its_bound_and_the_next_integer_does_not(
    bits: int, scale: float
) -> None:
    draw = np.random.default_rng(bits)
    weight = (draw.standard_normal((200, 9, 3, 3, 3)) * scale).astype(np.float32)
    integers, steps = quantised(weight, bits=bits)
    assert np.abs(integers).max() == (127 if bits == 8 else 64)
    bound = quantisation_bound(weight, steps)
    wide = integers.astype(np.float64)
    by_channel = steps.astype(np.float64).reshape(-1, 1, 1, 1, 1)
    off = np.abs(weight - wide * by_channel)
    assert np.all(off <= bound)
    assert np.all(off.reshape(200, -1).max(axis=1) > 0.9 * bound.reshape(200))
    for neighbour in (wide + 1, wide - 1):
        apart = np.abs(weight - neighbour * by_channel)
        # Within 2**-17 of a step of halfway, either integer is the nearest as float32 sees it.
        assert np.all((apart > bound) | (np.abs(off - 0.5 * by_channel) < 1e-5 * by_channel))


def test_a_channel_of_zeros_or_nearly_is_stored_as_zeros() -> None:
    weight = np.float32([[0.0, 0.0], [1e-42, -1e-40], [1.0, -0.5]])
    integers, steps = quantised(weight, bits=8)
    assert steps[:2].tolist() == [1.0, 1.0]  # of ONNX Runtime, where no step is small enough
    assert not integers[:2].any()
    off = np.abs(weight - integers * steps.reshape(-1, 1).astype(np.float64))
    assert np.all(off <= quantisation_bound(weight, steps))


def test_a_step_that_is_too_large_explains_nothing() -> None:
    weight = np.float32([[0.5, 0.25]])
    bound = quantisation_bound(weight, np.float32([1000.0]))
    assert np.all(weight > bound)
    assert bound == pytest.approx(0.5 * 0.5 / 64, rel=1e-4)
