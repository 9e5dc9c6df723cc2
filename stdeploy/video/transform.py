"""One decoded frame to one frame of a clip: turned the right way up, resized, cropped, RGB."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import VideoError

Image = NDArray[np.uint8]
_TOLERANCE = 0.02  # of the matrix's largest number: about one degree


def resized_shape(height_px: int, width_px: int, short_side_px: int) -> tuple[int, int]:
    """Height and width of a picture whose shorter side is resized to a given length.

    >>> resized_shape(240, 427, 256)
    (256, 455)
    """
    factor = short_side_px / min(height_px, width_px)
    height, width = round(height_px * factor), round(width_px * factor)
    return max(short_side_px, height), max(short_side_px, width)


def resize_short_side(image: Image, short_side_px: int) -> Image:
    """Resize so that the shorter side has a given length, keeping the shape of pixels.

    Shrinking to a half or less first averages blocks of whole pixels, so that nothing flickers;
    what is left of the factor is bilinear. That is within a level of averaging over the exact
    area of every new pixel (cv2.INTER_AREA), and takes a sixth of the time.

    Args:
        image: (H, W, 3).
        short_side_px: new length of the shorter side.

    Raises:
        VideoError: the picture is so narrow that the new one is larger than cv2 can make it.
    """
    height, width = image.shape[:2]
    if short_side_px == min(height, width):
        return image
    size = resized_shape(height, width, short_side_px)[::-1]
    try:
        image = average_blocks(image, short_side_px)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    except cv2.error as error:
        raise VideoError(f"has a frame of {width}x{height} px, which cannot be resized") from error


def average_blocks(image: Image, short_side_px: int) -> Image:
    """The first half of `resize_short_side`: averages of blocks of whole pixels.

    Args:
        image: (H, W, 3).
        short_side_px: length that the shorter side is resized to in the end.

    Returns:
        (H // b, W // b, 3) for blocks of b x b pixels; the same array where b is 1.
    """
    height, width = image.shape[:2]
    new_height, new_width = resized_shape(height, width, short_side_px)
    block = min(width // new_width, height // new_height)
    if block <= 1:
        return image
    whole = image[: height // block * block, : width // block * block]
    blocks = (width // block, height // block)
    return np.asarray(cv2.resize(whole, blocks, interpolation=cv2.INTER_AREA), np.uint8)


def same_picture(one: Image, other: Image) -> bool:
    """Whether two pictures (H, W, 3) are equal in every pixel."""
    # Nearly always one row tells.
    middle = len(one) // 2
    return np.array_equal(one[middle], other[middle]) and np.array_equal(one, other)


def crop(image: Image, side_px: int, *, top: float = 0.5, left: float = 0.5) -> Image:
    """Cut out a square.

    Args:
        image: (H, W, 3), both sides at least side_px.
        side_px: side of the square.
        top: where in the room that there is, 0 (highest) to 1; 0.5 is the centre.
        left: likewise, 0 (leftmost) to 1.
    """
    height, width = image.shape[:2]
    y, x = round((height - side_px) * top), round((width - side_px) * left)
    return image[y : y + side_px, x : x + side_px]


def places_of_crops(height: int, width: int, side_px: int, crops: int) -> list[tuple[int, int]]:
    """Where the crops of a resized frame begin: one centred, or three along its longer side.

    >>> places_of_crops(256, 340, 224, 3)
    [(16, 0), (16, 58), (16, 116)]

    Args:
        height: of the frame in pixels, as what follows.
        width: likewise.
        side_px: side of a crop.
        crops: 1 or 3.

    Returns:
        The first row and the first column of each.
    """
    wide = width >= height
    along = (0.5,) if crops == 1 else (0.0, 0.5, 1.0)
    return [
        (
            round((height - side_px) * (0.5 if wide else place)),
            round((width - side_px) * (place if wide else 0.5)),
        )
        for place in along
    ]


def clip_frame(image: Image, clip: ClipSpec, *, top: float = 0.5, left: float = 0.5) -> Image:
    """Turn a decoded frame into a frame of a clip.

    Args:
        image: (H, W, 3), BGR, as OpenCV decodes.
        clip: sizes and colour order.
        top: see `crop`.
        left: see `crop`.

    Returns:
        (clip.crop_px, clip.crop_px, 3), RGB.
    """
    square = crop(resize_short_side(image, clip.short_side_px), clip.crop_px, top=top, left=left)
    return np.asarray(cv2.cvtColor(square, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def clip_crops(image: Image, clip: ClipSpec, crops: int) -> Image:
    """Turn a decoded frame into frames of several clips: one centred, or three along it.

    Three cover the longer side of the frame: its beginning, its centre and its end.

    Args:
        image: (H, W, 3), BGR, as OpenCV decodes.
        clip: sizes and colour order.
        crops: 1 or 3.

    Returns:
        (crops, clip.crop_px, clip.crop_px, 3), RGB.
    """
    if crops == 1:
        return clip_frame(image, clip)[None]
    resized = resize_short_side(image, clip.short_side_px)
    side = clip.crop_px
    squares = [
        resized[top : top + side, left : left + side]
        for top, left in places_of_crops(resized.shape[0], resized.shape[1], side, crops)
    ]
    return np.stack([cv2.cvtColor(square, cv2.COLOR_BGR2RGB) for square in squares])


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
