"""Names of classes in a text file, one a line; how many a network of another project may have."""

from collections.abc import Sequence
from pathlib import Path

from stdeploy.artifacts.values import check_labels
from stdeploy.errors import SpecError

_MOST_CLASSES = 1_000_000
OF_ONE_LOGIT = (
    "a network that gives one logit z for yes or no has to give two: "
    "torch.cat([torch.zeros_like(z), z], dim=1)"
)


def read_labels(path: Path, *, option: str) -> list[str]:
    """Names of classes, one a line, in the order of the classes.

    Args:
        path: a text file in UTF-8. Empty lines at its end count for nothing, and neither do spaces
            around a name.
        option: where the user named it, for the error.

    Raises:
        SpecError: the file cannot be read as text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:  # ValueError: other bytes, or a name with a zero in it
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise SpecError(
            f"{option}={str(path)!r}: {reason}; name a text file with the name of one class a "
            "line, in the order of the classes"
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.strip() for line in lines]


def check_classes(labels: Sequence[str], *, source: str) -> None:
    """Refuse names of classes between which a network of another project cannot choose.

    Args:
        labels: in the order of its logits.
        source: where they were given, for the error.

    Raises:
        SpecError: fewer than two, too many, equal or empty ones.
    """
    if len(labels) == 1:
        raise SpecError(
            f"{source}: 1 label, and the softmax of one number is 1 for every video; 2 or more are "
            f"wanted; {OF_ONE_LOGIT}"
        )
    if not 1 < len(labels) <= _MOST_CLASSES:
        raise SpecError(f"{source}: {len(labels)} labels; 2 to {_MOST_CLASSES} are allowed")
    empty = next((number for number, label in enumerate(labels) if not label.strip()), None)
    if empty is not None:
        raise SpecError(f"{source}: label {empty} is empty; every class has a name")
    try:
        check_labels(labels)
    except ValueError as error:
        raise SpecError(f"{source}: {error}") from error
