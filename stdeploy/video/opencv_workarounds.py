"""Whether a video is one that OpenCV cannot convert, but does not say so.

The wheels of OpenCV 4.13 to 5.0 hand interlaced frames to a conversion that refuses them, and
then give the picture before, or memory as it came, as if all were well. The only sign is a line
that FFmpeg prints, so a process of its own has to look.
"""

import os
import subprocess
import sys
from pathlib import Path

import cv2

_SIGN = "Cannot convert interlaced"
_FRAMES = 300
_SECONDS = 30.0


def refused_by_opencv(path: Path) -> bool:
    """Convert the first frames of a video, and see whether FFmpeg complains.

    Args:
        path: of a video that OpenCV opens.
    """
    try:
        result = subprocess.run(
            [sys.executable, "-P", "-m", __name__, str(path.absolute())],
            env=os.environ | {"OPENCV_FFMPEG_LOGLEVEL": "16"},  # errors
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False  # nothing was complained about as far as it went
    return result.returncode == 0 and _SIGN in result.stdout.decode(errors="replace")


def main() -> None:
    """Convert frames; what FFmpeg says about it is the result."""
    capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
    for _ in range(_FRAMES):
        if not capture.grab():
            break
        capture.retrieve()


if __name__ == "__main__":
    main()
