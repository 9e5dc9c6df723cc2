"""Pictures of made-up scenes that move a little, for tests of cuts."""

import cv2
import numpy as np

from stdeploy.video.transform import Image

WIDTH, HEIGHT = 128, 72


def scene(seed: int, count: int, *, speed: float = 1.0) -> list[Image]:
    """So many pictures (72, 128, 3) of a scene of its own, which drifts by `speed` px a picture."""
    rng = np.random.default_rng(seed)
    side = HEIGHT + 2 * int(speed * count) + 8
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (2 * side, side), interpolation=cv2.INTER_CUBIC)
    return [
        np.ascontiguousarray(wide[at : at + HEIGHT, at : at + WIDTH])
        for at in (round(speed * number) for number in range(count))
    ]


def mixed(old: Image, new: Image, share: float) -> Image:
    """One picture over the other."""
    return cv2.addWeighted(old, 1 - share, new, share, 0.0).astype(np.uint8)
