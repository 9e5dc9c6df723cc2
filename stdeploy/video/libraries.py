"""Which libraries read and decode a file, in the order in which they are tried."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Literal

from stdeploy.errors import BackendError
from stdeploy.video.decoder import Decoder, DecoderName, Index
from stdeploy.video.limits import Limits
from stdeploy.video.opencv import OpenCV

# On the H100 machine sixteen processors decode 5,800 frames of 340x256 a second, and NVDEC through
# PyNvVideoCodec 400 to 1,300: it pays where a frame holds many times as much.
LARGE_PX = 1920 * 1080


def on_host(decoder: DecoderName) -> Literal["auto", "opencv", "pyav"]:
    """What decodes on the CPU where `decoder` was asked for."""
    return "auto" if decoder == "nvdec" else decoder


def decodes_on_gpu(decoder: DecoderName) -> bool:
    """Whether videos can be decoded on a GPU here, where "nvdec" or "auto" was asked for.

    Raises:
        BackendError: they cannot, and it was "nvdec".
    """
    if decoder == "nvdec":
        from stdeploy.video.nvdec import library

        library()
        return True
    if decoder != "auto" or importlib.util.find_spec("PyNvVideoCodec") is None:
        return False
    try:
        from stdeploy.video.nvdec import library

        library()
    except BackendError:
        return False
    return True


def indexers(decoder: DecoderName, limits: Limits) -> list[Callable[[], Decoder]]:
    """Libraries that read packets."""
    pyav = functools.partial(_pyav, limits)
    libraries: dict[str, list[Callable[[], Decoder]]] = {
        "auto": [pyav, OpenCV],
        "opencv": [OpenCV],
        "pyav": [pyav],
    }
    return libraries[on_host(decoder)]


def decoders(
    decoder: DecoderName, limits: Limits, index: Index, *, large_on_gpu: bool
) -> list[Callable[[], Decoder]]:
    """Libraries that decode.

    Args:
        decoder: what was asked for.
        limits: of what a file may hold.
        index: of the file.
        large_on_gpu: "auto" is "nvdec" where frames are large.
    """
    found = list(reversed(indexers(decoder, limits)))
    if not index.first:
        found = found[-1:]  # PyAV has read it; OpenCV would decode another stream
    large = large_on_gpu and decoder == "auto" and index.width * index.height >= LARGE_PX
    return [functools.partial(_nvdec, index), *found] if decoder == "nvdec" or large else found


def _pyav(limits: Limits) -> Decoder:
    from stdeploy.video.pyav import PyAV  # an extra

    return PyAV(limits)


def _nvdec(index: Index) -> Decoder:
    from stdeploy.video.nvdec import Nvdec  # likewise

    return Nvdec(index)
