import contextlib
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import SpecError, VideoError
from stdeploy.video.live import LiveClips
from stdeploy.video.live_source import NoStreamError, Opener, opener
from tests.helpers.odd_videos import coloured_frames, encode

CLIP = ClipSpec(num_frames=4, frame_stride=2, fps=20.0, short_side_px=32, crop_px=32)


class Film:
    """A stream of numbered grey frames, shown every 0.05 s; it ends, or breaks, after some."""

    def __init__(self, count: float, *, pause: float = 0.0, shown: float = 0.05) -> None:
        self._numbers = itertools.count()
        self._count = count
        self._pause = pause
        self._shown = shown
        self.number = -1
        self.converted: list[int] = []

    def grab(self) -> float | None:
        time.sleep(self._pause)
        self.number = next(self._numbers)
        return None if self.number >= self._count else self.number * self._shown

    def image(self) -> np.ndarray:
        self.converted.append(self.number)
        return np.full((40, 40, 3), self.number % 256, np.uint8)

    def seek(self, _seconds: float) -> None:
        raise AssertionError


def opening(*films: Film) -> Opener:
    remaining = iter(films)

    @contextlib.contextmanager
    def open_next() -> Iterator[Film]:
        film = next(remaining, None)
        if film is None:
            raise VideoError("cannot be opened, or sends no video")
        yield film

    return open_next


def test_frames_come_at_the_interval_of_the_clip() -> None:
    film = Film(9)
    with LiveClips(opening(film), CLIP, reconnect=False) as live:
        window = live.next(after=0.75)  # wait for the end
        assert window is None
        window = live.next(after=-math.inf)
    assert window is not None
    assert film.converted == [0, 2, 4, 6, 8]  # others are grabbed, never converted
    assert window.frames[:, 0, 0, 0].tolist() == [2, 4, 6, 8]
    assert window.end_seconds == pytest.approx(0.4)


def test_the_newest_window_wins() -> None:
    film = Film(math.inf, pause=0.002)
    with LiveClips(opening(film), CLIP, reconnect=False) as live:
        ends: list[float] = []
        for _ in range(4):
            begun = film.number  # of a frame that is read already, or just now
            window = live.next(after=ends[-1] + 1e-6 if ends else -math.inf)
            assert window is not None
            ends.append(window.end_seconds)
            # Frames come every 0.05 s of the stream, every second is kept: what is taken is no
            # older than the last that was kept before it was asked for.
            assert window.end_seconds >= (begun - 3) * 0.05
            slow = round(window.end_seconds / 0.05) + 100  # a hundred frames come meanwhile
            while film.number < slow:
                time.sleep(0.01)
    assert (np.diff(ends) > 4.5).all()


def test_a_source_that_breaks_off_is_opened_again() -> None:
    said: list[str] = []
    films = Film(30, pause=0.001), Film(60, pause=0.001)
    with LiveClips(opening(*films), CLIP, reconnect=True, report=said.append) as live:
        first = live.next(after=-math.inf)
        later = live.next(after=2.9)  # frame 29 of the first is at 1.45 s; time goes on
    assert first is not None
    assert later is not None
    assert later.end_seconds >= 2.9
    assert said[0] == "the source has ended; trying again in 1 s"


def test_a_source_without_timestamps_goes_by_arrival() -> None:
    with LiveClips(opening(Film(60, pause=0.02, shown=0.0)), CLIP, reconnect=False) as live:
        window = live.next(after=0.5)
    assert window is not None
    assert 0.5 <= window.end_seconds < 2.0


def test_a_source_shorter_than_a_clip_gives_one() -> None:
    with LiveClips(opening(Film(3)), CLIP, reconnect=False) as live:
        window = live.next(after=-math.inf)
        assert window is not None
        assert window.frames[:, 0, 0, 0].tolist() == [0, 2, 2, 2]
        assert live.next(after=window.end_seconds + 1e-6) is None


def test_a_source_that_cannot_be_opened_says_so() -> None:
    with (
        LiveClips(opening(), CLIP, reconnect=False) as live,
        pytest.raises(VideoError, match="the source cannot be opened"),
    ):
        live.next(after=-math.inf)


def test_a_source_that_was_never_there_is_tried_so_often_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stdeploy.video.live._FIRST_PAUSE", 0.01)
    told: list[str] = []
    with (
        LiveClips(opening(), CLIP, reconnect=True, tries=3, report=told.append) as live,
        pytest.raises(NoStreamError, match=r"sends no video, in 3 tries over 0 s$"),
    ):
        live.next(after=-math.inf)
    assert len(told) == 2


def test_a_source_that_was_there_is_tried_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stdeploy.video.live._FIRST_PAUSE", 0.001)
    told: list[str] = []
    with LiveClips(opening(Film(10)), CLIP, reconnect=True, tries=2, report=told.append) as live:
        assert live.next(after=-math.inf) is not None
        while len(told) < 5:
            time.sleep(0.005)


@pytest.mark.parametrize("source", ["a.mp4", "file:///etc/passwd", "concat:a|b", "x://y", ""])
def test_what_is_no_live_source_is_refused(source: str) -> None:
    with pytest.raises(SpecError, match="is no live source"):
        opener(source)


def test_a_camera_that_is_not_there_is_an_error() -> None:
    with (
        LiveClips(opener("63"), CLIP, reconnect=False) as live,
        pytest.raises(VideoError, match="the source cannot be opened"),
    ):
        live.next(after=-math.inf)


SENDER = """
import sys, time, av
source, address = sys.argv[1:]
start = time.monotonic()
with av.open(address, "w", format="mpegts") as out:
    with av.open(source) as container:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.pts is None:
                continue
            wait = start + float(packet.dts * packet.time_base) - time.monotonic()
            time.sleep(max(wait, 0))
            packet.stream = stream
            out.mux(packet)
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "film.ts"
    encode(path, coloured_frames(200), "mpeg2video", g="10")
    return path


FOLLOWER = """
import json, math, sys, time
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.video.live import LiveClips
from stdeploy.video.live_source import opener
clip = ClipSpec.model_validate_json(sys.argv[2])
with LiveClips(opener(sys.argv[1]), clip, reconnect=False) as live:
    lags, ends, after = [], [], -math.inf
    while len(lags) < 6 and (window := live.next(after=after)) is not None:
        time.sleep(0.3)  # slower than the stream
        lags.append(time.monotonic() - window.arrived)
        ends.append(window.end_seconds)
        after = window.end_seconds + 0.1
print(json.dumps([lags, ends]))
"""


def test_a_network_stream_is_followed(film: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        address = f"udp://127.0.0.1:{free.getsockname()[1]}"
    sending = [sys.executable, "-c", SENDER, str(film), f"{address}?pkt_size=1316"]
    sender = subprocess.Popen(sending)
    try:
        # In a process of its own, as `stdeploy watch` is.
        following = [sys.executable, "-c", FOLLOWER, address, CLIP.model_dump_json()]
        result = subprocess.run(following, stdout=subprocess.PIPE, check=True, timeout=60)
    finally:
        sender.kill()
        sender.wait()
    lags, ends = json.loads(result.stdout)
    assert len(lags) == 6
    assert max(lags) < 0.3 + 2 * CLIP.interval_seconds + 0.8
    assert (np.diff(ends) > 0.1).all()


def test_a_pipe_is_followed_to_its_end(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    content = film.read_bytes()

    def send() -> None:
        with os.fdopen(writing, "wb") as pipe:
            for start in range(0, len(content), 1 << 15):
                pipe.write(content[start : start + (1 << 15)])
                time.sleep(0.01)

    sender = threading.Thread(target=send)
    sender.start()
    with os.fdopen(reading, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        with LiveClips(opener("-"), CLIP, reconnect=False) as live:
            count, after = 0, -math.inf
            while (window := live.next(after=after)) is not None:
                count += 1
                after = window.end_seconds + 1e-6
    sender.join()
    assert count >= 2
    assert after == pytest.approx(7.9, abs=0.2)  # the last of 200 frames at 25 a second
