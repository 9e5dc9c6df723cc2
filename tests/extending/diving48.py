"""Diving48 (Li et al., ECCV 2018): dives that differ in their order, not in their place.

Diving48_vocab.json       [["Back", "15som", "05Twis", "FREE"], ...]
Diving48_V2_train.json    [{"vid_name": "-mmq0PT-u8k_00155", "label": 0, ...}, ...]
Diving48_V2_test.json     likewise
rgb/-mmq0PT-u8k_00155.mp4

The example of a data set in CONTRIBUTING.md.
"""

import json
from pathlib import Path
from typing import Any

from stdeploy.datasets.labelled_videos import LabelledVideos, Sample, Split
from stdeploy.datasets.layouts import Layout
from stdeploy.errors import DatasetError

_LISTS: dict[Split, str] = {
    "train": "Diving48_V2_train.json",
    "validation": "Diving48_V2_test.json",
}


def read_diving48(folder: Path, split: Split) -> LabelledVideos:
    """Read a split; labels are in the order of the vocabulary.

    Args:
        folder: holds the three lists and rgb/.
        split: "train", or "validation" for what Diving48 calls test.

    Raises:
        DatasetError: a file is missing, or does not fit the others.
    """
    path = folder / _LISTS[split]
    try:
        labels = tuple(" ".join(words) for words in _load(folder / "Diving48_vocab.json"))
        samples = [
            Sample(folder / "rgb" / f"{entry['vid_name']}.mp4", int(entry["label"]))
            for entry in _load(path)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{str(path)!r} is no list of videos, each with vid_name and label: {error}"
        ) from error
    for sample in samples:
        if not 0 <= sample.label < len(labels):
            raise DatasetError(
                f"{str(path)!r}: {sample.video.stem!r} has label {sample.label}, but the "
                f"vocabulary has 0 to {len(labels) - 1}"
            )
    return LabelledVideos(labels, tuple(samples))


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{str(path)!r} cannot be read: {error}") from error


def _recognises(folder: Path) -> bool:
    return (folder / "Diving48_vocab.json").is_file()


LAYOUT = Layout(recognises=_recognises, read=read_diving48)
