"""The file beside an artifact that is compiled code: its card, and the digest of the code.

What other programs load too keeps their format, so the card lies beside it. Compiled code runs as
the user who loads it: nothing of it is loaded before its digest and its host are checked.
"""

import abc
import hashlib
import json
from pathlib import Path
from typing import Any, Self

from stdeploy.artifacts.card import ModelCard, ParityRow
from stdeploy.artifacts.contents import read_contents, sidecar_fields
from stdeploy.artifacts.digest import DIGEST_FIELD, content_sha256, sidecar_part
from stdeploy.artifacts.files import sidecar_path, whole_file
from stdeploy.artifacts.values import Line, Spec
from stdeploy.errors import ArtifactError, SpecError


class Sidecar(Spec, abc.ABC):
    """What all of them have.

    Attributes:
        card: of the network, with the parity that was measured where it was built.
    """

    card: ModelCard

    @property
    @abc.abstractmethod
    def code_sha256(self) -> Line:
        """Digest of the compiled file's bytes."""

    @abc.abstractmethod
    def rebuild_command(self, artifact: Path) -> str:
        """What builds the file again on another host.

        Args:
            artifact: which lies beside the file that it was built from.
        """

    @classmethod
    def read(cls, artifact: Path) -> Self:
        """Read what lies beside a file.

        Raises:
            ArtifactError: no such file, no sidecar, or one that cannot be used or was changed.
        """
        contents, fields = read_contents(artifact), sidecar_fields(artifact)
        try:
            sidecar = cls.parse({k: v for k, v in fields.items() if k != DIGEST_FIELD})
        except SpecError as error:
            raise ArtifactError(
                f"{str(sidecar_path(artifact))!r} cannot be used: {error}"
            ) from error
        contents.check()
        return sidecar

    def write(self, artifact: Path) -> None:
        """Write the file beside an artifact, with its content digest."""
        write_sidecar_fields(artifact, json.loads(self.model_dump_json()))

    def with_parity(self, *rows: ParityRow) -> Self:
        """The same, with more comparisons in its card."""
        card = self.card.model_copy(update={"parity": (*self.card.parity, *rows)})
        return self.model_copy(update={"card": card})

    def read_code(self, artifact: Path) -> bytes:
        """The bytes of the compiled file, if they are those that were built.

        Raises:
            ArtifactError: they are not.
        """
        # Read once: what was checked is what is loaded.
        content = artifact.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.code_sha256:
            raise ArtifactError(
                f"{str(artifact)!r} is not the file that its sidecar describes (sha256 "
                f"{digest[:12]}..., expected {self.code_sha256[:12]}...); it is not loaded, "
                f"because it is code; run: {self.rebuild_command(artifact)}"
            )
        return content


def write_sidecar_fields(artifact: Path, fields: dict[str, Any]) -> None:
    """Write the file beside an artifact, with the digest of its fields."""
    fields[DIGEST_FIELD] = content_sha256([sidecar_part(fields)])
    with whole_file(sidecar_path(artifact)) as temporary:
        temporary.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", "utf-8")


def name_beside(name: str, suffix: str) -> str:
    """The name of a file that is looked for beside an artifact, and stands in suggested commands.

    Raises:
        ValueError: it is none, or has another suffix.
    """
    if name != Path(name).name or name.startswith("-") or not name.endswith(suffix):
        raise ValueError(f"the name of an {suffix} file without a folder is allowed")
    return name


def move_with_sidecar(source: Path, target: Path) -> None:
    """Give a compiled file and its sidecar their names; between the two, digests differ."""
    sidecar_path(source).replace(sidecar_path(target))
    source.replace(target)
