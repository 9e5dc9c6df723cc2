"""Every suffix of a video names a kind of file that is read here."""

from pathlib import Path

import numpy as np
import pytest

from stdeploy.video.containers import HEAD_BYTES, container_of
from stdeploy.video.reader import VideoReader
from stdeploy.video.video_files import VIDEO_SUFFIXES
from tests.helpers.odd_videos import number_in
from tests.helpers.video_kinds import KINDS

# JPEG pictures begin like these, so that no upload is taken for one.
UNKNOWN_BY_THEIR_HEAD = {".mjpeg", ".mjpg"}


def test_every_suffix_is_tried_here() -> None:
    assert sorted(KINDS) == list(VIDEO_SUFFIXES)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_file_of_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"video{suffix.upper()}"
    KINDS[suffix](path)
    reader = VideoReader(path)
    _, frames = reader.gather(lambda timing: np.arange(len(timing.timestamps)), lambda image: image)
    assert [number_in(frame) for frame in frames] == list(range(20))
    # MPEG-1 and MPEG-2 without a container count from their first reordered frame.
    assert reader.timing.duration == pytest.approx(0.8, abs=0.05)
    known = container_of(path.read_bytes()[:HEAD_BYTES]) is not None
    assert known == (suffix not in UNKNOWN_BY_THEIR_HEAD)
