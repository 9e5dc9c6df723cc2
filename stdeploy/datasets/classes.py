"""Classes that a network cannot be taught, or not be judged on, with the videos there are."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

from stdeploy.datasets.labelled_videos import SPLIT_NAMES, LabelledVideos, Split

# Walking and talking differ by one letter, too. It is a slip only in names that are long enough,
# where one of the classes has this much fewer videos.
_LETTERS = 5
_SHARE_OF_A_SLIP = 0.25
_ADVICE = "if it is one class, give both one name"


@dataclasses.dataclass(frozen=True)
class ClassFinding:
    """Something wrong with classes.

    Attributes:
        kind: "empty" (no video in a split), "alike" (see `classes_alike`) or "few" (too few
            videos to learn from, or to measure accuracy on).
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
        for finding in (
            *_empty(split, data),
            # Those of validation are the labels of training.
            *(classes_alike(data) if split == "train" else ()),
            *_few(split, data, min_videos),
        )
    )


def classes_alike(training: LabelledVideos) -> Iterator[ClassFinding]:
    """Classes that may be one, by their names. Pure.

    They differ only in capitals, spaces and signs; or by one letter (one more, one less, another
    one, or two neighbours swapped), where the longer name has five or more, and one of the two at
    most a quarter of the other's videos.
    """
    first: dict[str, str] = {}
    for label in training.labels:
        plain = "".join(character for character in label.casefold() if character.isalnum())
        other = first.setdefault(plain, label)
        if plain and other != label:
            detail = f"classes {other!r} and {label!r} differ in spelling only; {_ADVICE}"
            yield ClassFinding("alike", "train", (other, label), detail)
    counts = dict(zip(training.labels, training.counts(), strict=True))
    for one, other in itertools.combinations(first, 2):
        rare, common = sorted((first[one], first[other]), key=lambda label: counts[label])
        if counts[rare] <= counts[common] * _SHARE_OF_A_SLIP and _one_letter_apart(one, other):
            detail = (
                f"class {rare!r} ({_count(counts[rare], 'train')}) differs from {common!r} "
                f"({counts[common]}) by one letter; {_ADVICE}"
            )
            yield ClassFinding("alike", "train", (common, rare), detail)


def _one_letter_apart(one: str, other: str) -> bool:
    """Whether different names differ by one letter, or by two neighbours that are swapped."""
    if abs(len(one) - len(other)) > 1 or max(len(one), len(other)) < _LETTERS:
        return False
    pairs = zip(one, other, strict=False)
    same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    one, other = one[same:], other[same:]
    swapped = one[:2] == other[:2][::-1] and one[2:] == other[2:]
    near = swapped or one[1:] == other[1:] or one[1:] == other or one == other[1:]
    return near and (one[:1] + other[:1]).isalpha()  # camera1 and camera2 are no slip


def _empty(split: Split, data: LabelledVideos) -> Iterator[ClassFinding]:
    advice = {
        "train": "training refuses that; add some, or leave the class out",
        "validation": "its accuracy cannot be measured; move about one in five of its training "
        "videos to validation",
    }
    for label, count in zip(data.labels, data.counts(), strict=True):
        if not count:
            detail = f"class {label!r} has no {SPLIT_NAMES[split]} video; {advice[split]}"
            yield ClassFinding("empty", split, (label,), detail)


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


def _count(videos: int, split: Split) -> str:
    return f"{videos} {SPLIT_NAMES[split]} video{'' if videos == 1 else 's'}"
