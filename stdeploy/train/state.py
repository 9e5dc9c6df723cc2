"""The state of a run, from which it goes on after any break as if there had been none.

Everything random is decided by the seed, the epoch and the step, so a state holds no random
numbers: weights, momentum, averages, and how far the run has come.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from stdeploy.artifacts.digest import DIGEST_FIELD, content_sha256, tree_parts
from stdeploy.artifacts.files import whole_file
from stdeploy.datasets.labelled_videos import LabelledVideos
from stdeploy.errors import ArtifactError
from stdeploy.models.checkpoint import write_tensors
from stdeploy.train.recipe import NOT_IN_FINGERPRINT, Recipe

_VERSION = 2


class Part(Protocol):
    """Something that changes with every step: network, optimiser, average, scale of gradients."""

    def state_dict(self) -> dict[str, Any]:
        """All that it needs to go on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Go on from there."""


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: that is going on, from 0.
        step: steps of this epoch that are done.
        loss_sum: of those steps.
        right: training clips of those steps that were classified rightly.
        seconds: that those steps took.
        wait_seconds: of those, how long the network waited for data.
        best: highest validation accuracy so far; -1 if there was none.
        broken: videos that could not be read, with the reasons.
        rows: metrics of the epochs that are done, by name.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    right: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    best: float = -1.0
    broken: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def next_epoch(self) -> None:
        """Begin another epoch."""
        self.epoch += 1
        self.step = self.right = 0
        self.loss_sum = self.seconds = self.wait_seconds = 0.0


@dataclasses.dataclass(frozen=True)
class RunState:
    """What is kept of a run.

    Attributes:
        fingerprint: of the recipe and the data; a run goes on only with the same.
        progress: how far it has come.
        tensors: states of the parts, by name: network, optimiser, ...
    """

    fingerprint: str
    progress: Progress
    tensors: dict[str, Any]

    @classmethod
    def of(cls, fingerprint: str, progress: Progress, parts: Mapping[str, Part]) -> Self:
        """Gather the state of a run."""
        tensors = {name: part.state_dict() for name, part in parts.items()}
        return cls(fingerprint, progress, tensors)

    def save(self, path: Path) -> None:
        """Write it whole or not at all.

        Raises:
            ArtifactError: the file cannot be written.
        """
        content = {
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "progress": dataclasses.asdict(self.progress),
            "tensors": self.tensors,
        }
        digest = content_sha256(tree_parts(content))
        with whole_file(path) as temporary:
            write_tensors({**content, DIGEST_FIELD: digest}, temporary)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a state.

        Raises:
            ArtifactError: no such file, or it is damaged.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content["version"] != _VERSION:
                raise ArtifactError(
                    f"{str(path)!r} was written by another version of stdeploy; start anew"
                )
            digest = content.pop(DIGEST_FIELD, None)  # states had none before
            if digest not in (None, content_sha256(tree_parts(content))):
                raise ArtifactError(
                    f"{str(path)!r} is not as it was written: its content digest differs; start "
                    "anew, without --resume"
                )
            return cls(content["fingerprint"], Progress(**content["progress"]), content["tensors"])
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{str(path)!r} does not exist; there is no run to resume"
            ) from error
        except ArtifactError:
            raise
        except Exception as error:  # a damaged file raises anything
            raise ArtifactError(
                f"{str(path)!r} is no state of a run, or damaged; start anew, without --resume"
            ) from error

    def restore(self, parts: Mapping[str, Part]) -> None:
        """Put the states of the parts back."""
        for name, part in parts.items():
            part.load_state_dict(self.tensors[name])


def fingerprint(
    recipe: Recipe, data: LabelledVideos, validation: LabelledVideos | None, world_size: int
) -> str:
    """Of everything that decides about the numbers of a run; 64 hex digits."""
    parts = (
        recipe.model_dump_json(exclude=NOT_IN_FINGERPRINT),
        data.digest(),
        validation.digest() if validation is not None else "",
        str(world_size),  # norms see the clips of one process
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
