"""Names of classes in a text file, one a line."""

from pathlib import Path

from stdeploy.errors import ArtifactError


def read_labels(path: Path, *, option: str) -> list[str]:
    """Names of classes, one a line, in the order of the classes.

    Args:
        path: a text file in UTF-8; an empty line at its end counts for nothing.
        option: where the user named it, for the error.

    Raises:
        ArtifactError: the file cannot be read as text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ArtifactError(
            f"{option}={str(path)!r}: {reason}; name a text file with the name of one class a "
            "line, in the order of the classes"
        ) from error
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
