"""Kinetics-400, -600 and -700: lists of YouTube clips, and the clips that could be fetched.

    annotations/train.csv   label,youtube_id,time_start,time_end,split[,is_cc]
    annotations/val.csv     likewise; also validate.csv or validation.csv, or beside the folders
    train/abseiling/0347ZoDXyP0_000095_000105.mp4
    val/abseiling/...       also without the folders of the classes

Some clips of every copy are gone from YouTube: those that are not there are left out.
"""

from collections.abc import Iterator
from pathlib import Path

from stdeploy.datasets.csv_list import read_table
from stdeploy.datasets.folders import split_folder
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample, Split
from stdeploy.datasets.layouts import Layout
from stdeploy.errors import DatasetError
from stdeploy.video.video_files import PassedOver, videos_in

_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train.csv", "kinetics_train.csv"),
    "validation": ("val.csv", "validate.csv", "validation.csv", "kinetics_val.csv"),
}


def annotations(folder: Path, split: Split) -> Path | None:
    """The list of a split; None where there is none of Kinetics' kind."""
    for place in (folder / "annotations", folder):
        for name in _FILES[split]:
            path = place / name
            if path.is_file():
                with path.open(encoding="utf-8-sig", errors="replace") as file:
                    if "youtube_id" in file.readline():
                        return path
    return None


def read_kinetics(folder: Path, split: Split) -> LabelledVideos:
    """Read a split; labels are those of the training list, sorted.

    Args:
        folder: holds the lists and the videos.
        split: "train" or "validation".

    Raises:
        DatasetError: a list is missing or broken, or none of its clips is there.
    """
    path, training = annotations(folder, split), annotations(folder, "train")
    videos = split_folder(folder, split)
    if path is None or training is None or videos is None:
        raise DatasetError(
            f"{str(folder)!r} does not hold all of Kinetics: annotations/{_FILES[split][0]}, "
            f"annotations/train.csv and the folder {split}/ (or val/)"
        )
    labels = tuple(sorted({row["label"] for row in read_table(training, "label")}))
    numbers = {label: number for number, label in enumerate(labels)}
    passed_over = PassedOver()
    found_there = sorted(videos_in(videos, recursive=True, passed_over=passed_over))
    there = {path.stem: path for path in found_there}
    samples = []
    for row in read_table(path, *_COLUMNS):
        if row["label"] not in numbers:
            raise DatasetError(
                f"{str(path)!r} has the label {row['label']!r}, which {str(training)!r} has not"
            )
        found = next((there[name] for name in _names(row, path) if name in there), None)
        if found is not None:
            samples.append(Sample(found, numbers[row["label"]]))
    if not samples:
        raise DatasetError(
            f"none of the clips of {str(path)!r} is in {str(videos)!r}; files are called "
            "YOUTUBEID_000095_000105.mp4, after the seconds where they start and end"
        )
    return LabelledVideos(labels, tuple(samples), passed_over=passed_over)


def _names(row: dict[str, str], path: Path) -> Iterator[str]:
    """How the usual download tools call a clip, without the suffix."""
    try:
        start, end = int(float(row["time_start"])), int(float(row["time_end"]))
    except ValueError as error:
        raise DatasetError(
            f"{str(path)!r}: clip {row['youtube_id']!r} has no times in seconds: {error}"
        ) from error
    yield f"{row['youtube_id']}_{start:06d}_{end:06d}"
    yield f"{row['youtube_id']}_{start}_{end}"
    yield row["youtube_id"]


def _recognises(folder: Path) -> bool:
    return annotations(folder, "train") is not None


LAYOUT = Layout(recognises=_recognises, read=read_kinetics)
