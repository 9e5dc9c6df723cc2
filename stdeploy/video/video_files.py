"""Which files of a folder are videos, and what a caller may give in place of a file."""

import collections
import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.files import StrPath
from stdeploy.errors import SpecError, VideoError

# Every one is read here: tests/video/test_kinds.py writes one of each.
VIDEO_SUFFIXES = (
    *(".264", ".265", ".3g2", ".3gp", ".apng", ".asf", ".avi", ".dav", ".divx", ".dv", ".f4v"),
    *(".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v"),
    *(".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut"),
    *(".obu", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
_USUAL = (".mp4", ".mov", ".mkv", ".avi", ".webm")
_OTHERS = len(VIDEO_SUFFIXES) - len(_USUAL)
SUFFIXES_IN_WORDS = f"videos end in {', '.join(_USUAL)} or one of {_OTHERS} other suffixes"

_NAMED = 5  # suffixes at most, in words
_LONGEST = 12  # characters of a suffix; what is longer is a dot in a name


@dataclasses.dataclass
class PassedOver:
    """What a walk found and did not take, counted by the reason.

    Attributes:
        suffixes: files whose suffix is not one of a video, by that suffix in small letters.
        hidden: files and folders whose name begins with a dot.
        linked: links to folders, which are not followed.
        unreadable: folders that cannot be listed.
    """

    suffixes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    hidden: int = 0
    linked: int = 0
    unreadable: int = 0

    @property
    def total(self) -> int:
        """How many in all."""
        return self.suffixes.total() + self.hidden + self.linked + self.unreadable

    def add(self, other: "PassedOver") -> None:
        """Count what another walk passed over, too."""
        self.suffixes.update(other.suffixes)
        self.hidden += other.hidden
        self.linked += other.linked
        self.unreadable += other.unreadable

    def in_words(self) -> str:
        """How many and why; nothing where there is nothing to say.

        >>> PassedOver(collections.Counter({".txt": 3, "": 1}), hidden=2).in_words()
        'passed over: 4 that are no videos by their names (3 .txt, 1 without a suffix), 2 hidden'
        """
        reasons = []
        if self.suffixes:
            common = self._by_frequency()[:_NAMED]
            named = [f"{count} {suffix or 'without a suffix'}" for suffix, count in common]
            others = self.suffixes.total() - sum(count for _, count in common)
            if others:
                named.append(f"{others} others")
            no_videos = "is no video by its name"
            if self.suffixes.total() > 1:
                no_videos = "are no videos by their names"
            reasons.append(f"{self.suffixes.total()} that {no_videos} ({', '.join(named)})")
        if self.hidden:
            reasons.append(f"{self.hidden} hidden")
        if self.linked:
            reasons.append(f"{self.linked} {_plural('link', self.linked)} to folders")
        if self.unreadable:
            reasons.append(
                f"{self.unreadable} {_plural('folder', self.unreadable)} that cannot be read"
            )
        return f"passed over: {', '.join(reasons)}" if reasons else ""

    def to_record(self) -> dict[str, Any]:
        """For JSON: counts by the names of the attributes."""
        return dataclasses.asdict(self) | {"suffixes": dict(self._by_frequency())}

    def _by_frequency(self) -> list[tuple[str, int]]:
        return sorted(self.suffixes.items(), key=lambda each: (-each[1], each[0]))


def holds_no_video(passed_over: PassedOver) -> str:
    """What is wrong with a folder that holds none, and what it holds instead."""
    words = passed_over.in_words()
    return f"holds no video ({words})" if words else "holds no video"


def videos_in(
    folder: Path, *, recursive: bool, passed_over: PassedOver | None = None
) -> Iterator[Path]:
    """Video files of a folder by their suffix, in any order; hidden ones are passed over.

    MacOS leaves ._1.mp4 beside 1.mp4 on other systems' disks, which is no video. A file of that
    suffix which cannot be read is given all the same, so that whoever reads it says why.

    Args:
        folder: where to look.
        recursive: in its folders too, hidden and linked ones excepted.
        passed_over: counts what is not given, while the walk goes on.
    """
    passed = PassedOver() if passed_over is None else passed_over

    def unreadable(_: OSError) -> None:
        passed.unreadable += 1

    for inside, folders, names in os.walk(folder, onerror=unreadable):
        if not recursive:
            folders.clear()
        # Hidden folders (.git, .venv) can hold more than all others.
        shown = [name for name in folders if not name.startswith(".")]
        passed.hidden += len(folders) - len(shown)
        folders[:] = [name for name in shown if not Path(inside, name).is_symlink()]
        passed.linked += len(shown) - len(folders)
        for name in names:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                passed.hidden += 1
            elif suffix in VIDEO_SUFFIXES:
                yield Path(inside, name)
            else:
                passed.suffixes[suffix if len(suffix) <= _LONGEST else ""] += 1


def _plural(thing: str, count: int) -> str:
    return thing if count == 1 else f"{thing}s"


FRAMES, _BYTES = "<frames>", "<bytes>"  # what videos without a name are called

# A file's path, its bytes, or an open binary file.
FileSource = StrPath | bytes | BinaryIO
# Also frames: uint8 (F, H, W, 3), RGB.
VideoSource = FileSource | NDArray[np.uint8]


@contextlib.contextmanager
def as_file(video: FileSource) -> Iterator[tuple[Path, str]]:
    """A video as a file, and what it is called; decoders want one that they can seek in.

    Raises:
        SpecError: it is no video of any kind that is taken.
    """
    if isinstance(video, str | os.PathLike):
        yield Path(video), str(video)
        return
    if not isinstance(video, bytes | bytearray | memoryview) and not hasattr(video, "read"):
        raise SpecError(
            "a video is wanted as a path, bytes, an open binary file, or frames as a uint8 array "
            f"(F, H, W, 3) with fps, not as {type(video).__name__}"
        )
    with tempfile.TemporaryDirectory(prefix="stdeploy-") as folder:
        path = Path(folder) / "video"
        with path.open("wb") as file:
            if isinstance(video, bytes | bytearray | memoryview):
                file.write(video)
            else:
                _copy(video, file)
        name = getattr(video, "name", None)
        yield path, name if isinstance(name, str) else _BYTES


def _copy(video: BinaryIO, file: BinaryIO) -> None:
    try:
        shutil.copyfileobj(video, file)
    except TypeError:
        raise SpecError(
            "the open file gives text; open it in binary mode: open(path, 'rb')"
        ) from None


def check_file(path: Path) -> None:
    """Say in words what the libraries would not.

    Raises:
        VideoError: there is no such file, or it cannot be read.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise VideoError("has a name that is no UTF-8; rename the file") from error
    try:
        if not path.is_file():
            if path.is_dir():
                raise VideoError("is a folder without a video; name a video file")
            what = "is no ordinary file" if path.exists() else "does not exist"
            raise VideoError(f"{what}; name a video file")
        if path.stat().st_size == 0:
            raise VideoError("is empty (0 bytes)")
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from error
    if not os.access(path, os.R_OK):
        raise VideoError("cannot be read: permission denied")
