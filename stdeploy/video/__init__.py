"""From a video file to uint8 clips: reading, choosing frames, resizing and cropping."""

import os

from stdeploy.video.containers import CAPTURE_OPTIONS, capture_options

# OpenCV reads these when it is loaded and when it opens a video, so they come before all else
# here. A user's own options stay, and so do the limits, unless the user has set them otherwise.
_users = os.environ.get(CAPTURE_OPTIONS, "")
if "whitelist" not in _users:
    os.environ[CAPTURE_OPTIONS] = "|".join(filter(None, (_users, capture_options())))
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
