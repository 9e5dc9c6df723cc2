"""A folder for each class, below one for each split.

train/waving/1.mp4
validation/waving/2.mp4     also val/ or test/
"""

import shlex
from pathlib import Path

from stdeploy.datasets.labelled_videos import LabelledVideos, Sample, Split
from stdeploy.datasets.layout import Layout
from stdeploy.errors import DatasetError, did_you_mean
from stdeploy.video.video_files import SUFFIXES_IN_WORDS, PassedOver, holds_no_video, videos_in

FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "test"),
}


def split_folder(folder: Path, split: Split) -> Path | None:
    """The folder of a split, by any of its usual names; None where there is none."""
    return next((folder / name for name in FOLDERS[split] if (folder / name).is_dir()), None)


def folders_in(folder: Path) -> list[Path]:
    """What may be a class each: the folders of a folder, sorted, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def read_folders(folder: Path, split: Split) -> LabelledVideos:
    """Read a split; labels are the names of the folders of the training split, sorted.

    Args:
        folder: holds train/ and validation/.
        split: "train" or "validation".

    Raises:
        DatasetError: no such folder, a class without a video, or one that training does not have.
    """
    classes = _classes(folder, "train")
    labels = tuple(sorted(classes))
    samples = []
    passed_over = PassedOver()
    for name, class_folder in sorted(_classes(folder, split).items()):
        if name not in classes:
            raise DatasetError(
                f"{str(class_folder)!r} is a class that {str(split_folder(folder, 'train'))!r} "
                f"does not have{did_you_mean(name, classes)}"
            )
        passed = PassedOver()
        videos = sorted(videos_in(class_folder, recursive=True, passed_over=passed))
        if not videos:
            raise DatasetError(
                f"{str(class_folder)!r} {holds_no_video(passed)}; add some, or remove the folder "
                f"({SUFFIXES_IN_WORDS})"
            )
        passed_over.add(passed)
        samples += [Sample(video, labels.index(name)) for video in videos]
    return LabelledVideos(labels, tuple(samples), passed_over=passed_over)


def _classes(folder: Path, split: Split) -> dict[str, Path]:
    inside = split_folder(folder, split)
    if inside is None:
        training = split_folder(folder, "train")
        named = shlex.quote(str(training))
        way_out = f"; `stdeploy data split {named} -o LISTS` holds some out" if training else ""
        raise DatasetError(
            f"{str(folder)!r} holds none of the folders {', '.join(FOLDERS[split])}{way_out}"
        )
    found = {path.name: path for path in folders_in(inside)}
    if not found:
        raise DatasetError(f"{str(inside)!r} holds no folder; each class wants one of its own")
    return found


def _recognises(folder: Path) -> bool:
    return any(split_folder(folder, split) for split in FOLDERS)


LAYOUT = Layout(recognises=_recognises, read=read_folders)
