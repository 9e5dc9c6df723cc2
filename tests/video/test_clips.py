"""Which clips stand for many videos; real files."""

from pathlib import Path

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import VideoError
from stdeploy.video.clips import evenly, middle_clips
from tests.helpers.videos import write_video

CLIP = ClipSpec(num_frames=4, frame_stride=1, fps=12.0, short_side_px=32, crop_px=32)


def test_videos_are_chosen_evenly() -> None:
    videos = [Path(str(number)) for number in range(10)]
    assert evenly(videos, 4)[:4] == [videos[0], videos[2], videos[5], videos[8]]
    assert sorted(evenly(videos, 4)) == sorted(videos)
    assert evenly(videos[:2], 5) == videos[:2]


def test_a_broken_video_costs_no_clip_while_there_are_others(tmp_path: Path) -> None:
    videos = [tmp_path / f"{number}.mp4" for number in range(4)]
    for number, video in enumerate(videos):
        write_video(video, [np.full((32, 32, 3), 60 * number, np.uint8)] * 12, fps=12.0)
    videos[2].write_bytes(b"no video")
    clips = list(middle_clips(videos, CLIP, count=2))
    assert [clip.shape for clip in clips] == [(4, 32, 32, 3)] * 2
    assert [round(clip.mean() / 60) for clip in clips] == [0, 1]  # 2 was chosen, 1 is its spare
    assert len(list(middle_clips(videos, CLIP, count=9))) == 3
    with pytest.raises(VideoError, match=r"none of the 1 videos can be read; the last, '.*2\.mp4'"):
        list(middle_clips(videos[2:3], CLIP, count=1))
