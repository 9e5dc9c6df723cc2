"""What a caller may give as a video: a file, its bytes, an open file, or frames."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.files import StrPath
from stdeploy.errors import SpecError

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
