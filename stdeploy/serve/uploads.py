"""Videos that come over HTTP: into files of a private folder, and out of it again."""

import collections
import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import IO, Any, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from stdeploy.errors import BackendError
from stdeploy.serve.errors import MOST_SHOWN, RequestError, given_twice
from stdeploy.video.containers import HEAD_BYTES, container_of

MULTIPART = "multipart/form-data"
_RAW = "application/octet-stream"
_LOCK = ".lock"
_MOST_FIELD_BYTES = 1024
_MOST_PARTS = 16
_SEND_A_FILE = "send the video as a file, in a part named 'file' (curl -F file=@video.mp4)"


class Budget:
    """Bytes that may be held at once, by all requests together.

    A client may hold as many as it leaves free: one alone half of them, two a third each. So
    there is room for another, however many there are.

    Args:
        most_bytes: of them.
    """

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self._held: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def account(self, client: str) -> Iterator[Callable[[int], None]]:
        """Hold bytes until the block ends.

        Args:
            client: whose they are.

        Yields:
            A function that takes so many more; it raises RequestError where there are not.
        """
        held = 0

        def take(count: int) -> None:
            nonlocal held
            if self._held[client] + count > self._left - count:
                raise _full()
            self._left -= count
            self._held[client] += count
            held += count

        try:
            yield take
        finally:
            self._left += held
            self._held[client] -= held
            if not self._held[client]:
                del self._held[client]


class UploadFolder:
    """A folder that only this user can look into, and in it one that only this process uses.

    At the start, what processes that are no more have left is taken away; a process that lives
    holds a lock. A context manager; at its end nothing is left.

    Args:
        base: shared by the processes of this user; None takes one in the system's temporary
            folder.

    Raises:
        BackendError: the folder cannot be made, or is someone else's.
    """

    def __init__(self, base: Path | None = None) -> None:
        own = Path(tempfile.gettempdir()) / f"stdeploy-uploads-{os.getuid()}"
        base, is_own = base or own, base is None
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_own:
                _check_private(base)
            _sweep(base)
            self.path = Path(tempfile.mkdtemp(prefix="serve-", dir=base))
            self._lock = (self.path / _LOCK).open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise BackendError(
                f"uploads cannot be kept in {str(base)!r} ({error.strerror}); name a folder that "
                "this user can write to with --upload-folder"
            ) from error

    @contextlib.contextmanager
    def new_file(self) -> Iterator[tuple[Path, IO[bytes]]]:
        """A new file, open for writing, that is gone when the block ends."""
        try:
            handle, name = tempfile.mkstemp(dir=self.path)
        except OSError as error:
            raise _no_room(error) from error
        path = Path(name)
        try:
            # Unbuffered, so that a full disk shows where it is written to.
            with os.fdopen(handle, "wb", buffering=0) as file:
                yield path, file
        finally:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Take the folder and all that is in it away."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VideoBody:
    """The body of a request while it comes: one video, raw or as a part of a form.

    In a form the video is the part that has a filename, whatever its name: `file` is what the
    documentation calls it, and people call it `video` as well.

    What it must not be is found at its first bytes, not at its end.

    Args:
        content_type: of the request.
        file: the video goes here.
        max_bytes: of the whole body.
        hold: see `Budget.account`.

    Attributes:
        received_bytes: so far.
        fields: of a form, beside the video.

    Raises:
        RequestError: the type is none of those that are taken.
    """

    def __init__(
        self,
        content_type: str | None,
        file: IO[bytes],
        *,
        max_bytes: int,
        hold: Callable[[int], None] = lambda _bytes: None,
    ) -> None:
        self.received_bytes = 0
        self.fields: dict[str, str] = {}
        self._file = file
        self._max_bytes = max_bytes
        self._hold = hold
        self._head = b""
        self._known = False
        self._video_bytes = 0
        self._parts = 0
        self._in_video = False
        self._has_file = False
        self._ended = False
        self._name = ""
        self._value = bytearray()
        self._header = bytearray()
        self._field = bytearray()
        self._disposition = b""
        self._parser: MultipartParser | None = None
        kind, options = parse_options_header(content_type or "")
        text = kind.decode("latin-1").lower()
        if text == MULTIPART:
            self._parser = self._form(options.get(b"boundary"))
        elif not text.startswith("video/") and text != _RAW:
            raise RequestError(
                "unsupported_type",
                f"the content type is {repr(text[:MOST_SHOWN]) if text else 'missing'}; "
                "send a video as "
                f"{MULTIPART}, video/* or {_RAW}",
            )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            RequestError: too many, no form, or no video.
        """
        self.received_bytes += len(chunk)
        if self.received_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        if self._parser is None:
            self._video(chunk)
            return
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _bad_form() from error

    def end(self) -> None:
        """Check what has come as a whole.

        Raises:
            RequestError: no video, or a form that breaks off.
        """
        if self._parser is not None and not self._ended:
            raise _bad_form()
        if self._parser is not None and not self._has_file:
            raise RequestError("bad_request", f"the form holds no file; {_SEND_A_FILE}")
        if self._video_bytes == 0:
            raise RequestError("bad_request", "the body holds no video; it is empty")
        if not self._known:
            self._check_head()

    def _video(self, data: bytes) -> None:
        self._video_bytes += len(data)
        self._hold(len(data))
        if not self._known:
            self._head += data[:HEAD_BYTES]
            if len(self._head) >= HEAD_BYTES:
                self._check_head()
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _no_room(error) from error

    def _check_head(self) -> None:
        self._known = True
        if container_of(self._head) is None:
            raise RequestError(
                "unsupported_type",
                "the file is no video of a kind that is read here; MP4, QuickTime, WebM, "
                "Matroska, AVI, MPEG and FLV are, among others",
            )

    def _form(self, boundary: bytes | None) -> MultipartParser:
        if not boundary:
            raise _bad_form()
        callbacks: Any = {
            "on_part_begin": self._part_begin,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_end": self._form_end,
        }
        try:
            return MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise _bad_form() from error

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise RequestError("bad_request", f"a form of more than {_MOST_PARTS} parts")
        self._disposition = b""

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._field)
        self._header.clear()
        self._field.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._in_video = b"filename" in options or _has_encoded_name(self._disposition)
        self._has_file |= self._in_video
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._in_video and self._video_bytes:
            raise RequestError("bad_request", "the form holds several files; send one video")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_video:
            self._video(data[start:end])
            return
        self._value.extend(data[start:end])
        if len(self._value) > _MOST_FIELD_BYTES:
            raise RequestError(
                "bad_request",
                f"the field {self._name[:MOST_SHOWN]!r} of the form is longer than "
                f"{_MOST_FIELD_BYTES} bytes and no file; {_SEND_A_FILE}",
            )

    def _part_end(self) -> None:
        if not self._in_video:
            if self._name in self.fields:
                raise given_twice(self._name)
            self.fields[self._name] = self._value.decode("utf-8", "replace")
            self._value.clear()
        self._in_video = False

    def _form_end(self) -> None:
        self._ended = True


def _has_encoded_name(disposition: bytes) -> bool:
    """Whether a part has a filename*=, as some clients write names beyond ASCII, and alone.

    The parser of forms passes it over, because RFC 7578 does not want it there.
    """
    header = Message()
    header["Content-Disposition"] = disposition.decode("latin-1")
    return header.get_filename() is not None


def too_large(max_bytes: int) -> RequestError:
    """The refusal of a body that is longer than allowed."""
    return RequestError(
        "too_large",
        f"the body is larger than {max_bytes / 2**20:.4g} MiB, which is the most that is taken; "
        "send a shorter or smaller video",
    )


def _no_room(error: OSError) -> Exception:
    """What an error of the system means: it is full, or something that is no one's limit."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
    return _full() if error.errno in full else error


def _full() -> RequestError:
    return RequestError("no_room", "there is no room for the upload now", retry_after_seconds=10)


def _bad_form() -> RequestError:
    return RequestError(
        "bad_request", "the body is no multipart form, or ends before its last boundary"
    )


def _check_private(folder: Path) -> None:
    """Whether a folder is ours alone: names in the system's temporary folder are anyone's.

    Raises:
        BackendError: it is not.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise BackendError(
            f"{str(folder)!r} is no folder of this user; name another with --upload-folder"
        )
    folder.chmod(0o700)


def _sweep(base: Path) -> None:
    """Take away what processes that are no more have left."""
    for left in base.glob("serve-*"):
        with contextlib.suppress(OSError), (left / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
