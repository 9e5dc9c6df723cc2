"""The model card that every artifact carries, so that no later stage asks the user again.

It lies in a checkpoint (.pt) under the key "card", in a .safetensors file in the header's
metadata, and in an .onnx file in metadata_props; always as JSON under the name CARD_KEY. An
.engine has it in the file beside it (sidecar.py), so that its bytes stay TensorRT's.
"""

import json
import warnings
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from stdeploy import __version__
from stdeploy.errors import ArtifactError, SpecError, require
from stdeploy.files import existing, sidecar_path
from stdeploy.spec import Arithmetic, ClipSpec, ModelSpec, Precision, Spec

CARD_KEY = "stdeploy.card"

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

    check: str
    precision: Arithmetic
    error: float = Field(ge=0.0)
    tolerance: float = Field(ge=0.0)
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


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
    """

    origin: str = ""
    licence: str = ""
    parent: str | None = None
    parent_sha256: str | None = None
    versions: dict[str, str] = Field(default_factory=lambda: {"stdeploy": __version__})
    frozen: tuple[str, ...] | None = None


class GoldenClip(Spec):
    """A clip that anyone can make again, and what the network must say to it.

    Attributes:
        seed: of `stdeploy.golden.golden_clip`; its shape is the ClipSpec's.
        logits: the K numbers that the parent artifact gave.
        magnitude: the largest sum of magnitudes in the parent's classifier, over the classes k
            sum_c |w_kc f_c| + |b_k| for the pooled features f of the clip; 0 in files that do
            not say.
        verified: the K numbers that this artifact itself gave where it was verified, if its
            precision is below fp32: a sharper test for other runtimes than the parent's.
    """

    seed: int
    logits: tuple[float, ...]
    magnitude: float = Field(0.0, ge=0.0)
    verified: tuple[float, ...] | None = None


class Calibration(Spec):
    """The clips that the ranges of an int8 artifact, or its gate, were measured on.

    Attributes:
        source: the folder, as the user named it.
        clips: how many.
        held_out: of those, how many the ranges of int8 were not measured on.
        frames_sha256: digest of their frames, in order.
    """

    source: str
    clips: int = Field(ge=1)
    held_out: int = Field(default=0, ge=0)
    frames_sha256: str


class ModelCard(Spec):
    """Everything that the later stages need to know about an artifact.

    Attributes:
        model: the network.
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
    """

    model: ModelSpec
    clip: ClipSpec
    labels: tuple[str, ...]
    golden: GoldenClip
    lineage: Lineage = Lineage()
    parity: tuple[ParityRow, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)
    precision: Precision = "fp32"
    kept: tuple[str, ...] = ()
    calibration: Calibration | None = None

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
        for logits in (self.golden.logits, self.golden.verified):
            if logits is not None and len(logits) != self.model.num_classes:
                raise ValueError(
                    f"{len(logits)} golden logits for {self.model.num_classes} classes"
                )
        return self

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
            return cls.parse(json.loads(text))
        except (SpecError, ValueError) as error:
            raise ArtifactError(f"the card of {source!r} cannot be used: {error}") from error


def is_telling(accuracy: str, num_classes: int) -> bool:
    """Whether people learn something from an accuracy: top-5 of five classes is always 1.

    >>> is_telling("validation_top5", 5), is_telling("validation_top5", 6)
    (False, True)
    """
    return num_classes > 5 or not accuracy.endswith("top5")


def read_card(path: Path) -> ModelCard:
    """Read the card of any artifact.

    Args:
        path: a .pt, .safetensors, .onnx or .engine file.

    Raises:
        ArtifactError: no such file, not an artifact, or one without a card.
        MissingExtraError: a .pt file, and torch is not installed.
    """
    readers = {
        ".pt": _from_checkpoint,
        ".safetensors": _from_safetensors,
        ".onnx": _from_onnx,
        ".engine": _from_sidecar,
    }
    if path.suffix not in readers:
        raise ArtifactError(
            f"{str(path)!r} is no artifact of stdeploy; those end in {', '.join(readers)}"
        )
    text = readers[path.suffix](existing(path))
    if text is None:
        raise ArtifactError(
            f"{str(path)!r} carries no model card, so its labels, frame rate and normalisation "
            "are unknown; use files that stdeploy wrote"
        )
    return ModelCard.from_json(text, source=path.name)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a .pt file, {"card": JSON, "state_dict": tensors}, without running code from it.

    Raises:
        ArtifactError: it is no checkpoint of stdeploy.
        MissingExtraError: torch is not installed.
    """
    torch = require("torch", extra="train", purpose=f"reading {path.name!r}")
    existing(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how to run the code in other files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything, AssertionError included
        raise ArtifactError(
            f"{str(path)!r} cannot be read as a checkpoint: it is damaged, or holds other things "
            "than tensors, or was not written by stdeploy"
        ) from error
    fields: dict[str, Any] = content if isinstance(content, dict) else {}
    if not isinstance(fields.get("card"), str) or not isinstance(fields.get("state_dict"), dict):
        raise ArtifactError(
            f"{str(path)!r} is no checkpoint of stdeploy: it lacks 'card' or 'state_dict'"
        )
    return fields


def _from_checkpoint(path: Path) -> str | None:
    card: str = read_checkpoint(path)["card"]
    return card


def _from_safetensors(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get(CARD_KEY)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{str(path)!r} is no safetensors file: {error}") from error


def _from_onnx(path: Path) -> str | None:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ArtifactError(f"{str(path)!r} is no ONNX file: {error}") from error
    return {prop.key: prop.value for prop in model.metadata_props}.get(CARD_KEY)


def _from_sidecar(path: Path) -> str | None:
    sidecar = sidecar_path(path)
    try:
        card = json.loads(sidecar.read_text())["card"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            f"{str(path)!r} needs {sidecar.name!r} beside it, which cannot be read; copy both "
            "files, or build the engine again: stdeploy export ckpt.onnx --trt"
        ) from error
    return json.dumps(card)
