"""Plain lists: a .csv with the columns path and label, in any order, among any others.

    path,label
    fight/fi001.mp4,fight

Paths are relative to the folder that holds the list. `stdeploy data check` and `stdeploy data
mini` write such lists, so every layout can be turned into this one.
"""

import csv
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from stdeploy.artifacts.files import whole_file
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample, Split
from stdeploy.datasets.layouts import Layout
from stdeploy.errors import DatasetError

COLUMNS = ("path", "label")
_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train.csv",),
    "validation": ("validation.csv", "val.csv", "test.csv"),
}


def read_table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a .csv file that has at least some columns.

    Args:
        path: of the file.
        columns: that must be there and filled in every row.

    Raises:
        DatasetError: no such file, no such column, or an empty field.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            names = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(f"{str(path)!r} cannot be read: {reason}") from error
    missing = [column for column in columns if column not in names]
    if missing:
        raise DatasetError(
            f"{str(path)!r} has no column {missing[0]!r}; its first line is "
            f"{','.join(names)!r}, and {','.join(columns)} must be in it"
        )
    for number, row in enumerate(rows, start=2):
        for column in columns:
            if not (row[column] or "").strip():
                raise DatasetError(f"{str(path)!r}, line {number}: {column} is empty")
    return rows


def read_lines(path: Path, *, hint: str = "") -> list[str]:
    """The lines of a text file that are not empty, without spaces around them.

    Args:
        path: of the file.
        hint: what to do if it cannot be read.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        advice = f"; {hint}" if hint else ""
        raise DatasetError(f"{str(path)!r} cannot be read: {reason}{advice}") from error


def is_list(path: Path) -> bool:
    """Whether a file looks like such a list: a .csv whose first line names both columns."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return set(COLUMNS) <= set(next(csv.reader(file), ()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def read_list(path: Path) -> LabelledVideos:
    """Read a list; its labels are those that occur in it, sorted.

    Args:
        path: a .csv file.

    Raises:
        DatasetError: no such list.
    """
    rows = read_table(path, *COLUMNS)
    labels = tuple(sorted({row["label"].strip() for row in rows}))
    number = {label: index for index, label in enumerate(labels)}
    videos = paths_beside(path, (row["path"].strip() for row in rows))
    samples = tuple(
        Sample(video, number[row["label"].strip()]) for video, row in zip(videos, rows, strict=True)
    )
    return LabelledVideos(labels, samples)


def paths_beside(source: Path, names: Iterable[str]) -> Iterator[Path]:
    """What the lines of a list name: from where the list lies, without "..".

    Args:
        source: the list.
        names: its lines.
    """
    shortest = functools.cache(_without_detours)  # most videos lie in few folders
    for name in names:
        path = source.parent / name
        yield shortest(path.parent) / path.name if ".." in path.parent.parts else path


def _without_detours(folder: Path) -> Path:
    """The same folder without "..": from here where it was so named and that is short, or whole.

    lists/../clips/fight       clips/fight

    Links are followed up to the last "..", because `a/..` is not here where `a` is a link.
    """
    last = max(number for number, part in enumerate(folder.parts, start=1) if part == "..")
    try:
        whole = Path(*folder.parts[:last]).resolve(strict=True) / Path(*folder.parts[last:])
        here = Path(os.path.relpath(whole))
    except (OSError, RuntimeError, ValueError):  # not there, links in a ring, a zero in the name
        return folder
    return here if not folder.is_absolute() and len(str(here)) < len(str(whole)) else whole


def write_list(path: Path, data: LabelledVideos) -> None:
    """Write a list, whole or not at all; paths are relative to its folder.

    Args:
        path: ends in .csv.
        data: what to list.
    """
    folder = path.parent.resolve()
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for sample in data.samples:
            relative = os.path.relpath(sample.video.resolve(), folder)
            writer.writerow((Path(relative).as_posix(), data.labels[sample.label]))


def _list_of(folder: Path, split: Split) -> Path | None:
    return next((folder / n for n in _NAMES[split] if is_list(folder / n)), None)


def _from_lists(folder: Path, split: Split) -> LabelledVideos:
    path, training = _list_of(folder, split), _list_of(folder, "train")
    if path is None:
        raise DatasetError(
            f"{str(folder)!r} holds no {_NAMES[split][0]} with the columns path,label"
        )
    data = read_list(path)
    if training is None or training == path:
        return data
    return data.with_labels(read_list(training).labels, source=str(training))


def _recognises(folder: Path) -> bool:
    return any(_list_of(folder, split) for split in _NAMES)


LAYOUT = Layout(recognises=_recognises, read=_from_lists)
