"""One of many live sources: a process that reads it, and a thread that takes what it sends.

What a source does cannot hold up another: it is opened, waited for and decoded in a process of
its own (`live_worker.py`), which is started again when it crashes, hangs or sends nonsense.
"""

import contextlib
import dataclasses
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.errors import SpecError, VideoError
from stdeploy.video.containers import CAPTURE_OPTIONS, capture_options
from stdeploy.video.decode_pool import may_know, printable
from stdeploy.video.live_source import STANDARD_INPUT, opener
from stdeploy.video.live_worker import Pictures
from stdeploy.video.messages import BrokenMessageError, receive, send

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
# A source that is down says so at least every 40 s: 10 s for opening, 30 s of pause.
_SILENCE_SECONDS = 90.0
_ASK_AGAIN_SECONDS = 0.5
_MOST_BYTES = 16 * 2**20  # of a picture; frames of a clip have their size
_LONGEST_NAME = 200
# Of FFmpeg's HTTP, beside what every process that decodes may know.
_PROXIES = frozenset(("http_proxy", "no_proxy"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveSource:
    """One of many sources.

    Attributes:
        address: the number of a camera, a URL (rtsp, http, udp, ...), "-" for a pipe, or the path
            of a file, which is played in real time.
        name: of it, in answers; empty is made of the address.
        hop_seconds: from one answer to the next, on average at least; None takes that of all.
        reconnect: open it again when it breaks off or is not there yet; None means all but pipes
            and files. A file then begins again.
        events: what a list of sources says about its events; nothing here reads it.
    """

    address: str
    name: str = ""
    hop_seconds: float | None = None
    reconnect: bool | None = None
    events: Any = None

    def __post_init__(self) -> None:
        opener(self.address, files=True)  # refuses what is no source
        hop = self.hop_seconds
        if hop is not None and not (math.isfinite(hop) and hop >= 0):
            raise SpecError(f"hop_seconds = {hop!r}: a number of seconds from 0 is allowed")
        if len(self.name) > _LONGEST_NAME or not self.name.isprintable():
            raise SpecError(
                f"name {self.name[:_LONGEST_NAME]!r}: at most {_LONGEST_NAME} signs that can be "
                "printed are allowed"
            )
        if self.reconnect and self.address == STANDARD_INPUT:
            raise SpecError("a pipe cannot be opened again; leave reconnect out")

    @property
    def opens_again(self) -> bool:
        """Whether it is opened again when it breaks off."""
        if self.reconnect is not None:
            return self.reconnect
        return self.address != STANDARD_INPUT and not self.is_file

    @property
    def is_file(self) -> bool:
        """Whether its address is the path of a file."""
        return not self.address.isdecimal() and "://" not in self.address and not self.is_pipe

    @property
    def is_pipe(self) -> bool:
        """Whether it is standard input."""
        return self.address == STANDARD_INPUT

    @property
    def shown(self) -> str:
        """Its name, or one made of the address, without the password that may be in it."""
        if self.name:
            return self.name
        if self.is_pipe:
            return "standard input"
        if self.address.isdecimal():
            return f"camera {self.address}"
        if self.is_file:
            return Path(self.address).name
        parts = urllib.parse.urlsplit(self.address)
        place = parts.netloc.rpartition("@")[2]
        return printable(f"{parts.scheme}://{place}{parts.path}")


class DueFrame(NamedTuple):
    """A frame that the network is to see.

    Attributes:
        image: uint8 (H, W, 3), RGB, as clips have it.
        seconds: when it is shown, by the clock of the stream.
        arrived: `time.monotonic()` when it was read.
    """

    image: NDArray[np.uint8]
    seconds: float
    arrived: float


@dataclasses.dataclass(frozen=True)
class LivePicture:
    """A frame to look at.

    Attributes:
        source: name of the source.
        jpeg: of the whole picture, upright, perhaps made smaller.
        stream_seconds: when it is shown, by the clock of the stream.
        time: when it was read, in seconds since 1970.
    """

    source: str
    jpeg: bytes = dataclasses.field(repr=False)
    stream_seconds: float
    time: float


class ReceivesDueFrames(Protocol):
    """Who is told what a `LiveReader` gets, in its thread; none of it may take long."""

    def begins(self) -> None:
        """The source was opened, for the first time or again."""

    def frame(self, frame: DueFrame) -> None:
        """A frame is due."""

    def picture(self, picture: LivePicture) -> None:
        """A frame to look at."""

    def breaks(self, reason: str, *, pause_seconds: float) -> None:
        """The source broke off, or could not be opened; it is opened again after a pause."""

    def notices(self, text: str) -> None:
        """Something is wrong with the pictures."""

    def ends(self, error: str | None, *, stopped: bool) -> None:
        """Nothing more comes: for the reason given, or because it was wanted so."""


class LiveReader:
    """Reads one source from `start` to `close`.

    Args:
        source: which.
        clip: which frames, and how large.
        receiver: is told of them.
        pictures: to look at; None for none.
    """

    def __init__(
        self,
        source: LiveSource,
        clip: ClipSpec,
        receiver: ReceivesDueFrames,
        *,
        pictures: Pictures | None = None,
    ) -> None:
        self._source = source
        self._clip = clip
        self._receiver = receiver
        self._pictures = pictures
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = False  # a frame of the process that runs
        self._last: tuple[float, float] | None = None  # when a frame was shown, and arrived
        self._offset = 0.0  # s, of the clock of the process that runs, which begins at 0
        self._thread = threading.Thread(target=self._run, name="live source", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Begin to end; nothing is waited for."""
        self._stop.set()
        with self._lock:
            if self._process is not None:
                _kill(self._process)

    def close(self) -> None:
        """End reading; the process is gone when this returns."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        """What the thread does: a process at a time."""
        pause = _FIRST_PAUSE
        error: str | None = None
        try:
            while not self._stop.is_set():
                self._heard = False
                try:
                    error = self._follow()
                    break
                except VideoError as found:
                    error = f"the source {found}"
                if self._stop.is_set() or not self._source.opens_again:
                    break
                pause = _FIRST_PAUSE if self._heard else pause
                self._receiver.breaks(error, pause_seconds=pause)
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        except Exception as found:  # whoever waits for the source has to hear of it
            error = f"the source cannot be read: {found}"
        finally:
            stopped = self._stop.is_set()
            self._receiver.ends(None if stopped else error, stopped=stopped)

    def _follow(self) -> str | None:
        """Take what one process sends, up to its word that the source has ended.

        Raises:
            VideoError: it crashed, hung or talked nonsense.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = self._started(theirs)
            try:
                ours.settimeout(_ASK_AGAIN_SECONDS)
                settings = {
                    "address": self._source.address,
                    "clip": self._clip.model_dump(mode="json"),
                    "pictures": self._pictures,
                    "reconnect": self._source.opens_again,
                }
                with ours.makefile("wb", buffering=0) as file, contextlib.suppress(OSError):
                    send(file, settings)  # type: ignore[arg-type]
                while True:
                    message, content = receive(
                        lambda buffer: self._read_into(ours, buffer), most_bytes=_MOST_BYTES
                    )
                    if message.get("kind") == "ends":
                        error = message.get("error")
                        return None if error is None else printable(str(error))
                    self._take(message, content)
            except _SilentError as error:
                raise VideoError(
                    f"made its process hang: nothing came for {_SILENCE_SECONDS:g} s"
                ) from error
            except _GoneError as error:
                raise VideoError(_ending(process)) from error
            except (BrokenMessageError, KeyError, TypeError, ValueError, OverflowError) as error:
                raise VideoError("made the process that reads it talk nonsense") from error
            finally:
                _kill(process)
                process.wait()
                with self._lock:
                    self._process = None

    def _started(self, connection: socket.socket) -> "subprocess.Popen[bytes]":
        with self._lock:
            process = self._process = subprocess.Popen(
                # -P: a file named like a module may lie in this folder.
                [
                    *(sys.executable, "-P", "-m", "stdeploy.video.live_worker"),
                    str(connection.fileno()),
                ],
                stdin=None if self._source.is_pipe else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(connection.fileno(),),
                env={
                    name: value
                    for name, value in os.environ.items()
                    if may_know(name, on_gpu=False) or name in _PROXIES
                }
                | {
                    CAPTURE_OPTIONS: capture_options(),
                    # Address space is limited, and threads would reserve it.
                    "OPENBLAS_NUM_THREADS": "1",
                    "MALLOC_ARENA_MAX": "2",
                },
                start_new_session=True,  # Ctrl-C is for the program, which then ends this
            )
        if self._stop.is_set():
            _kill(process)
        return process

    def _read_into(self, connection: socket.socket, buffer: memoryview) -> None:
        """Fill a buffer.

        Raises:
            _GoneError: the process has ended, or is to end.
            _SilentError: nothing comes.
        """
        end = time.monotonic() + _SILENCE_SECONDS
        while buffer:
            if self._stop.is_set():
                raise _GoneError
            try:
                count = connection.recv_into(buffer)
            except TimeoutError:
                if time.monotonic() > end:
                    raise _SilentError from None
                continue
            except ConnectionError as error:
                raise _GoneError from error
            if count == 0:
                raise _GoneError
            buffer = buffer[count:]

    def _take(self, message: dict[str, Any], content: NDArray[np.uint8] | None) -> None:
        kind = message.get("kind")
        if kind in ("frame", "picture") and content is not None:
            now = time.monotonic()
            seconds, arrived = float(message["seconds"]), min(float(message["arrived"]), now)
            if not (math.isfinite(seconds) and math.isfinite(arrived)):
                raise BrokenMessageError
            if not self._heard and self._last is not None:  # the clock goes on over a crash
                self._offset = self._last[0] + arrived - self._last[1] - seconds
            seconds += self._offset
            if kind == "picture" and content.ndim == 1:
                read = time.time() - (now - arrived)
                jpeg = content.tobytes()
                self._receiver.picture(LivePicture(self._source.shown, jpeg, seconds, read))
                return
            if content.shape != self._clip.frames_shape[1:]:
                raise BrokenMessageError
            self._heard, self._last = True, (seconds, arrived)
            self._receiver.frame(DueFrame(content, seconds, arrived))
        elif kind == "begins":
            self._receiver.begins()
        elif kind == "breaks":
            pause = float(message["pause_seconds"])
            self._receiver.breaks(printable(str(message["text"])), pause_seconds=pause)
        elif kind == "notices":
            self._receiver.notices(printable(str(message["text"])))
        else:
            raise BrokenMessageError


class _GoneError(Exception):
    """The process has ended."""


class _SilentError(Exception):
    """The process says nothing."""


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.returncode is not None:
        return  # its number may be that of another by now
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _ending(process: "subprocess.Popen[bytes]") -> str:
    status = process.wait()
    if status == -signal.SIGKILL:
        return "made its process end (killed, perhaps for want of memory)"
    return f"made its process crash ({f'signal {-status}' if status < 0 else f'status {status}'})"


def check_names(sources: list[LiveSource]) -> None:
    """Refuse sources that answers could not tell apart.

    Raises:
        SpecError: two have one name.
    """
    seen: set[str] = set()
    for source in sources:
        if source.shown in seen:
            raise SpecError(
                f"two sources are named {source.shown!r}; give each a name of its own, in a file "
                "for --sources"
            )
        seen.add(source.shown)
    if sum(source.is_pipe for source in sources) > 1:
        raise SpecError("only one source can be - (the pipe)")
