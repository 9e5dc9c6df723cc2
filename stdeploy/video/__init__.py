"""From a video file to uint8 clips: reading, choosing frames, resizing and cropping."""
