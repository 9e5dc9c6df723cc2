"""The layouts of data sets: what one has to offer, and which there are.

A new layout is its file and one line in `LAYOUTS`.
"""

import dataclasses
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Concatenate

from stdeploy.datasets.labelled_videos import LabelledVideos, Split

# Name, as errors list it -> "module:Layout". A folder is read by the first that recognises it, so
# those that anything resembles come last.
LAYOUTS: Mapping[str, str] = {
    "Something-Something-v2": "stdeploy.datasets.something_something:LAYOUT",
    "UCF101": "stdeploy.datasets.ucf101:LAYOUT",
    "HMDB51": "stdeploy.datasets.hmdb51:LAYOUT",
    "Kinetics": "stdeploy.datasets.kinetics:LAYOUT",
    "train.csv and validation.csv with those columns": "stdeploy.datasets.csv_list:LAYOUT",
    "train/CLASS/*.mp4 and validation/CLASS/*.mp4": "stdeploy.datasets.folders:LAYOUT",
}


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


def layout(name: str) -> Layout:
    """A layout of `LAYOUTS` by its name.

    Args:
        name: a key of it.
    """
    found: Layout = pkgutil.resolve_name(LAYOUTS[name])
    return found


def layout_of(folder: Path) -> Layout | None:
    """The first layout that recognises a folder; None if none does."""
    return next((found for found in map(layout, LAYOUTS) if found.recognises(folder)), None)


def known_layouts() -> str:
    """What can be named with --data, in words."""
    return (
        "a .csv list with the columns path,label, or a folder in one of these layouts: "
        f"{'; '.join(LAYOUTS)}"
    )
