"""The stand-in for PyNvVideoCodec, for this process and for those that it starts."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from stdeploy.video import nvdec

FOLDER = Path(__file__).parent / "nvdec"


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Let it be what `import PyNvVideoCodec` brings."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *([before] if before else [])])
    sys.path.insert(0, str(FOLDER))
    nvdec._examined.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("PyNvVideoCodec", None)
        nvdec._examined.cache_clear()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
