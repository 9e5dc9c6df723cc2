"""Every error that stdeploy raises on purpose.

StdeployError               exit status 2
├── SpecError               a specification that describes no possible model or clip
├── ArtifactError           a file that is no usable artifact: missing, foreign, altered
│   └── ParityError         an artifact whose numbers differ from its parent's
├── FusionError             a layer that cannot be folded
├── DatasetError            a data set that does not have the announced layout
├── DownloadError           a file that could not be fetched whole and unaltered
├── TrainingError           a training run that cannot start or has diverged
├── BackendError            a backend that was asked for is not there; exit status 3
│   └── MissingExtraError   a Python package of one of the extras is not installed
└── VideoError              one video that gives no clip: its row says why, the others go on; 1

A message says what was wrong, the value that came, what is allowed and what to do.
"""

import difflib
from collections.abc import Callable, Iterable


class StdeployError(Exception):
    """Base of all errors below; the command line prints it as one line."""

    exit_status: int = 2


class SpecError(StdeployError):
    """A specification that describes no possible model or clip, or an argument that is none."""


class ArtifactError(StdeployError):
    """A file that is no usable artifact: missing, foreign, altered or of the wrong stage."""


class ParityError(ArtifactError):
    """An artifact whose numbers differ from its parent's by more than the tolerance."""


class FusionError(StdeployError):
    """A layer that cannot be folded."""


class DatasetError(StdeployError):
    """A data set that does not have the announced layout."""


class DownloadError(StdeployError):
    """A file that could not be fetched whole and unaltered."""


class TrainingError(StdeployError):
    """A training run that cannot start or has diverged."""


class BackendError(StdeployError):
    """A backend that was asked for is not there."""

    exit_status = 3


class MissingExtraError(BackendError):
    """A Python package that belongs to one of stdeploy's extras is not installed.

    Attributes:
        install: the command that brings it.
    """

    def __init__(self, message: str, install: str = "") -> None:
        super().__init__(message)
        self.install = install


class VideoError(StdeployError):
    """One video that gives no clip. The others go on."""

    exit_status = 1


def did_you_mean(name: str, known: Iterable[str], *, typed: Callable[[str], object] = str) -> str:
    """The end of a message about an unknown name; nothing where no known one is near it.

    Args:
        name: the unknown one.
        known: what there is.
        typed: how a known name has to be typed: with its folder, say.

    >>> did_you_mean("Fight", ["fight", "noFight"])
    "; did you mean 'fight'?"
    """
    by_folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.65)
    return f"; did you mean {str(typed(by_folded[close[0]]))!r}?" if close else ""


def check_choice(what: str, value: object, allowed: Iterable[object]) -> None:
    """Refuse a value that is not among those that are allowed.

    Raises:
        SpecError: it is not; the message names all of them.
    """
    choices = tuple(allowed)
    if value not in choices:
        raise SpecError(f"{what} {value!r} is not known; choose {', '.join(map(str, choices))}")


def check_count(what: str, value: object, *, least: int = 1) -> None:
    """Refuse what is no whole number of at least so much.

    Raises:
        SpecError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{what} = {value!r}: a whole number of at least {least} is allowed")
