"""A sink: one line of JSON for each message, at the end of a file or on standard output."""

import errno
import os
import sys
from pathlib import Path

from stdeploy.errors import SpecError
from stdeploy.events.sink import Message, QueuedSettings, Sink, TryAgainError


class JsonLinesSettings(QueuedSettings):
    """Lines of JSON.

    Attributes:
        file: where they are appended; "-" for standard output.
    """

    file: Path

    def open(self, name: str) -> Sink:
        """See `QueuedSettings.open`."""
        if str(self.file) != "-" and not self.file.parent.is_dir():
            raise SpecError(
                f"sink {name!r}: file = {str(self.file)!r}: there is no folder "
                f"{str(self.file.parent)!r}; make it, or name another file"
            )
        if self.file.is_dir():
            raise SpecError(
                f"sink {name!r}: file = {str(self.file)!r} is a folder; name a file in it"
            )
        return JsonLines(self.file)


class JsonLines(Sink):
    """Appends whole lines; the file is opened for each, so that it may be moved away meanwhile.

    Args:
        file: where to; "-" for standard output.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def deliver(self, message: Message) -> None:
        """See `Sink.deliver`."""
        line = message.body + b"\n"
        try:
            if str(self._file) == "-":
                sys.stdout.write(line.decode())
                sys.stdout.flush()
            else:
                self._append(line)
        except (OSError, ValueError) as error:  # ValueError: standard output is closed
            why = error.strerror if isinstance(error, OSError) else error
            raise TryAgainError(f"cannot write to {str(self._file)!r}: {why}") from error

    def _append(self, line: bytes) -> None:
        handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line  # of a line that another program, or a power cut, left torn
            try:
                written = os.write(handle, line)
                if written < len(line):
                    raise OSError(errno.ENOSPC, "there is no room for the whole line")
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)  # no half a line
                raise
        finally:
            os.close(handle)
