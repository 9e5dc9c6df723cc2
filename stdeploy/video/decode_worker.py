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

from stdeploy.errors import StdeployError
from stdeploy.video import decode_messages
from stdeploy.video.clips import ClipRequest, read_clips
from stdeploy.video.limits import Limits
from stdeploy.video.memory import give_back_large_arrays
from stdeploy.video.opencv import limit_threads

_FILES = 64  # that may be open at once


def main() -> None:
    """Serve requests until standard input ends."""
    # FFmpeg and Python may print; that is not to get between the messages.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    limit_threads(1)
    give_back_large_arrays()
    limits = Limits(**_next(requests))
    _confine(limits)
    decode_messages.send(replies, {"ready": True})
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

    return decode_messages.receive(read_into, most_bytes=0)[0]


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
            decode_messages.send(replies, mine | shown, clips.frames)
        decode_messages.send(replies, mine | {"end": True})
    except (MemoryError, cv2.error):  # what cv2 raises here is want of memory
        decode_messages.send(replies, mine | {"error": limits.too_much_memory})
    except StdeployError as error:
        decode_messages.send(replies, mine | {"error": str(error)})


def _confine(limits: Limits) -> None:
    """Give up what decoding does not need."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes no file
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go


def _allow_seconds(seconds: int) -> None:
    """So much more processor time, then the kernel ends this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    end = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
