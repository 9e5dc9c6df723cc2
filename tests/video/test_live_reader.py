"""One source in a process of its own: it breaks, hangs, crashes and lies, and this side goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import SpecError
from stdeploy.video import live_reader
from stdeploy.video.live_reader import DueFrame, LivePicture, LiveReader, LiveSource, check_names
from stdeploy.video.live_worker import Pictures
from tests.helpers.live_sender import garbage, readers_of, sending, write_film

CLIP = ClipSpec(num_frames=4, frame_stride=2, fps=20.0, short_side_px=32, crop_px=32)


class Heard:
    """All that a reader told."""

    def __init__(self) -> None:
        self.frames: list[DueFrame] = []
        self.pictures: list[LivePicture] = []
        self.begun = 0
        self.breaks_: list[str] = []
        self.noticed: list[str] = []
        self.end: tuple[str | None, bool] | None = None
        self._changed = threading.Condition()

    def _tell(self, change: Callable[[], None]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def begins(self) -> None:
        self._tell(lambda: setattr(self, "begun", self.begun + 1))

    def frame(self, frame: DueFrame) -> None:
        self._tell(lambda: self.frames.append(frame))

    def picture(self, picture: LivePicture) -> None:
        self._tell(lambda: self.pictures.append(picture))

    def breaks(self, reason: str, *, pause_seconds: float) -> None:
        self._tell(lambda: self.breaks_.append(f"{reason} ({pause_seconds:g} s)"))

    def notices(self, text: str) -> None:
        self._tell(lambda: self.noticed.append(text))

    def ends(self, error: str | None, *, stopped: bool) -> None:
        self._tell(lambda: setattr(self, "end", (error, stopped)))

    def wait(self, true: Callable[[], object], seconds: float = 60.0) -> None:
        with self._changed:
            assert self._changed.wait_for(true, seconds), vars(self)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.ts"
    write_film(path, 2.0)
    return path


def reading(address: str, heard: Heard, **more: object) -> LiveReader:
    pictures = more.pop("pictures", None)
    source = LiveSource(address=address, **more)  # type: ignore[arg-type]
    return LiveReader(source, CLIP, heard, pictures=pictures)  # type: ignore[arg-type]


def test_a_file_is_played_in_real_time_and_ends(film: Path) -> None:
    heard = Heard()
    reader = reading(str(film), heard, pictures=Pictures(0.0, 64))
    reader.start()
    heard.wait(lambda: heard.end)
    reader.close()
    assert heard.end == (None, False)
    shown = [frame.seconds for frame in heard.frames]
    assert len(shown) == 20
    assert np.diff(shown) == pytest.approx(0.1, abs=0.041)  # of frames that come each 0.04 s
    took = heard.frames[-1].arrived - heard.frames[0].arrived
    assert took == pytest.approx(shown[-1] - shown[0], abs=0.5)
    assert all(frame.image.shape == (32, 32, 3) for frame in heard.frames)
    assert heard.begun == 1
    # All frames of the source, however few of them the network is to see.
    seen = [picture.stream_seconds for picture in heard.pictures]
    assert seen == pytest.approx([0.04 * number for number in range(50)], abs=2e-3)
    assert set(shown) < set(seen)
    picture = heard.pictures[0]
    assert picture.source == "film.ts"
    assert abs(picture.time - time.time()) < 60
    image = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (48, 64, 3)


def test_pictures_have_an_interval_of_their_own(film: Path) -> None:
    heard = Heard()
    reader = reading(str(film), heard, pictures=Pictures(0.25, 64))
    reader.start()
    heard.wait(lambda: heard.end)
    reader.close()
    assert len(heard.frames) == 20
    seen = [picture.stream_seconds for picture in heard.pictures]
    # The first frame from each quarter of a second on.
    assert seen == pytest.approx([0, 0.28, 0.52, 0.76, 1.0, 1.28, 1.52, 1.76], abs=2e-3)


def test_a_crash_of_the_decoder_is_told_and_the_source_is_opened_again(film: Path) -> None:
    heard = Heard()
    with sending(film.read_bytes() * 40, 80.0) as sender:
        reader = reading(sender.url, heard)
        reader.start()
        heard.wait(lambda: len(heard.frames) >= 3)
        (process,) = readers_of(os.getpid())
        last = heard.frames[-1]
        os.kill(process, signal.SIGSEGV)
        heard.wait(lambda: heard.breaks_)
        count = len(heard.frames)
        heard.wait(lambda: len(heard.frames) >= count + 3)
        reader.close()
    assert heard.breaks_ == ["the source made its process crash (signal 11) (1 s)"]
    assert heard.begun == 2
    later = heard.frames[count]
    # The clock goes on over the break.
    assert later.seconds - last.seconds == pytest.approx(later.arrived - last.arrived, abs=0.5)
    assert later.seconds > last.seconds
    assert heard.end == (None, True)
    assert readers_of(os.getpid()) == []


def test_a_source_that_breaks_off_is_opened_again_unless_that_is_not_wanted(film: Path) -> None:
    again, once = Heard(), Heard()
    with sending(film.read_bytes(), 2.0) as sender:
        readers = reading(sender.url, again), reading(sender.url, once, reconnect=False)
        for reader in readers:
            reader.start()
        once.wait(lambda: once.end)
        again.wait(lambda: again.begun >= 2)
        for reader in readers:
            reader.close()
    assert once.end == (None, False)
    assert once.begun == 1
    assert again.breaks_[0] == "the source has ended (1 s)"
    assert again.end == (None, True)


def test_garbage_ends_in_a_reason() -> None:
    heard = Heard()
    with sending(garbage(3.0), 3.0) as sender:
        reader = reading(sender.url, heard, reconnect=False)
        reader.start()
        heard.wait(lambda: heard.end)
        reader.close()
    assert heard.end is not None
    assert heard.end[0] is not None
    assert heard.end[0].startswith("the source ")
    assert heard.frames == []


def test_a_process_that_hangs_is_ended(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    with sending(film.read_bytes() * 40, 80.0) as sender:
        reader = reading(sender.url, heard, reconnect=False)
        reader.start()
        heard.wait(lambda: len(heard.frames) >= 3)
        # Only now: on a busy machine the process takes longer than this to begin.
        monkeypatch.setattr(live_reader, "_SILENCE_SECONDS", 2.0)
        count = len(heard.frames)
        heard.wait(lambda: len(heard.frames) >= count + 2)  # what waits now knows of it
        (process,) = readers_of(os.getpid())
        os.kill(process, signal.SIGSTOP)
        heard.wait(lambda: heard.end)
        reader.close()
    assert heard.end == ("the source made its process hang: nothing came for 2 s", False)
    assert readers_of(os.getpid()) == []


def test_a_source_that_waits_is_left_at_once() -> None:
    heard = Heard()
    with sending(b"G" * 188, 1.0) as sender:
        sender.paused.set()
        reader = reading(sender.url, heard)
        reader.start()
        while not sender.connections:
            time.sleep(0.01)
        start = time.monotonic()
        reader.close()
        assert time.monotonic() - start < 5.0
    assert heard.end == (None, True)


READS = """
import sys, threading
from tests.video.test_live_reader import Heard, reading
heard = Heard()
reading(sys.argv[1], heard).start()
heard.wait(lambda: heard.frames)
print("reads", flush=True)
threading.Event().wait()
"""


def test_a_reading_process_ends_with_the_program_that_is_killed(film: Path) -> None:
    with sending(film.read_bytes() * 40, 80.0) as sender:
        command = [sys.executable, "-c", READS, sender.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout
            assert program.stdout.readline() == "reads\n"
            (process,) = readers_of(program.pid)
            program.kill()
        end = time.monotonic() + 20
        while Path(f"/proc/{process}/cmdline").exists():
            if not Path(f"/proc/{process}/cmdline").read_bytes():
                break  # a zombie that nobody waits for
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "frame", "seconds": 1.0, "arrived": 1.0},
        {"kind": "frame", "seconds": float("nan"), "arrived": 1.0},
        {"kind": "frame", "arrived": 1.0},
        {"kind": "picture", "seconds": 1.0, "arrived": 1.0},
        {"kind": "breaks", "text": "a"},
        {"kind": "other"},
        {},
    ],
)
def test_what_a_process_must_not_send_is_refused(message: dict[str, object]) -> None:
    heard = Heard()
    reader = reading("0", heard)
    wrong_size = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises((live_reader.BrokenMessageError, KeyError)):
        reader._take(message, wrong_size)
    assert (heard.frames, heard.pictures, heard.breaks_) == ([], [], [])


def test_names_hold_no_password() -> None:
    shown = LiveSource(address="rtsp://user:secret@door.local:554/stream?token=secret").shown
    assert shown == "rtsp://door.local:554/stream"
    assert LiveSource(address="0").shown == "camera 0"
    assert LiveSource(address="0", name="door").shown == "door"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"address": "gone.mp4"}, "no file has this name"),
        ({"address": "0", "hop_seconds": -1.0}, "hop_seconds = -1.0"),
        ({"address": "0", "name": "a\nb"}, "can be printed"),
        ({"address": "-", "reconnect": True}, "a pipe cannot be opened again"),
    ],
)
def test_what_is_no_source_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        LiveSource(**fields)  # type: ignore[arg-type]


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(SpecError, match="two sources are named 'camera 0'"):
        check_names([LiveSource(address="0"), LiveSource(address="00", name="camera 0")])
