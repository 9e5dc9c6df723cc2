"""From what a user names with --data to labelled videos, whatever the layout."""

from pathlib import Path

from stdeploy.errors import DatasetError
from stdeploy.train.data import hmdb51, kinetics, ucf101
from stdeploy.train.data.folders import read_folders, split_folder
from stdeploy.train.data.labelled import LabelledVideos, Split
from stdeploy.train.data.listing import is_list, read_list
from stdeploy.train.data.something import read_something

_LIST_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train.csv",),
    "validation": ("validation.csv", "val.csv", "test.csv"),
}

LAYOUTS = (
    "a .csv list with the columns path,label, or a folder in one of these layouts: "
    "train.csv and validation.csv with those columns; Something-Something-v2; Kinetics; UCF101; "
    "HMDB51; train/CLASS/*.mp4 and validation/CLASS/*.mp4"
)


def read_split(
    data: Path, split: Split, *, fold: int = 1, missing_ok: bool = False
) -> LabelledVideos:
    """Read one split of a data set, or one list.

    Both splits of a folder get the same labels in the same order.

    Args:
        data: a list, which is taken for either split, or a folder.
        split: "train" or "validation".
        fold: 1, 2 or 3, of UCF101 and HMDB51.
        missing_ok: whether videos may be listed that are not there.

    Raises:
        DatasetError: nothing that is known, or something is missing in it.
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


def _read(data: Path, split: Split, fold: int) -> LabelledVideos:
    if data.is_file():
        return read_list(data)
    if not data.is_dir():
        raise DatasetError(f"{str(data)!r} does not exist; name {LAYOUTS}")
    if (data / "labels.json").is_file():
        return read_something(data, split)
    if ucf101.lists_folder(data):
        return ucf101.read_ucf101(data, split, fold=fold)
    if hmdb51.lists_folder(data):
        return hmdb51.read_hmdb51(data, split, fold=fold)
    if kinetics.annotations(data, "train"):
        return kinetics.read_kinetics(data, split)
    if _list_of(data, "train") or _list_of(data, "validation"):
        return _from_lists(data, split)
    if split_folder(data, split):
        return read_folders(data, split)
    raise DatasetError(f"{str(data)!r} is no data set that is known here; name {LAYOUTS}")


def _list_of(folder: Path, split: Split) -> Path | None:
    return next((folder / n for n in _LIST_NAMES[split] if is_list(folder / n)), None)


def _from_lists(folder: Path, split: Split) -> LabelledVideos:
    path, training = _list_of(folder, split), _list_of(folder, "train")
    if path is None:
        raise DatasetError(
            f"{str(folder)!r} holds no {_LIST_NAMES[split][0]} with the columns path,label"
        )
    data = read_list(path)
    if training is None or training == path:
        return data
    return data.with_labels(read_list(training).labels, source=str(training))
