"""From a video file to uint8 clips: reading, choosing frames, resizing and cropping."""

import os

from stdeploy.video.containers import CAPTURE_OPTIONS, capture_options

# OpenCV reads these when it is loaded and when it opens a video, so they come before all else
# here; a user's own settings are left alone.
os.environ.setdefault(CAPTURE_OPTIONS, capture_options())
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
