import numpy as np
import pytest

from stdeploy.artifacts.parity import GATES, RUNTIME_TOLERANCE, difference, relative_error


def test_equal_logits_do_not_differ() -> None:
    logits = np.array([[1.0, 3.0, -2.0], [0.0, 0.5, 0.2]])
    same = difference(logits, logits)
    assert (same.max_error, same.mean_error, same.top1_changed, same.kl_nats) == (0, 0, 0, 0)


def test_measures_of_a_known_difference() -> None:
    parent = np.array([[4.0, 0.0], [1.0, 2.0]])
    artifact = np.array([[4.0, 1.0], [2.5, 2.0]])
    found = difference(parent, artifact)
    assert found.max_error == pytest.approx(1.5 / 4)
    assert found.mean_error == pytest.approx((1.0 + 1.5) / 4 / 4)
    assert found.top1_changed == 0.5
    first, second = 1 / (1 + np.exp(-4.0)), 1 / (1 + np.exp(-1.0))
    other_first, other_second = 1 / (1 + np.exp(-3.0)), 1 / (1 + np.exp(0.5))
    kl = [
        p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        for p, q in ((first, other_first), (second, other_second))
    ]
    assert found.kl_nats == pytest.approx(np.mean(kl))


def test_what_is_not_finite_differs_without_end() -> None:
    parent = np.array([[1.0, 2.0]])
    for bad in (np.nan, np.inf):
        assert difference(parent, np.array([[1.0, bad]])).max_error == float("inf")
        assert relative_error(parent, np.array([[1.0, bad]])) == float("inf")


def test_tables_cover_every_precision_and_loosen_in_order() -> None:
    assert GATES.keys() == RUNTIME_TOLERANCE.keys() == {"fp32", "fp16", "bf16", "int8"}
    order = ["fp32", "fp16", "bf16", "int8"]
    for name in ("max_error", "mean_error", "kl_nats"):
        values = [getattr(GATES[precision], name) for precision in order]
        assert values == sorted(values)
