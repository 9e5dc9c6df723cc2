"""The settings of OpenCV: not there on import, there once a video was opened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.videos import numbered_frames, write_video

CODE = """
import os, sys
from pathlib import Path
import cv2
import numpy as np
from stdeploy.video.reader import VideoReader
print(sorted(name for name in os.environ if name.startswith("OPENCV")))
reader = VideoReader(Path(sys.argv[1]), decoder=sys.argv[2])
reader.gather(lambda timing: np.arange(2), lambda image: image)
for name in sorted(name for name in os.environ if name.startswith("OPENCV")):
    print(name, os.environ[name])
print(cv2.utils.logging.getLogLevel())
"""
LIMITS = "protocol_whitelist;file|format_whitelist;mov,"


def opened(video: Path, decoder: str = "opencv", **user: str) -> list[str]:
    """What a process says that opens a video, before and after."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith("OPENCV")}
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(video), decoder],
        capture_output=True,
        text=True,
        env=environment | user,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.splitlines()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", numbered_frames(6))


@pytest.mark.parametrize("decoder", ["opencv", "auto"])
def test_limits_and_quiet_logs_hold_once_a_video_was_opened(video: Path, decoder: str) -> None:
    before, options, ffmpeg_level, attempts, level, logging = opened(video, decoder)
    assert before == "[]"
    assert options.startswith(f"OPENCV_FFMPEG_CAPTURE_OPTIONS {LIMITS}")
    assert ffmpeg_level == "OPENCV_FFMPEG_LOGLEVEL -8"
    assert attempts == f"OPENCV_FFMPEG_READ_ATTEMPTS {2**31 - 1}"
    assert level == "OPENCV_LOG_LEVEL SILENT"
    assert logging == "0"


def test_what_the_user_has_set_stays(video: Path) -> None:
    user = {
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": "threads;1",
        "OPENCV_FFMPEG_LOGLEVEL": "0",
        "OPENCV_LOG_LEVEL": "ERROR",
    }
    _, options, ffmpeg_level, _, level, logging = opened(video, **user)
    assert options.startswith(f"OPENCV_FFMPEG_CAPTURE_OPTIONS threads;1|{LIMITS}")
    assert ffmpeg_level == "OPENCV_FFMPEG_LOGLEVEL 0"
    assert level == "OPENCV_LOG_LEVEL ERROR"
    assert logging == "2"


def test_a_whitelist_of_the_user_is_taken_as_it_is(video: Path) -> None:
    own = "format_whitelist;mov,mp4|protocol_whitelist;file"
    _, options, *_ = opened(video, OPENCV_FFMPEG_CAPTURE_OPTIONS=own)
    assert options == f"OPENCV_FFMPEG_CAPTURE_OPTIONS {own}"
