"""A folder for each class, below one for each split; or not divided into splits yet.

train/waving/1.mp4
validation/waving/2.mp4     also val/ or test/
"""

import shlex
from pathlib import Path

import numpy as np

from stdeploy.artifacts.files import meant_beside
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample, Split
from stdeploy.datasets.layouts import Layout
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


def divide(folder: Path, *, share: float, seed: int) -> dict[Split, LabelledVideos]:
    """Hold out a share of every class. Videos in one folder of a class stay on one side.

    waving/1.mp4
    waving/kitchen/2.mp4       from one recording, camera or person:
    waving/kitchen/3.mp4       both are trained on, or both are held out

    Args:
        folder: holds a folder for each class.
        share: of the videos of a class that are held out, above 0 and below 1; so many or a few
            more, because folders are not taken apart, and at least one is left to train on.
        seed: of the choice.

    Raises:
        DatasetError: a share that is none, no classes, or one that has nothing to divide.
    """
    if not 0 < share < 1:
        raise DatasetError(f"--share {share:g}: give a number above 0 and below 1, such as 0.2")
    if not folder.is_dir():
        what_then = meant_beside(folder) or "; name one with a folder for each class"
        raise DatasetError(f"{str(folder)!r} is no folder{what_then}")
    divided = split_folder(folder, "train")
    if divided is not None:
        raise DatasetError(
            f"{str(folder)!r} is divided already, it holds {divided.name!r}; use it as it is, or "
            "name a folder that holds the classes themselves"
        )
    classes = folders_in(folder)
    if len(classes) < 2:
        there = f"one folder, {classes[0].name!r}" if classes else "no folder"
        deeper = "; name that one?" if classes and len(folders_in(classes[0])) > 1 else ""
        raise DatasetError(
            f"{str(folder)!r} holds {there}; each of two or more classes wants one of its own"
            f"{deeper}"
        )
    samples: dict[Split, list[Sample]] = {"train": [], "validation": []}
    passed_over = PassedOver()
    for label, inside in enumerate(classes):
        rng = np.random.default_rng([seed, label])
        for split, videos in _divided(inside, share, rng, passed_over).items():
            samples[split] += [Sample(video, label) for video in videos]
    labels = tuple(path.name for path in classes)
    return {
        # All of it with the one, so that whoever adds up both counts nothing twice.
        split: LabelledVideos(
            labels,
            tuple(found),
            passed_over=passed_over if split == "train" else PassedOver(),
        )
        for split, found in samples.items()
    }


def _divided(
    folder: Path, share: float, rng: np.random.Generator, passed_over: PassedOver
) -> dict[Split, list[Path]]:
    """The videos of one class, each side sorted."""
    groups: dict[str, list[Path]] = {}
    passed = PassedOver()
    for video in sorted(videos_in(folder, recursive=True, passed_over=passed)):
        groups.setdefault(video.relative_to(folder).parts[0], []).append(video)
    if len(groups) < 2:
        words = passed.in_words()
        found = f"only {next(iter(groups))!r}" if groups else "no video"
        raise DatasetError(
            f"{str(folder)!r} holds {found}{f' ({words})' if words else ''}, so nothing can be "
            f"held out; a class wants two or more videos, or folders of them; {SUFFIXES_IN_WORDS}"
        )
    passed_over.add(passed)
    wanted = max(1, round(share * sum(map(len, groups.values()))))
    names = list(groups)
    held_out: list[Path] = []
    for number in rng.permutation(len(names))[:-1]:
        if len(held_out) >= wanted:
            break
        held_out += groups[names[number]]
    taken = set(held_out)
    rest = [video for videos in groups.values() for video in videos if video not in taken]
    return {"train": sorted(rest), "validation": sorted(held_out)}


LAYOUT = Layout(recognises=_recognises, read=read_folders)
