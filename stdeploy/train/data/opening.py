"""From what a user names with --data to labelled videos, whatever the layout."""

from pathlib import Path

from stdeploy.errors import DatasetError
from stdeploy.train.data.labelled import LabelledVideos, Split
from stdeploy.train.data.listing import read_list
from stdeploy.train.data.registry import LAYOUTS, layout


def read_split(
    data: Path, split: Split, *, fold: int = 1, missing_ok: bool = False
) -> LabelledVideos:
    """Read one split of a data set, or one list.

    Both splits of a folder get the same labels in the same order.

    Args:
        data: a list, which is taken for either split, or a folder.
        split: "train" or "validation".
        fold: from 1; which division into splits, of data sets that have several.
        missing_ok: whether videos may be listed that are not there.

    Raises:
        DatasetError: nothing that is known, something is missing in it, or it has no such fold.
    """
    found = _read(data, split, fold)
    if not found.samples:
        raise DatasetError(f"{str(data)!r} lists no {split} video")
    missing = [sample.video for sample in found.samples if not sample.video.is_file()]
    if missing and not missing_ok:
        raise DatasetError(
            f"{len(missing)} of the {len(found.samples)} {split} videos of {str(data)!r} are not "
            f"there, the first is {str(missing[0])!r}; `stdeploy data check` writes lists without "
            "them"
        )
    return found


def known_layouts() -> str:
    """What can be named with --data, in words."""
    return (
        "a .csv list with the columns path,label, or a folder in one of these layouts: "
        f"{'; '.join(LAYOUTS)}"
    )


def _read(data: Path, split: Split, fold: int) -> LabelledVideos:
    if data.is_file():
        _check_fold(str(data), fold, 1)
        return read_list(data)
    if not data.is_dir():
        raise DatasetError(f"{str(data)!r} does not exist; name {known_layouts()}")
    for name in LAYOUTS:
        found = layout(name)
        if found.recognises(data):
            _check_fold(str(data), fold, found.folds)
            if found.folds == 1:
                return found.read(data, split)
            return found.read(data, split, fold=fold)
    raise DatasetError(
        f"{str(data)!r} is no data set that is known here; divide a folder that holds one for each "
        f"class with `stdeploy data split`, or name {known_layouts()}"
    )


def _check_fold(data: str, fold: int, folds: int) -> None:
    if not 1 <= fold <= folds:
        there = f"the folds 1 to {folds}" if folds > 1 else "one division only"
        raise DatasetError(f"--fold {fold}: {data!r} has {there}")
