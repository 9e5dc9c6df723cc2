"""How far two outputs may differ: one measure of error, one table of tolerances."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Precision = Literal["float64", "float32"]

# Folding only reorders exact arithmetic: what is left is rounding.
FUSION_TOLERANCE: dict[Precision, float] = {"float64": 1e-10, "float32": 1e-5}
# Another runtime sums in another order and may choose other algorithms for a convolution.
RUNTIME_TOLERANCE = 1e-4


def relative_error(expected: NDArray[np.floating], actual: NDArray[np.floating]) -> float:
    """Max |expected - actual| / max |expected|; infinite where a number is not finite."""
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("inf")
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max()) / scale
