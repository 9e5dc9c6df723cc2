"""A checkpoint of another project to one of ours: recognised, loaded, compared, written."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stdeploy.artifacts.card import Lineage, ModelCard, ParityRow
from stdeploy.artifacts.contents import foreign_tensors, read_contents, torch_content
from stdeploy.artifacts.files import StrPath, as_path, checked_output, existing, sha256_of
from stdeploy.artifacts.label_files import check_classes
from stdeploy.artifacts.parity import relative_error
from stdeploy.artifacts.spec import ClipSpec
from stdeploy.artifacts.values import printable, what_is_allowed
from stdeploy.errors import ArtifactError, ParityError, SpecError, did_you_mean
from stdeploy.importing.clip_description import OwnerAnswer
from stdeploy.importing.comparison import KNOWN_NORMALISATIONS
from stdeploy.importing.families import FAMILIES
from stdeploy.importing.family import Family, Found
from stdeploy.importing.source_weights import MismatchError, SourceWeights
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.models.frames_to_logits import golden_of, logits_of
from stdeploy.models.registry import build

# What stands before all names: of processes in parallel, of torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
OWNER_TOLERANCE = 1e-4  # relative to the largest of the owner's logits
_FEW = 3  # names that a message shows


@dataclasses.dataclass(frozen=True)
class ImportedCheckpoint:
    """What an import wrote.

    Attributes:
        path: the .pt file.
        card: in it.
        family: what the weights were taken for.
    """

    path: Path
    card: ModelCard
    family: Family


def import_checkpoint(
    source: StrPath,
    output: StrPath | None = None,
    *,
    labels: Sequence[str],
    family: str | None = None,
    clip: Mapping[str, object] | None = None,
    owner: OwnerAnswer | None = None,
) -> ImportedCheckpoint:
    """Import the weights of another project's network as a checkpoint, which fuse then takes.

    Args:
        source: a .pt, .pth, .pyth, .tar or .safetensors file of that project.
        output: where to write; None puts net.pt (net.imported.pt where that is the source) there.
        labels: names of the classes, in the order of the logits.
        family: what the weights are, such as "ibm/i3d-resnet"; None recognises it.
        clip: fields of the clip in place of those that the project is known for.
        owner: to compare with.

    Raises:
        ArtifactError: the file holds no weights, or of no network that is known.
        SpecError: several networks that are known have such weights, or a wrong argument.
        ParityError: the owner's program gives other logits; nothing is written.
    """
    source = existing(as_path(source, "a checkpoint"))
    path = _output_beside(source) if output is None else as_path(output, "an output")
    if output is None and path.exists():
        _check_ours(path)
    path = checked_output(path, ".pt", source=source)
    check_classes(labels, source="labels")
    tensors = read_weights(source)
    taken, found = recognise(tensors, source=str(source), family=family)
    if len(labels) != found.spec.num_classes:
        raise SpecError(
            f"{len(labels)} labels for a network of {found.spec.num_classes} classes; one name for "
            "each is wanted"
        )
    model = _built(found, source)
    seen = ClipSpec.parse({**taken.clip.model_dump(), **(clip or {})}, source="clip")
    parity = (_compared(model, seen, owner, source),) if owner else ()
    against = "the owner's logits" if owner else "itself only"
    card = ModelCard(
        model=found.spec,
        clip=seen,
        labels=tuple(labels),
        golden=golden_of(model, seen),
        parity=parity,
        lineage=Lineage(
            origin=f"{taken.name} of {taken.source}; assumed: {taken.assumed}; compared with "
            f"{against}",
            parent=source.name,
            parent_sha256=sha256_of(source),
            versions={**Lineage().versions, "torch": torch.__version__},
        ),
    )
    save_checkpoint(path, model, card)
    return ImportedCheckpoint(path, card, taken)


def recognise(
    tensors: Mapping[str, Tensor], *, source: str, family: str | None = None
) -> tuple[Family, Found]:
    """What weights are, by their names and shapes.

    Args:
        tensors: by the names in the file.
        source: the file, for errors.
        family: what they are, where it is known.

    Raises:
        ArtifactError: no network that is known has such weights, or not the named one.
        SpecError: an unknown name, or several networks have such weights.
    """
    if family is not None and family not in FAMILIES:
        near = did_you_mean(family, FAMILIES) or f"; there are {', '.join(FAMILIES)}"
        raise SpecError(f"--as {family!r} is not known{near}")
    candidates = [FAMILIES[family]] if family else list(FAMILIES.values())
    fitting: list[tuple[Family, Found]] = []
    reasons: dict[str, str] = {}
    for candidate in candidates:
        weights = SourceWeights(tensors)
        try:
            found = candidate.read(weights)
            _check_all_taken(weights)
            _check_shapes(found)
        except MismatchError as error:
            reasons[candidate.name] = str(error)
        except ValidationError as error:  # sizes that no network has, such as filters of 2 frames
            reasons[candidate.name] = what_is_allowed(error.errors()[0])
        else:
            fitting.append((candidate, found))
    if len(fitting) > 1:
        names = " or ".join(each.name for each, _ in fitting)
        ways = "; ".join(f"{each.name}: {each.assumed}" for each, _ in fitting)
        raise SpecError(
            f"the weights of {source!r} have the names and shapes of several networks, which "
            f"answer differently ({ways}); say which: --as {names}"
        )
    if fitting and not family and fitting[0][0].twins:
        (only, _) = fitting[0]
        raise SpecError(
            f"the weights of {source!r} have the names and shapes of {only.name}, and also of "
            f"{only.twins}, which cannot be imported as weights; if they are the former: --as "
            f"{only.name}"
        )
    if fitting:
        return fitting[0]
    if family:
        raise ArtifactError(f"{source!r} is no {family}: {printable(reasons[family])}")
    first = ", ".join(repr(printable(name)) for name in list(tensors)[:_FEW])
    raise ArtifactError(
        f"{source!r} holds {len(tensors)} tensors ({first}, ...) of no network that is known; "
        "--as NAME says why it is not that one, and any network can be imported as ONNX"
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file of another program, without running code from it.

    Raises:
        ArtifactError: the file is damaged, or holds no weights.
    """
    if path.suffix == ".safetensors":
        ours = read_contents(path).card is not None
        try:
            content: object = load_file(path)
        except SafetensorError as error:
            raise ArtifactError(f"{str(path)!r} is damaged: {error}") from error
    else:
        content = torch_content(path)
        ours = isinstance(content, dict) and isinstance(content.get("card"), str)
    if ours:
        verbs = "export" if path.suffix == ".safetensors" else "fuse or train"
        raise ArtifactError(_already_ours(path, verbs))
    tensors = foreign_tensors(content, path)
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _already_ours(path: Path, goes_on: str) -> str:
    return (
        f"{str(path)!r} is an artifact of stdeploy already, and needs no import: stdeploy card "
        f"{shlex.quote(str(path))} shows what it is, and stdeploy {goes_on} takes it"
    )


def _output_beside(source: Path) -> Path:
    name = source.name.removesuffix(".tar")
    output = source.with_name(name).with_suffix(".pt")
    return output.with_suffix(".imported.pt") if output == source else output


def _check_ours(path: Path) -> None:
    """Refuse to write over what nobody named and another program wrote.

    Raises:
        ArtifactError: it is no checkpoint of ours.
    """
    try:
        read_contents(path)
    except ArtifactError as error:
        raise ArtifactError(
            f"{str(path)!r} exists, and stdeploy did not write it; name another output: -o NET.pt"
        ) from error


def _check_all_taken(weights: SourceWeights) -> None:
    left = weights.left()
    if left:
        shown = ", ".join(left[:_FEW]) + (", ..." if len(left) > _FEW else "")
        raise MismatchError(f"{len(left)} tensors would be left over: {shown}")


def _check_shapes(found: Found) -> None:
    """Refuse tensors that are not those of the network, before it is built in full."""
    with torch.device("meta"):
        wanted = build(found.spec).state_dict()
    for name, tensor in wanted.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in found.tensors:
            raise MismatchError(f"nothing is there for {name}")
        if found.tensors[name].shape != tensor.shape:
            raise MismatchError(
                f"{name} would have shape {tuple(found.tensors[name].shape)}, not "
                f"{tuple(tensor.shape)}"
            )
    for name in found.tensors:
        if name not in wanted:
            raise MismatchError(f"the network has no {name}")


def _built(found: Found, source: Path) -> ActionModel:
    model = build(found.spec)
    model.load_state_dict(found.tensors, strict=False)  # counters are not there; see _check_shapes
    if not all(torch.isfinite(tensor).all() for tensor in found.tensors.values()):
        raise ArtifactError(f"{str(source)!r} holds weights that are not finite")
    return model.eval()


def _compared(model: ActionModel, clip: ClipSpec, owner: OwnerAnswer, source: Path) -> ParityRow:
    """The owner's logits beside ours.

    Raises:
        SpecError: a clip or logits of another shape.
        ParityError: they differ.
    """
    owner = owner.checked(clip, model.spec.num_classes, source="owner")
    answer = logits_of(model, clip, owner.frames[None])[0]
    error = relative_error(owner.logits, answer)
    if not error <= OWNER_TOLERANCE:
        raise ParityError(
            f"{source.name!r} gives other logits than its owner's: relative error {error:.1e}, "
            f"{OWNER_TOLERANCE:.0e} is allowed; nothing was written. "
            + _what_is_right(model, clip, owner)
        )
    return ParityRow(
        check="the owner's clip",
        precision="fp32",
        error=error,
        tolerance=OWNER_TOLERANCE,
        detail="against the owner's logits",
    )


def _what_is_right(model: ActionModel, clip: ClipSpec, owner: OwnerAnswer) -> str:
    """What gives the owner's answer instead, in a sentence."""

    def fits(other: ClipSpec, frames: NDArray[np.uint8]) -> bool:
        answer = logits_of(model, other, np.ascontiguousarray(frames)[None])[0]
        return relative_error(owner.logits, answer) <= OWNER_TOLERANCE

    if fits(clip, owner.frames[..., ::-1]):
        return (
            "With the clip as BGR they agree: save the clip in RGB; where the network itself takes "
            'BGR, import its .onnx file with colour_order = "BGR"'
        )
    for name, (mean, std) in KNOWN_NORMALISATIONS.items():
        if fits(clip.model_copy(update={"mean": mean, "std": std}), owner.frames):
            texts = (",".join(f"{number:g}" for number in three) for three in (mean, std))
            return "{} would be right: --set mean={} --set std={}".format(name, *texts)
    return "Another --as, mean, std or order of colours may be right"
