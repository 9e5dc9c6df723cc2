"""Data sets in the layout of Something-Something-v2. No torch: evaluation reads them too.

labels.json        {"Moving something up": "0", ...}
train.json         [{"id": "1", "template": "Moving [something] up", ...}, ...]
validation.json    likewise
20bn-something-something-v2/1.webm
reversed_pairs.json    optional, ours: [["Moving something up", "Moving something down"], ...]
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stdeploy.artifacts.values import parsed
from stdeploy.datasets.labelled_videos import LabelledVideos, Sample, Split
from stdeploy.datasets.layouts import Layout
from stdeploy.errors import DatasetError

_VIDEO_FOLDERS = ("20bn-something-something-v2", "videos", ".")


def read_something(folder: Path, split: Split) -> LabelledVideos:
    """Read one split.

    Args:
        folder: holds labels.json.
        split: "train" or "validation".

    Raises:
        DatasetError: a file is missing or does not fit the others.
    """
    index = _label_numbers(folder / "labels.json")
    labels = tuple(sorted(index, key=index.__getitem__))
    videos = next((folder / name for name in _VIDEO_FOLDERS if (folder / name).is_dir()), folder)
    samples = []
    entries = _load(folder / f"{split}.json")
    if not isinstance(entries, list):
        raise DatasetError(f"{split}.json is no list of videos, each with an id and a template")
    for entry in entries:
        if not isinstance(entry, dict) or not {"id", "template"} <= entry.keys():
            raise DatasetError(f"{split}.json: {entry!r} is no video with an id and a template")
        label = str(entry["template"]).replace("[", "").replace("]", "")
        if label not in index:
            raise DatasetError(
                f"{split}.json: video {entry['id']} has template {entry['template']!r}, "
                "which labels.json does not list"
            )
        samples.append(Sample(videos / f"{entry['id']}.webm", index[label]))
    return LabelledVideos(labels, tuple(samples), _reversals(folder, index))


def _label_numbers(path: Path) -> dict[str, int]:
    """Label -> number, as labels.json has it; the numbers are 0, 1, ..."""
    content = _load(path)
    numbers = content.values() if isinstance(content, dict) else ()
    if not numbers or {str(number) for number in numbers} != {str(n) for n in range(len(content))}:
        raise DatasetError(f"{str(path)!r} does not number its labels 0, 1, ...")
    return {label: int(number) for label, number in content.items()}


def _reversals(folder: Path, index: Mapping[str, int]) -> dict[int, int]:
    path = folder / "reversed_pairs.json"
    reverse: dict[int, int] = {}
    pairs = _load(path) if path.is_file() else []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(one in index for one in pair):
            raise DatasetError(f"{str(path)!r}: {pair!r} is no pair of labels of labels.json")
        first, second = pair
        reverse[index[first]], reverse[index[second]] = index[second], index[first]
    return reverse


def _load(path: Path) -> Any:
    try:
        return parsed(json.loads, path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{str(path)!r} does not exist; a data set in the layout of Something-Something-v2 "
            "holds labels.json, train.json, validation.json and a folder of .webm"
        ) from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{str(path)!r} cannot be read: {error}") from error


def _recognises(folder: Path) -> bool:
    return (folder / "labels.json").is_file()


LAYOUT = Layout(recognises=_recognises, read=read_something)
