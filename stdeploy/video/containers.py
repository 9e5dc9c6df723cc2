"""Which files FFmpeg may open.

FFmpeg opens whatever a file says it is: a text file named .mp4 can be a list of other local
files, and a playlist can name URLs. Only real containers, only local files.
"""

from pathlib import Path

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg,gif,mjpeg,"
    "h264,hevc,ivf,av1,obu,dv,nut,rm,mxf,yuv4mpegpipe,apng,dhav"
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


# By their contents FFmpeg takes these for one JPEG picture, which is no video.
_DEMUXERS = {".mjpeg": "mjpeg", ".mjpg": "mjpeg"}


def demuxer_of(path: Path) -> str | None:
    """What FFmpeg has to take a file for where its name tells more than its contents.

    Returns:
        A name of `CONTAINERS`; None where the contents decide, as they nearly always do.
    """
    return _DEMUXERS.get(path.suffix.lower())


TRANSPORT_STREAM = "MPEG transport stream"
_PACKET = 188  # bytes, of an MPEG transport stream
_STARTS = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"FLV\x01": "FLV",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "ASF",
    b"OggS": "Ogg",
    b"GIF8": "GIF",
    b"\x00\x00\x01\xba": "MPEG",
    b"\x00\x00\x01\xb3": "MPEG video",
    b"DKIF": "IVF",
    b".RMF": "RealMedia",
    b"nut/multimedia container\0": "NUT",
    b"YUV4MPEG2 ": "Y4M",
    b"DHAV": "Dahua DAV",
    b"DAHUA": "Dahua DAV",
    b"\x12\x00\x0a": "AV1 video",  # a temporal delimiter, then a sequence header
    b"\x1f\x07\x00": "DV",
    # A partition pack of the header. What may stand before it is found by decoding alone.
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02": "MXF",
}
# Of `container_of`: those whose packets need not say when they are shown.
WITHOUT_TIMES = {
    "MPEG",
    "MPEG video",
    TRANSPORT_STREAM,
    "H.264, HEVC or MPEG-4 video",
}
_PNG = b"\x89PNG\r\n\x1a\n"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
HEAD_BYTES = 2 * _PACKET


def container_of(head: bytes) -> str | None:
    """Which container a file seems to be, by its first bytes.

    It tells pictures, texts and archives from videos before anything is decoded; what really is
    in the file, decoding tells.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of a shorter one.

    Returns:
        A name for people; None where it is none of those that are read here.
    """
    for start, name in _STARTS.items():
        if head.startswith(start):
            return name
    if head.startswith(_PNG) and b"acTL" in head:
        return "APNG"  # other PNG files are pictures
    if head[4:8] in _BOXES:
        return "MP4 or QuickTime"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    # M2TS has four bytes before each packet.
    for first, step in ((0, _PACKET), (4, _PACKET + 4)):
        if head[first : first + 1] == b"G" and head[first + step : first + step + 1] == b"G":
            return TRANSPORT_STREAM
    if head[:4] == b"\x00\x00\x00\x01" or head[:3] == b"\x00\x00\x01":
        return "H.264, HEVC or MPEG-4 video"
    return None
