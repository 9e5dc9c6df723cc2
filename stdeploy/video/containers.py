"""Which files FFmpeg may open.

FFmpeg opens whatever a file says it is: a text file named .mp4 can be a list of other local
files, and a playlist can name URLs. Only real containers, only local files.
"""

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg,gif,mjpeg,"
    "h264,hevc,ivf,av1,obu,dv,nut,rm"
)
PROTOCOLS = "file"
CAPTURE_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # a variable that OpenCV reads


def capture_options(streams: int | None = None) -> str:
    """What `CAPTURE_OPTIONS` has to be, for files like these only.

    Args:
        streams: that a file may hold; None leaves that to FFmpeg.
    """
    options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": CONTAINERS}
    if streams is not None:
        options["max_streams"] = str(streams)
    return "|".join(f"{name};{value}" for name, value in options.items())
