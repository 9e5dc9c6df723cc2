import cv2
import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.video.transform import clip_frame, crop, resize_short_side


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (256, 341)),
        (640, 480, (341, 256)),
        (100, 100, (256, 256)),
        (2, 900, (256, 115200)),
    ],
)
def test_short_side_gets_its_length_and_the_shape_stays(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    resized = resize_short_side(np.zeros((height, width, 3), np.uint8), 256)
    assert resized.shape == (*expected, 3)


def test_shrinking_averages() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert set(np.unique(resize_short_side(stripes, 32))) == {100}


@pytest.mark.parametrize(("height", "width"), [(360, 640), (1080, 1920), (600, 600)])
def test_shrinking_is_near_the_average_over_areas(height: int, width: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), height / 180)  # a photograph of any size
    image = cv2.normalize(image, np.empty_like(image), 0, 255, cv2.NORM_MINMAX)
    resized = resize_short_side(image, 256)
    area = cv2.resize(image, resized.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(resized.astype(int) - area).mean() < 2.5


def test_crop_takes_the_centre_and_the_corners() -> None:
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    np.testing.assert_array_equal(crop(image, 4), image[1:5, 2:6])
    np.testing.assert_array_equal(crop(image, 4, top=0, left=0), image[:4, :4])
    np.testing.assert_array_equal(crop(image, 4, top=1, left=1), image[2:, 4:])


def test_clip_frame_turns_bgr_into_rgb() -> None:
    clip = ClipSpec(short_side_px=16, crop_px=8)
    blue = np.zeros((32, 48, 3), np.uint8)
    blue[..., 0] = 255
    frame = clip_frame(blue, clip)
    assert frame.shape == (8, 8, 3)
    assert frame[0, 0].tolist() == [0, 0, 255]
