"""Deliberate changes to the card of an artifact: checked, written whole, noted in its lineage."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stdeploy.artifacts.card import Edit, GoldenClip, ModelCard
from stdeploy.artifacts.contents import json_fields, read_checkpoint, read_contents, sidecar_fields
from stdeploy.artifacts.digest import (
    CARD_KEY,
    DIGEST_FIELD,
    DIGEST_KEY,
    OnnxFile,
    card_part,
    content_sha256,
    safetensors_parts,
    torch_parts,
)
from stdeploy.artifacts.files import (
    CHECKPOINT_SUFFIX,
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
    TORCH_PROGRAM_SUFFIX,
    is_compiled,
    whole_file,
)
from stdeploy.artifacts.label_files import read_labels
from stdeploy.artifacts.sidecar import write_sidecar_fields
from stdeploy.artifacts.values import check_labels
from stdeploy.errors import ArtifactError, SpecError, did_you_mean

_LABELS = "labels"
_LINEAGE = ("origin", "licence")
# Which frames a clip takes from a video: the network answers a given clip as before.
_SAMPLING = ("fps", "frame_stride", "short_side_px", "short_video", "views")
# What the network computes with: other numbers are another answer to the golden clip.
_INPUT = ("crop_px", "mean", "num_frames", "std")
SETTABLE = (_LABELS, *_SAMPLING, *_INPUT, *_LINEAGE)


@dataclasses.dataclass(frozen=True)
class EditedCard:
    """What an edit did.

    Attributes:
        card: as it stands in the file now.
        edits: what was changed; empty where everything stood there already.
        answered_anew: whether the network was asked for its golden clip again.
    """

    card: ModelCard
    edits: tuple[Edit, ...]
    answered_anew: bool = False


def edit_card(path: Path, changes: Mapping[str, str]) -> EditedCard:
    """Change fields of the card of an artifact, and its content digest with them.

    Args:
        path: a .pt, .safetensors, .onnx, .engine or .aot.pt2 file; of the last two the sidecar is
            written.
        changes: values by field, as a user writes them: numbers, `0.5,0.5,0.5` for one number a
            colour, and for `labels` a text file with one name a line, in the order of the classes.

    Raises:
        SpecError: no such field, or a value that cannot be.
        ArtifactError: no such file, one that was changed in another way, or a field that was
            verified with the weights, which only a checkpoint can change.
    """
    for name in changes:
        if name not in SETTABLE:
            near = did_you_mean(name, SETTABLE) or f"; there are {', '.join(SETTABLE)}"
            raise SpecError(f"--set {name}: a card has no such field to set{near}")
    if path.suffix in (OPENVINO_SUFFIX, TORCH_PROGRAM_SUFFIX) and not is_compiled(path):
        raise ArtifactError(
            f"{str(path)!r} is for other programs; change the card of the file that it was made "
            "from, and export it again"
        )
    contents = read_contents(path)
    if contents.card is None:
        raise ArtifactError(f"{str(path)!r} carries no model card; use files that stdeploy wrote")
    contents.check()
    asked_again = [name for name in _INPUT if name in changes]
    if asked_again and path.suffix != CHECKPOINT_SUFFIX:
        raise ArtifactError(
            f"{', '.join(asked_again)} of {str(path)!r} was verified with its weights; set "
            f"it in the {CHECKPOINT_SUFFIX} file that it was made from, then fuse and export again"
        )
    # As they stand there: a card that cannot be used for its labels is mended by other labels.
    before = _fields(contents.card, path)
    after = _changed(before, changes)
    card = ModelCard.parse(after, source=str(path))
    edits = tuple(_edits(before, json.loads(card.to_json()), changes))
    if not edits:
        return EditedCard(card, ())
    anew = any(edit.field.removeprefix("clip.").partition(".")[0] in _INPUT for edit in edits)
    lineage = card.lineage.model_copy(update={"edits": (*card.lineage.edits, *edits)})
    golden = _answered_anew(path, card) if anew else card.golden
    card = card.model_copy(update={"lineage": lineage, "golden": golden})
    _write_card(path, card.to_json())
    return EditedCard(card, edits, answered_anew=anew)


def _fields(card: str, path: Path) -> dict[str, Any]:
    """The fields of a card that may not be valid.

    Raises:
        ArtifactError: it is not even a table of tables.
    """
    try:
        fields = json_fields(card)
        if all(isinstance(fields[name], dict) for name in ("clip", "golden")):
            return {"lineage": {}, **fields}
    except (ValueError, LookupError, TypeError):
        pass
    raise ArtifactError(f"the card of {path.name!r} cannot be used; take a good copy")


def _changed(fields: dict[str, Any], changes: Mapping[str, str]) -> dict[str, Any]:
    """A card's fields after the changes, not validated yet."""
    clip, lineage = dict(fields["clip"]), dict(fields["lineage"])
    labels = fields.get(_LABELS)
    for name, value in changes.items():
        if name == _LABELS:
            labels = read_labels(Path(value), option="--set labels")
            try:
                check_labels(labels)
            except ValueError as error:
                raise SpecError(f"--set labels={value!r}: {error}") from None
        elif name in _LINEAGE:
            lineage[name] = value
        else:
            clip[name] = value.split(",") if name in ("mean", "std") else value
    return {**fields, "clip": clip, "lineage": lineage, _LABELS: labels}


def _edits(
    before: Mapping[str, Any], after: Mapping[str, Any], changes: Mapping[str, str]
) -> list[Edit]:
    """What differs among the fields that were asked for; of labels each by itself."""
    found = []
    for name in changes:
        if name == _LABELS:
            old = before.get(_LABELS)
            named = old if isinstance(old, list) else []
            pairs = [
                (f"{_LABELS}.{number}", named[number] if number < len(named) else None, label)
                for number, label in enumerate(after[_LABELS])
            ]
        else:
            table = "lineage" if name in _LINEAGE else "clip"
            pairs = [(f"{table}.{name}", before[table].get(name), after[table][name])]
        found += [
            Edit(field=field, old=_as_json(old), new=_as_json(new))
            for field, old, new in pairs
            if old != new
        ]
    return found


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _answered_anew(path: Path, card: ModelCard) -> GoldenClip:
    """What a checkpoint says to its golden clip with another card.

    Raises:
        ArtifactError: with its own card it answers otherwise than it says.
    """
    from stdeploy.artifacts.golden import check_golden, golden_clip
    from stdeploy.artifacts.parity import RUNTIME_TOLERANCE
    from stdeploy.models.checkpoint import load_model
    from stdeploy.models.frames_to_logits import golden_of, logits_of

    model, old = load_model(path)
    # Otherwise a damaged network of a file without a digest would be declared a good one.
    frames = golden_clip(old.golden.seed, old.clip.frames_shape)[None]
    check_golden(
        old.golden.logits,
        logits_of(model, old.clip, frames)[0],
        magnitude=old.golden.magnitude,
        tolerance=RUNTIME_TOLERANCE["fp32"],
        source=f"{path.name!r} on torch",
    )
    return golden_of(model, card.clip, old.golden.seed)


def _write_card(path: Path, card: str) -> None:
    """Put another card in a file, with its content digest, whole or not at all."""
    if path.suffix == ONNX_SUFFIX:
        with whole_file(path) as temporary:
            OnnxFile.read(path).with_card(card).write(temporary)
    elif is_compiled(path):
        write_sidecar_fields(path, {**sidecar_fields(path), "card": json.loads(card)})
    elif path.suffix == CHECKPOINT_SUFFIX:
        from stdeploy.models.checkpoint import write_tensors

        content = read_checkpoint(path)
        digest = content_sha256((card_part(card), *torch_parts(content["state_dict"])))
        with whole_file(path) as temporary:
            write_tensors({**content, "card": card, DIGEST_FIELD: digest}, temporary)
    else:
        from safetensors import safe_open
        from safetensors.numpy import load_file, save

        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
        digest = content_sha256((card_part(card), *safetensors_parts(path)))
        written = save(load_file(path), {**metadata, CARD_KEY: card, DIGEST_KEY: digest})
        with whole_file(path) as temporary:
            temporary.write_bytes(written)
