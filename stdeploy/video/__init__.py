"""From a video file to uint8 clips: reading, choosing frames, resizing and cropping."""

import os

from stdeploy.video.containers import CONTAINERS, PROTOCOLS

# OpenCV reads these when it is loaded and when it opens a video, so they come before all else
# here; a user's own settings are left alone.
os.environ.setdefault(
    "OPENCV_FFMPEG_CAPTURE_OPTIONS",
    f"protocol_whitelist;{PROTOCOLS}|format_whitelist;{CONTAINERS}",
)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
