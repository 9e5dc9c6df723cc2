"""Classes that a network cannot be taught, or not be judged on, with the videos there are."""

import dataclasses
from collections.abc import Iterator, Mapping

from stdeploy.train.data.labelled import LabelledVideos, Split


@dataclasses.dataclass(frozen=True)
class ClassFinding:
    """Something wrong with classes.

    Attributes:
        kind: "empty" (no video in a split), "alike" (names that differ only in capitals, spaces
            and signs) or "few" (too few videos to learn from, or to measure accuracy on).
        split: which list it is about.
        labels: the classes; all of them where it is about the whole split.
        detail: what was seen and what to do, in words.
    """

    kind: str
    split: Split
    labels: tuple[str, ...]
    detail: str


def judge_classes(
    splits: Mapping[Split, LabelledVideos], *, min_videos: int
) -> tuple[ClassFinding, ...]:
    """Decide what is wrong with the classes. Pure.

    Args:
        splits: without the videos that are left out; both with the same labels.
        min_videos: classes with fewer training videos, and fewer validation videos in all, are
            reported.
    """
    return tuple(
        finding
        for split, data in splits.items()
        for finding in (*_empty(split, data), *_alike(split, data), *_few(split, data, min_videos))
    )


def _empty(split: Split, data: LabelledVideos) -> Iterator[ClassFinding]:
    advice = {
        "train": "training refuses that; add some, or leave the class out",
        "validation": "its accuracy cannot be measured; move about one in five of its training "
        "videos to validation",
    }
    for label, count in zip(data.labels, data.counts(), strict=True):
        if not count:
            detail = f"class {label!r} has no {_NAMES[split]} video; {advice[split]}"
            yield ClassFinding("empty", split, (label,), detail)


def _alike(split: Split, data: LabelledVideos) -> Iterator[ClassFinding]:
    if split == "validation":
        return  # it has the labels of training
    first: dict[str, str] = {}
    for label in data.labels:
        plain = "".join(character for character in label.casefold() if character.isalnum())
        other = first.setdefault(plain, label)
        if plain and other != label:
            detail = f"classes {other!r} and {label!r} differ in spelling only; is it one class?"
            yield ClassFinding("alike", split, (other, label), detail)


def _few(split: Split, data: LabelledVideos, min_videos: int) -> Iterator[ClassFinding]:
    if split == "validation":
        videos = len(data.samples)
        if 0 < videos < min_videos:
            detail = (
                f"{_count(videos, split)}, under {min_videos}; each is {100 / videos:.0f} points "
                "of accuracy, so that two models can hardly be told apart"
            )
            yield ClassFinding("few", split, data.labels, detail)
        return
    counts = dict(zip(data.labels, data.counts(), strict=True))
    few = sorted((count, label) for label, count in counts.items() if 0 < count < min_videos)
    if few:
        count, label = few[0]
        named = (
            f"class {label!r} has {_count(count, split)}"
            if len(few) == 1
            else f"{len(few)} classes have few training videos, the fewest {label!r} with {count}"
        )
        detail = (
            f"{named}, under {min_videos}; a class with so few is often never named: add videos"
        )
        yield ClassFinding("few", split, tuple(label for _, label in few), detail)


_NAMES: dict[Split, str] = {"train": "training", "validation": "validation"}


def _count(videos: int, split: Split) -> str:
    return f"{videos} {_NAMES[split]} video{'' if videos == 1 else 's'}"
