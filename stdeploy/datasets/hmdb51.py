"""HMDB51, in its own layout.

    testTrainMulti_7030_splits/wave_test_split1.txt     RATRACE_wave_f_nm_np1_fr_goo_37.avi 1
    wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi            also below hmdb51_org/ or videos/

The number is 1 for training, 2 for testing, 0 for neither.
"""

from pathlib import Path

from stdeploy.datasets.csv_list import read_lines
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample, Split
from stdeploy.datasets.layouts import Layout
from stdeploy.errors import DatasetError

_LISTS = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits", ".")
_VIDEOS = ("hmdb51_org", "videos", ".")
_MARKS: dict[Split, str] = {"train": "1", "validation": "2"}


def lists_folder(folder: Path) -> Path | None:
    """Where the lists of the splits lie; None where they do not."""
    return next(
        (folder / name for name in _LISTS if any((folder / name).glob("*_test_split1.txt"))), None
    )


def read_hmdb51(folder: Path, split: Split, *, fold: int = 1) -> LabelledVideos:
    """Read a split; labels are the names of the lists, sorted.

    Args:
        folder: holds testTrainMulti_7030_splits/ and the folders of the classes.
        split: "train", or "validation" for what HMDB51 calls test.
        fold: 1, 2 or 3, which of the three splits.

    Raises:
        DatasetError: a file is missing, or a line does not fit.
    """
    lists, ending = lists_folder(folder), f"_test_split{fold}.txt"
    paths = sorted(lists.glob(f"*{ending}")) if lists else []
    if not paths:
        raise DatasetError(f"{str(folder)!r} holds no *{ending} of HMDB51; splits are 1, 2 and 3")
    labels = tuple(path.name.removesuffix(ending) for path in paths)
    videos = next(
        (folder / name for name in _VIDEOS if (folder / name / labels[0]).is_dir()), folder
    )
    samples = []
    for number, path in enumerate(paths):
        for line in read_lines(path):
            name, _, mark = line.rpartition(" ")
            if mark not in ("0", "1", "2"):
                raise DatasetError(f"{str(path)!r}: {line!r} does not end in 0, 1 or 2")
            if mark == _MARKS[split]:
                samples.append(Sample(videos / labels[number] / name.strip(), number))
    return LabelledVideos(labels, tuple(samples))


def _recognises(folder: Path) -> bool:
    return lists_folder(folder) is not None


LAYOUT = Layout(recognises=_recognises, read=read_hmdb51, folds=3)
