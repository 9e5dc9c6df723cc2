"""The golden clip: a procedurally made clip that every machine makes alike, to the bit.

Its integers come from the raw stream of PCG64, which NumPy keeps stable, and from integer
arithmetic only: a sine or a resize may differ by one level between builds, and then no one
could tell a wrong kernel from a different clip.
"""

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.parity import relative_error, scale_of
from stdeploy.errors import ParityError

GOLDEN_SEED = 2026
_DIFFERS = (
    "the weights, the normalisation or a kernel of this runtime differ from what was verified"
)


def golden_clip(seed: int, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Make a clip with coarse colour, fine noise and motion.

    A panning field of coloured blocks, a bright square that crosses it, and pixel noise: no
    two frames, rows, columns or colours are alike, so that any swap of them shows.

    Args:
        seed: of the random stream.
        shape: (T, H, W, 3).

    Returns:
        uint8 frames of that shape, RGB.
    """
    num_frames, height, width, colours = shape
    bits = np.random.PCG64(seed)

    def random_bytes(*size: int) -> NDArray[np.int64]:
        count = int(np.prod(size))
        raw = np.asarray(bits.random_raw(count), dtype=np.uint64)
        return (raw >> np.uint64(56)).astype(np.int64).reshape(size)

    cell = max(4, height // 8)
    blocks = random_bytes(height // cell + 3, width // cell + 3, colours)
    field = blocks.repeat(cell, axis=0).repeat(cell, axis=1)
    noise = random_bytes(height, width, colours)
    side = max(2, height // 4)
    clip = np.empty(shape, dtype=np.uint8)
    for t in range(num_frames):
        pan = t * cell // max(1, num_frames)
        frame = (3 * field[pan : pan + height, pan : pan + width] + noise) // 4
        x = (width - side) * t // max(1, num_frames - 1)
        y = height // 3
        frame[y : y + side, x : x + side] = np.array([230, 90, 20])
        frame[:, :, t % colours] = frame[:, :, t % colours] * 7 // 8
        clip[t] = frame
    return clip


def check_golden(
    expected: tuple[float, ...],
    actual: NDArray[np.floating],
    *,
    magnitude: float,
    tolerance: float,
    source: str,
    cause: str | None = None,
) -> float:
    """Compare logits for the golden clip with those of the card.

    Args:
        expected: K logits of the card.
        actual: logits (K,) of the runtime at hand.
        magnitude: of what the classifier adds up, see `stdeploy.artifacts.card.GoldenClip`.
        tolerance: largest relative error allowed.
        source: artifact and runtime, for the error.
        cause: what a wrong answer comes from, for the error; None: something has changed.

    Returns:
        The relative error.

    Raises:
        ParityError: it is over the tolerance.
    """
    if actual.shape != (len(expected),):
        raise ParityError(
            f"{source} gives logits of shape {actual.shape} for the golden clip; its card "
            f"announces {len(expected)} classes"
        )
    error = relative_error(np.asarray(expected), actual, scale_of(np.asarray(expected), magnitude))
    if error > tolerance:
        raise ParityError(
            f"{source} answers the golden clip wrongly: relative error {error:.2e}, allowed "
            f"{tolerance:.0e}; {cause or _DIFFERS}"
        )
    return error
