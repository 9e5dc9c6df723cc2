"""The model card that every artifact carries, so that no later stage asks the user again.

Where it lies in a file of each kind is known to contents.py. Whoever has read a card has compared
its file with the content digest.
"""

import shlex
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from stdeploy import __version__
from stdeploy.artifacts.contents import json_fields, read_contents
from stdeploy.artifacts.files import ONNX_SUFFIX, StrPath, as_path, sha256_of
from stdeploy.artifacts.spec import (
    Arithmetic,
    ClipSpec,
    Form,
    InputFormat,
    ModelSpec,
    NetworkSpec,
    Precision,
    StreamSpec,
)
from stdeploy.artifacts.values import Line, Spec, check_labels
from stdeploy.errors import ArtifactError, SpecError

# How many times larger than the largest logit the terms of a classifier may be: what two classes
# get may cancel by chance, what many classes get does not. Larger ones would let any answer pass.
_MOST_CANCELLED, _MOST_CANCELLED_OF_TWO = 1e3, 1e6

_IN_WORDS = {
    "validation_top1": "top-1 on one clip of each validation video",
    "validation_top5": "top-5 on one clip of each validation video",
}


class ParityRow(Spec):
    """One comparison with the parent artifact.

    Attributes:
        check: what was compared, such as "conv3.0.conv2" or "batch 5".
        precision: arithmetic of the comparison.
        error: max |a - b| / max |a|, where a is the parent's output, unless the check names
            another measure. Of whole networks at fusing, relative to the magnitude of
            `GoldenClip` instead; in runtimes to a fifth of it, where max |a| is less.
        tolerance: the error that was allowed.
        detail: what else is worth knowing, such as the shape of the kernel.
    """

    check: Line
    precision: Arithmetic
    error: float = Field(ge=0.0)
    tolerance: float = Field(ge=0.0)
    detail: Line = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


class Edit(Spec):
    """A change that someone made to a card on purpose, see `stdeploy.card_editing`.

    Attributes:
        field: what was changed, such as "clip.fps" or "labels.3".
        old: its value before, as JSON.
        new: its value since, as JSON.
    """

    field: Line
    old: Line
    new: Line


class Lineage(Spec):
    """Where an artifact comes from.

    Attributes:
        origin: who made the weights, in words.
        licence: of the weights.
        parent: file name of the artifact that this one was made from.
        parent_sha256: its digest.
        versions: packages that made this artifact.
        frozen: stages, such as conv1, that its last training left as they had been; None where
            nothing is known of a training.
        edits: what was changed on purpose since, in this file or in one that it was made from.
    """

    origin: Line = ""
    licence: Line = ""
    parent: Line | None = None
    parent_sha256: Line | None = None
    versions: dict[Line, Line] = Field(default_factory=lambda: {"stdeploy": __version__})
    frozen: tuple[Line, ...] | None = None
    edits: tuple[Edit, ...] = ()

    def of_child(self, parent: Path, **versions: str) -> Self:
        """Of what is made from an artifact with this lineage.

        Args:
            parent: the artifact's file.
            versions: packages that make the new one, beside stdeploy.
        """
        return self.model_copy(
            update={
                "parent": parent.name,
                "parent_sha256": sha256_of(parent),
                "versions": {"stdeploy": __version__, **versions},
            }
        )


class GoldenClip(Spec):
    """A clip that anyone can make again, and what the network must say to it.

    Attributes:
        seed: of `stdeploy.artifacts.golden.golden_clip`; its shape is the ClipSpec's.
        logits: the K numbers that the parent artifact gave.
        magnitude: the largest sum of magnitudes in the parent's classifier, over the classes k
            sum_c |w_kc f_c| + |b_k| for the pooled features f of the clip; 0 in files that do
            not say.
        verified: the K numbers that this artifact itself gave where it was verified, if its
            precision is below fp32: a sharper test for other runtimes than the parent's.
    """

    seed: int = Field(ge=0, lt=1 << 64)
    logits: tuple[FiniteFloat, ...]
    magnitude: FiniteFloat = Field(0.0, ge=0.0)
    verified: tuple[FiniteFloat, ...] | None = None

    @model_validator(mode="after")
    def _tells_answers_apart(self) -> Self:
        largest = max((abs(value) for value in self.logits), default=0.0)
        most = _MOST_CANCELLED if len(self.logits) > 2 else _MOST_CANCELLED_OF_TWO
        if self.magnitude > most * largest:
            raise ValueError(
                f"magnitude {self.magnitude:.3g} beside logits of at most {largest:.3g} would let "
                f"any answer pass; {most:g} times as much is allowed"
            )
        return self


class Calibration(Spec):
    """The clips that the ranges of an int8 artifact, or its gate, were measured on.

    Attributes:
        source: the folder, as the user named it.
        clips: how many.
        held_out: of those, how many the ranges of int8 were not measured on.
        frames_sha256: digest of their frames, in order.
    """

    source: Line
    clips: int = Field(ge=1)
    held_out: int = Field(default=0, ge=0)
    frames_sha256: Line


class ModelCard(Spec):
    """Everything that the later stages need to know about an artifact.

    Attributes:
        model: the network: how it is built, or that it is another project's.
        clip: what it sees.
        labels: names of the K classes, in the order of the logits.
        lineage: where it comes from.
        golden: a clip with the logits it must give; every runtime replays it.
        parity: the measured differences from the parent.
        metrics: accuracies by name, 0..1; validation_top1 and validation_top5 are those of one
            clip of each validation video, after the last epoch.
        precision: arithmetic of the convolutions.
        kept: layers that stayed in fp32 because they spoil a lower precision.
        calibration: clips that a lower precision was measured on, if any were named.
        input: what it takes: pixels of 0 to 255, RGB, in either format.
        form: how its graph computes in time, see `stdeploy.models.planar`.
        stream: what goes in and out where the form is "stream".
    """

    model: NetworkSpec
    clip: ClipSpec
    labels: tuple[str, ...]
    golden: GoldenClip
    lineage: Lineage = Lineage()
    parity: tuple[ParityRow, ...] = ()
    metrics: dict[Line, FiniteFloat] = Field(default_factory=dict)
    precision: Precision = "fp32"
    kept: tuple[Line, ...] = ()
    calibration: Calibration | None = None
    # Left out of cards of the usual kind, which older versions can read so.
    input: InputFormat = Field(
        default="uint8-nthwc", exclude_if=lambda value: value == "uint8-nthwc"
    )

    def buildable(self, purpose: str) -> ModelSpec:
        """The network, where it can be built again.

        Args:
            purpose: what it is wanted for, as the subject of a sentence.

        Raises:
            SpecError: it is another project's, of which there is a graph only.
        """
        if isinstance(self.model, ModelSpec):
            return self.model
        name = f" ({self.model.name})" if self.model.name else ""
        raise SpecError(
            f"{purpose} builds the network from its description, and this one{name} was imported "
            "from another project as a graph; stdeploy card FILE shows what is known of it"
        )

    def check_whole_clips(self, purpose: str) -> None:
        """Refuse an artifact that takes streams.

        Args:
            purpose: what whole clips are wanted for, as the subject of a sentence.

        Raises:
            SpecError: it takes streams.
        """
        if self.stream is not None:
            raise SpecError(
                f"{purpose} takes a file of whole clips, and this one, made from "
                f"{self.lineage.parent!r}, takes streams; give what stdeploy export writes without "
                "--stream"
            )

    @property
    def accuracies(self) -> dict[str, float]:
        """Those of the metrics that tell people something, 0..1, by what they are in words."""
        classes = self.model.num_classes
        return {
            _IN_WORDS.get(name, name): value
            for name, value in self.metrics.items()
            if is_telling(name, classes)
        }

    @property
    def nearest_to_its_limit(self) -> ParityRow | None:
        """The comparison whose error is the largest share of what was allowed."""
        rows = [row for row in self.parity if row.tolerance > 0]
        return max(rows, key=lambda row: row.error / row.tolerance, default=None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.labels) != self.model.num_classes:
            raise ValueError(
                f"{len(self.labels)} labels for {self.model.num_classes} classes; "
                "a card names every class once"
            )
        try:
            check_labels(self.labels, named_before=True)
        except ValueError as error:
            raise ValueError(
                f"{error}; name them anew: stdeploy card FILE --set labels=names.txt"
            ) from None
        if (self.form == "stream") != (self.stream is not None):
            raise ValueError(
                f"form {self.form!r} {'without' if self.stream is None else 'with'} a stream; the "
                "stream says what a file of the form 'stream' takes"
            )
        for logits in (self.golden.logits, self.golden.verified):
            if logits is not None and len(logits) != self.model.num_classes:
                raise ValueError(
                    f"{len(logits)} golden logits for {self.model.num_classes} classes"
                )
        return self

    form: Form = Field(default="conv3d", exclude_if=lambda value: value == "conv3d")
    stream: StreamSpec | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of what it takes for one clip: (T, H, W, 3), or (3, T, H, W) of float-ncthw."""
        frames, height, width, channels = self.clip.frames_shape
        if self.input == "float-ncthw":
            return channels, frames, height, width
        return frames, height, width, channels

    @property
    def input_type(self) -> Literal["uint8", "float32"]:
        """Type of what it takes, as NumPy writes it."""
        return "float32" if self.input == "float-ncthw" else "uint8"

    def to_json(self) -> str:
        """The card as one line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str, *, source: str) -> Self:
        """Read a card.

        Args:
            text: JSON.
            source: the file it comes from, for the error.

        Raises:
            ArtifactError: it is no card.
        """
        try:
            return cls.parse(json_fields(text))
        except (SpecError, ValueError) as error:
            raise ArtifactError(f"the card of {source!r} cannot be used: {error}") from error


def is_telling(accuracy: str, num_classes: int) -> bool:
    """Whether people learn something from an accuracy: top-5 of five classes is always 1.

    >>> is_telling("validation_top5", 5), is_telling("validation_top5", 6)
    (False, True)
    """
    return num_classes > 5 or not accuracy.endswith("top5")


def _way_in(path: Path) -> str:
    """How a file without a card gets one, as the end of a message."""
    if path.suffix != ONNX_SUFFIX:
        return ""
    return f", or import it: stdeploy import {shlex.quote(str(path))} --card clip.toml"


def read_card(path: StrPath) -> ModelCard:
    """Read the card of any artifact, and compare the file with its content digest.

    Of an engine the sidecar alone is compared; `Sidecar.read_code` compares the plan.

    Args:
        path: a .pt, .safetensors, .onnx or .engine file.

    Raises:
        ArtifactError: no such file, not an artifact, one without a card, or one that was changed.
        MissingExtraError: a .pt file, and torch is not installed.
    """
    path = as_path(path, "an artifact")
    contents = read_contents(path)
    if contents.card is None:
        raise ArtifactError(
            f"{str(path)!r} carries no model card, so its labels, frame rate and normalisation "
            "are unknown; use files that stdeploy wrote" + _way_in(path)
        )
    card = ModelCard.from_json(contents.card, source=path.name)
    contents.check()
    return card
