"""What a layout of data sets has to offer."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate

from stdeploy.datasets.labelled_videos import LabelledVideos, Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which people keep labelled videos in a folder.

    Attributes:
        recognises: whether a folder has it; looks at names, and at most at a first line.
        read: reads a split. Both splits get the same labels in the same order, and videos may be
            listed that are not there. Where there are several folds, it takes `fold` as well.
        folds: how many divisions into training and validation there are.
    """

    recognises: Callable[[Path], bool]
    read: Callable[Concatenate[Path, Split, ...], LabelledVideos]
    folds: int = 1
