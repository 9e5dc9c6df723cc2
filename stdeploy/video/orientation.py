"""Which way up a video is shown. Pure arithmetic on pictures; no file is touched here."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from stdeploy.video.transform import Image

_TOLERANCE = 0.02  # of the matrix's largest number: about one degree


@dataclasses.dataclass(frozen=True)
class Orientation:
    """One of the eight ways in which a camera may have been held, or a picture mirrored.

    Attributes:
        transposed: rows become columns, before anything else.
        mirrored: left and right are swapped then.
        flipped: top and bottom are.
    """

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    @staticmethod
    def of_matrix(matrix: Sequence[float]) -> "Orientation | None":
        """Of a display matrix as MP4 files and FFmpeg have it.

        A pixel at (x, y) is shown at (a x + c y, b x + d y), which is moved back into the picture.

        >>> Orientation.of_matrix([0, 1, 0, -1, 0, 0, 0, 0, 1])  # a quarter, clockwise
        Orientation(transposed=True, mirrored=True, flipped=False)

        Args:
            matrix: a, b, u, c, d, v, x, y, w, of which a to d are looked at, on any scale.

        Returns:
            None for what is neither a turn by quarters nor a mirror: 45 degrees, a shear.
        """
        a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))
        small = _TOLERANCE * max(map(abs, (a, b, c, d)))
        if max(abs(b), abs(c)) <= small < min(abs(a), abs(d)):
            return Orientation(False, a < 0, d < 0)
        if max(abs(a), abs(d)) <= small < min(abs(b), abs(c)):
            return Orientation(True, c < 0, b < 0)
        return None

    @staticmethod
    def of_quarters(quarters: int) -> "Orientation":
        """Of turns by 90 degrees, clockwise."""
        return (
            Orientation(),
            Orientation(transposed=True, mirrored=True),
            Orientation(mirrored=True, flipped=True),
            Orientation(transposed=True, flipped=True),
        )[quarters % 4]

    def apply(self, image: Image) -> Image:
        """Show a picture (H, W, C) as it is meant, (H, W, C) or (W, H, C)."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        if self.mirrored:
            image = image[:, ::-1]
        if self.flipped:
            image = image[::-1]
        return np.ascontiguousarray(image)


AS_CODED = Orientation()
