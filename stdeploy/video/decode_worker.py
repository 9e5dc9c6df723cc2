"""The process that decodes files which are not trusted: python -m stdeploy.video.decode_worker.

It reads requests from standard input and writes clips to standard output, for `DecodePool`, which
kills it when it takes too long. It limits itself before it opens the first file.
"""

import contextlib
import os
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

import cv2

from stdeploy.artifacts.frames import on_host
from stdeploy.errors import StdeployError
from stdeploy.video.clips import ClipRequest, read_clips
from stdeploy.video.limits import Limits, give_back_large_arrays
from stdeploy.video.messages import receive, send
from stdeploy.video.opencv import limit_threads

_FILES, _FILES_ON_GPU = 64, 1024  # that may be open at once
ON_GPU = "on_gpu"  # of the first message, beside the limits


def main() -> None:
    """Serve requests until standard input ends."""
    # FFmpeg and Python may print; that is not to get between the messages.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    limit_threads(1)
    give_back_large_arrays()
    settings = _next(requests)
    on_gpu = settings.pop(ON_GPU)
    limits = Limits(**settings)
    if on_gpu:
        from stdeploy.video.nvdec import reserve  # an extra

        reserve()
    _confine(limits, on_gpu=on_gpu)
    send(replies, {"ready": True})
    while True:
        request = _next(requests)
        _allow_seconds(limits.cpu_seconds)
        _serve(replies, request, limits)


def _next(requests: BinaryIO) -> dict[str, Any]:
    def read_into(buffer: memoryview) -> None:
        while buffer:
            count = requests.readinto(buffer)  # type: ignore[attr-defined]
            if not count:
                sys.exit()
            buffer = buffer[count:]

    return receive(read_into, most_bytes=0)[0]


def _serve(replies: BinaryIO, wanted: dict[str, Any], limits: Limits) -> None:
    mine = {"token": wanted["token"]}
    request = ClipRequest.parse(wanted["request"])
    try:
        for clips in read_clips(Path(wanted["video"]), request, limits):
            shown = {
                "times": clips.times_seconds.tolist(),
                "duration": clips.duration_seconds,
                "flaws": clips.flaws.model_dump(mode="json"),
                "shots": None if clips.shots_seconds is None else clips.shots_seconds.tolist(),
            }
            send(replies, mine | shown, on_host(clips.frames))
        send(replies, mine | {"end": True})
    except (MemoryError, cv2.error):  # what cv2 raises here is want of memory
        send(replies, mine | {"error": limits.too_much_memory})
    except StdeployError as error:
        send(replies, mine | {"error": str(error)})


def _confine(limits: Limits, *, on_gpu: bool) -> None:
    """Give up what decoding does not need."""
    # CUDA reserves address space for all memory of the GPU and the host, which is not used.
    most = limits.memory_bytes + (_address_space_bytes() if on_gpu else 0)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes no file
    files = _FILES_ON_GPU if on_gpu else _FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go


def _address_space_bytes() -> int:
    """Of this process as it is."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _allow_seconds(seconds: int) -> None:
    """So much more processor time, then the kernel ends this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    end = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
