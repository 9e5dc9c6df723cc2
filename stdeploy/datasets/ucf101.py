"""UCF101, in its own layout.

ucfTrainTestlist/classInd.txt       1 ApplyEyeMakeup
ucfTrainTestlist/trainlist01.txt    ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
ucfTrainTestlist/testlist01.txt     ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
UCF-101/ApplyEyeMakeup/...          also videos/
"""

from pathlib import Path

from stdeploy.datasets.csv_list import read_lines
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample, Split
from stdeploy.datasets.layouts import Layout
from stdeploy.errors import DatasetError

_HINT = "UCF101 has classInd.txt, trainlist01..03.txt and testlist01..03.txt"
_LISTS = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist", ".")
_VIDEOS = ("UCF-101", "videos", ".")
_NAMES: dict[Split, str] = {"train": "trainlist", "validation": "testlist"}


def lists_folder(folder: Path) -> Path | None:
    """Where classInd.txt lies; None where it does not."""
    return next(
        (folder / name for name in _LISTS if (folder / name / "classInd.txt").is_file()), None
    )


def read_ucf101(folder: Path, split: Split, *, fold: int = 1) -> LabelledVideos:
    """Read a split; labels are in the order of classInd.txt.

    Args:
        folder: holds ucfTrainTestlist/ and UCF-101/.
        split: "train", or "validation" for what UCF101 calls test.
        fold: 1, 2 or 3, which of the three splits.

    Raises:
        DatasetError: a file is missing, or a line does not fit.
    """
    lists = lists_folder(folder)
    if lists is None:
        raise DatasetError(f"{str(folder)!r} does not hold ucfTrainTestlist/classInd.txt of UCF101")
    labels = _labels(lists / "classInd.txt")
    numbers = {label: number for number, label in enumerate(labels)}
    videos = next(folder / name for name in _VIDEOS if (folder / name).is_dir())
    path = lists / f"{_NAMES[split]}{fold:02d}.txt"
    samples = []
    for line in read_lines(path, hint=_HINT):
        name, *rest = line.split()
        label = Path(name).parts[0]
        if label not in numbers:
            raise DatasetError(f"{str(path)!r}: {name!r} is of no class of classInd.txt")
        if rest and rest[0] != str(numbers[label] + 1):
            raise DatasetError(
                f"{str(path)!r}: {name!r} has label {rest[0]}, but {label} is "
                f"{numbers[label] + 1} of 1 to {len(labels)} in classInd.txt"
            )
        samples.append(Sample(videos / name, numbers[label]))
    return LabelledVideos(labels, tuple(samples))


def _labels(path: Path) -> tuple[str, ...]:
    rows = [line.split() for line in read_lines(path, hint=_HINT)]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[0] != str(number):
            raise DatasetError(
                f"{str(path)!r}, line {number}: {' '.join(row)!r} is not {number} and a class"
            )
    return tuple(label for _, label in rows)


def _recognises(folder: Path) -> bool:
    return lists_folder(folder) is not None


LAYOUT = Layout(recognises=_recognises, read=read_ucf101, folds=3)
