"""Labelled videos: what every layout of a data set is read into. Pure values, no files."""

import collections
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from stdeploy.artifacts.values import check_labels
from stdeploy.errors import DatasetError, did_you_mean
from stdeploy.video.video_files import PassedOver

Split = Literal["train", "validation"]
SPLIT_NAMES: Mapping[Split, str] = {"train": "training", "validation": "validation"}  # in words

_NAMED = 3  # labels at most, in an error


@dataclasses.dataclass(frozen=True)
class Sample:
    """One labelled video; label is an index into the data set's labels."""

    video: Path
    label: int


@dataclasses.dataclass(frozen=True)
class LabelledVideos:
    """One split of a data set.

    Attributes:
        labels: K class names; the index is the class.
        samples: the videos.
        reverse: class -> the class that its videos show when played backwards, where known.
        passed_over: what was found in folders and not taken, where folders were looked through.
    """

    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    reverse: Mapping[int, int] = dataclasses.field(default_factory=dict)
    passed_over: PassedOver = dataclasses.field(
        default_factory=PassedOver, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        """Refuse names that no card takes, before hours of training.

        Raises:
            DatasetError: two look the same, one shows nothing, or holds a control character.
        """
        try:
            check_labels(self.labels)
        except ValueError as error:
            raise DatasetError(f"{error}; rename this class in the data set") from None

    def digest(self) -> str:
        """Of which videos there are, in which order, under which labels; 64 hex digits."""
        digest = hashlib.sha256()
        for sample in self.samples:
            line = f"{sample.video}\0{self.labels[sample.label]}\n"
            digest.update(line.encode(errors="replace"))
        return digest.hexdigest()

    def counts(self) -> list[int]:
        """How many videos each class has, (K,)."""
        found = collections.Counter(sample.label for sample in self.samples)
        return [found[label] for label in range(len(self.labels))]

    def with_labels(self, labels: Sequence[str], *, source: str) -> "LabelledVideos":
        """The same videos, numbered as another list of labels has them.

        Args:
            labels: must hold every label that a video has; more are allowed.
            source: whose labels they are, for the error.

        Raises:
            DatasetError: a label that is not among them.
        """
        numbers = {label: number for number, label in enumerate(labels)}
        used = {sample.label for sample in self.samples}
        unknown = [
            self.labels[label] for label in sorted(used) if self.labels[label] not in numbers
        ]
        if unknown:
            named = [_named(label, labels) for label in unknown[:_NAMED]]
            more = ", ..." if len(unknown) > _NAMED else ""
            raise DatasetError(
                f"{len(unknown)} of the {len(used)} labels of the data set are not among the "
                f"{len(labels)} labels of {source}: {', '.join(named)}{more}; use the classes of "
                f"{source}, the first of which is {labels[0]!r}"
            )
        number = [numbers.get(label, -1) for label in self.labels]
        return LabelledVideos(
            tuple(labels),
            tuple(Sample(sample.video, number[sample.label]) for sample in self.samples),
            {
                number[one]: number[other]
                for one, other in self.reverse.items()
                if min(number[one], number[other]) >= 0
            },
            self.passed_over,
        )

    def half_of_classes(self, seed: int, *, share: float = 0.5) -> "LabelledVideos":
        """A mini set: some of the classes, drawn by a seed, with all of their videos.

        The paper's mini-SSv2 and mini-Kinetics have half of the classes, chosen at random; which
        ones it does not say. Both splits of a data set get the same classes from the same seed.

        Args:
            seed: of the choice.
            share: of the classes, more than 0 and at most 1; rounded, and at least two classes.

        Raises:
            DatasetError: a share that leaves no two classes.
        """
        count = round(len(self.labels) * share)
        if not 0 < share <= 1 or count < 2:
            raise DatasetError(
                f"{share:g} of {len(self.labels)} classes leaves {count}; give a share of at most "
                "1 that leaves two or more"
            )
        # The names decide, not their order in some file.
        names = sorted(self.labels)
        chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))[:count]
        kept = {names[number] for number in chosen}
        labels = tuple(label for label in self.labels if label in kept)
        inside = tuple(sample for sample in self.samples if self.labels[sample.label] in kept)
        return dataclasses.replace(self, samples=inside).with_labels(labels, source="the mini set")


def passed_over_in(splits: Iterable[LabelledVideos]) -> PassedOver:
    """What was passed over in all of them."""
    total = PassedOver()
    for part in splits:
        total.add(part.passed_over)
    return total


def _named(label: str, known: Sequence[str]) -> str:
    """An unknown label, and the known one that may be meant."""
    hint = did_you_mean(label, known).removeprefix("; ")
    return f"{label!r} ({hint})" if hint else repr(label)


def mirrored_labels(labels: Sequence[str]) -> dict[int, int | None]:
    """What a video of each class shows when left and right are swapped.

    Most classes stay what they are. A label with "left", "right", "clockwise" or
    "counter-clockwise" in it becomes the one where those are swapped; if there is no such label,
    its videos must not be mirrored.

    >>> mirrored_labels(["Pushing left", "Pushing right", "Turning left", "Waving"])
    {0: 1, 1: 0, 2: None, 3: 3}

    Args:
        labels: K class names.

    Returns:
        Class -> class when mirrored; None where there is none.
    """
    numbers = {_plain(label): number for number, label in enumerate(labels)}
    return {
        number: next((numbers[m] for m in _mirrored(_plain(label)) if m in numbers), None)
        if _TURN.search(_plain(label))
        else number
        for number, label in enumerate(labels)
    }


_COUNTER_CLOCKWISE = ("counter-clockwise", "counterclockwise", "anticlockwise", "anti-clockwise")
_TURN = re.compile(rf"(?<![a-z])({'|'.join(_COUNTER_CLOCKWISE)}|clockwise|left|right)(?![a-z])")


def _plain(label: str) -> str:
    """Without capitals, SwipeLeft as "swipe left"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).casefold()


def _mirrored(label: str) -> Iterator[str]:
    """The label with left and right swapped, once for each spelling of counter-clockwise."""
    for counter_clockwise in _COUNTER_CLOCKWISE:
        opposite = {"left": "right", "right": "left", "clockwise": counter_clockwise}

        def swapped(match: re.Match[str], opposite: dict[str, str] = opposite) -> str:
            return opposite.get(match[0], "clockwise")

        yield _TURN.sub(swapped, label)
