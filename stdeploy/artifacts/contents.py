"""What an artifact of each kind holds: its card, its content digest, and what that covers.

A checkpoint (.pt) has its card under the key "card", a .safetensors file in the metadata of its
header and an .onnx file in metadata_props, there under CARD_KEY; always as JSON. Compiled
code, an .engine or .aot.pt2 file, has it in the file beside it (sidecar.py). The digest stands
beside the card. Files for other programs (.xml, .pt2) have a card and no digest, because nothing
here runs them. Files of others are read here, too: nothing is believed, and nothing large is made
of little.
"""

import dataclasses
import functools
import html
import json
import logging
import re
import shlex
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stdeploy.artifacts.digest import (
    CARD_KEY,
    DIGEST_FIELD,
    DIGEST_KEY,
    OnnxFile,
    Part,
    card_part,
    content_sha256,
    safetensors_parts,
    sidecar_part,
    torch_parts,
)
from stdeploy.artifacts.files import (
    AOT_SUFFIX,
    CHECKPOINT_SUFFIX,
    ENGINE_SUFFIX,
    OPENVINO_SUFFIX,
    TORCH_PROGRAM_SUFFIX,
    existing,
    sidecar_path,
)
from stdeploy.artifacts.values import parsed, printable
from stdeploy.errors import ArtifactError
from stdeploy.optional_packages import require

_log = logging.getLogger(__name__)

_MAX_CARD_CHARACTERS = 64 << 20
_MADE_BY = {ENGINE_SUFFIX: "ckpt.onnx --trt", ".pt2": "ckpt.fused.safetensors --aot"}
# Where the card lies in a .pt2 file, which is a zip file; torch puts a folder before it.
TORCH_PROGRAM_CARD = "stdeploy.card.json"
_XML_CARD = re.compile(r'<stdeploy>\s*<card value="([^"]*)"')
# Under which names training programs keep the weights in their files.
_KEPT_UNDER = ("state_dict", "model_state_dict", "model_state", "model")
_MOST_NESTED = 4  # one in another; a file may hold a table that holds itself


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        path: the file.
        card: its card, as it is written there; None where there is none.
        digest: its content digest, likewise.
        parts: gives what the digest covers.
    """

    path: Path
    card: str | None
    digest: str | None
    parts: Callable[[], Iterable[Part]]

    def check(self) -> None:
        """Compare the file with its digest; a line says where it has none.

        Raises:
            ArtifactError: it holds something else than was written.
        """
        if self.path.suffix in (OPENVINO_SUFFIX, TORCH_PROGRAM_SUFFIX):
            return  # nothing here runs them
        if self.digest is None:
            _note_no_digest(self.path)
            return
        found = content_sha256(self.parts())
        if found != self.digest:
            way_out = "labels, fps, views and the like are changed with: stdeploy card FILE --set"
            if self.path.suffix == CHECKPOINT_SUFFIX:
                way_out += (
                    ". A program that averages or rounds its weights has to save it without "
                    f"{DIGEST_FIELD!r}"
                )
            raise ArtifactError(
                f"{str(self.path)!r} is not as it was written: its content digest is "
                f"{found[:12]}..., expected {self.digest[:12]!r}...; it is damaged, or was changed "
                f"by hand or by another program. Take a good copy or make it again; {way_out}"
            )


def read_contents(path: Path) -> Contents:
    """What a file of any kind holds; nothing is compared yet.

    Args:
        path: a .pt, .safetensors, .onnx, .engine or .aot.pt2 file, of ours or, but for .pt, of
            others; or a file of ours for other programs, .xml or .pt2.

    Raises:
        ArtifactError: no such file, of no such kind, or damaged.
        MissingExtraError: a .pt file, and torch is not installed.
    """
    readers = {
        ".pt": _of_checkpoint,
        ".safetensors": _of_safetensors,
        ".onnx": _of_onnx,
        ENGINE_SUFFIX: _of_sidecar,
        AOT_SUFFIX: _of_sidecar,
        OPENVINO_SUFFIX: _of_openvino,
        TORCH_PROGRAM_SUFFIX: _of_torch_program,
    }
    # The longest first: .aot.pt2 ends in .pt2, too.
    kinds = sorted(readers, key=len, reverse=True)
    kind = next((suffix for suffix in kinds if path.name.endswith(suffix)), None)
    if kind is None:
        raise ArtifactError(
            f"{str(path)!r} is no artifact of stdeploy; those end in {', '.join(readers)}"
        )
    return readers[kind](existing(path))


def check_if_ours(path: Path) -> None:
    """Compare a .safetensors or .onnx file with its content digest, if it carries a card.

    Raises:
        ArtifactError: it holds something else than was written, or cannot be read.
    """
    contents = read_contents(path)
    if contents.card is not None:
        contents.check()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a .pt file, {"card": JSON, "state_dict": tensors}, without running code from it.

    Raises:
        ArtifactError: it is no checkpoint of stdeploy, or was changed since it was written.
        MissingExtraError: torch is not installed.
    """
    fields = _checkpoint_fields(path)
    _contents_of_fields(path, fields).check()
    return fields


def sidecar_fields(compiled: Path) -> dict[str, Any]:
    """The fields of the file beside compiled code, as they stand there.

    Raises:
        ArtifactError: it cannot be read.
    """
    sidecar = sidecar_path(compiled)
    try:
        fields: dict[str, Any] = json_fields(sidecar.read_text(encoding="utf-8"))
        if not isinstance(fields["card"], dict):
            raise TypeError
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            f"{str(compiled)!r} needs {sidecar.name!r} beside it, which cannot be read; copy both "
            f"files, or build it again: stdeploy export {_MADE_BY[compiled.suffix]}"
        ) from error
    return fields


def json_fields(text: str) -> Any:
    """What a text of JSON holds, which may come from anyone.

    Raises:
        ValueError: it is no JSON, or longer or deeper than any card.
    """
    if len(text) > _MAX_CARD_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {_MAX_CARD_CHARACTERS} are allowed")
    return parsed(json.loads, text)


def _of_checkpoint(path: Path) -> Contents:
    return _contents_of_fields(path, _checkpoint_fields(path))


def _contents_of_fields(path: Path, fields: Mapping[str, Any]) -> Contents:
    def parts() -> Iterable[Part]:
        return (card_part(fields["card"]), *torch_parts(fields["state_dict"]))

    return Contents(path, fields["card"], fields.get(DIGEST_FIELD), parts)


def _checkpoint_fields(path: Path) -> dict[str, Any]:
    content = torch_content(existing(path))
    fields: dict[str, Any] = content if isinstance(content, dict) else {}
    if (
        not isinstance(fields.get("card"), str)
        or not isinstance(fields.get("state_dict"), dict)
        or not isinstance(fields.get(DIGEST_FIELD), str | None)
    ):
        raise ArtifactError(
            f"{str(path)!r} is no checkpoint of stdeploy: it lacks 'card' or 'state_dict'; weights "
            f"of another project: stdeploy import {shlex.quote(str(path))}"
        )
    _check_numbers(fields["state_dict"], path)
    return fields


def torch_content(path: Path, *, extra: str = "train") -> Any:
    """What anyone has put into a file with torch.save, without running code from it.

    Args:
        path: of the file.
        extra: what brings torch, for the error.

    Raises:
        ArtifactError: it is damaged, or holds more than tensors and plain values.
        MissingExtraError: torch is not installed.
    """
    torch = require("torch", extra=extra, purpose=f"reading {path.name!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how to run the code in other files
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything, AssertionError included
        raise ArtifactError(
            f"{str(path)!r} cannot be read as a checkpoint: it is damaged, or holds objects beside "
            "tensors, which would run code; where another program made it, save the state_dict "
            "alone: torch.save(model.state_dict(), 'weights.pth')"
        ) from error


def foreign_tensors(content: object, path: Path) -> dict[str, Any]:
    """The tensors of a plain state_dict, or of one that lies in a checkpoint of a trainer.

    Args:
        content: of the file.
        path: of the file, whose size bounds what a tensor may have.

    Raises:
        ArtifactError: there are none, or one holds more numbers than the file.
    """
    fields = content if isinstance(content, dict) else {}
    for _ in range(_MOST_NESTED):
        nested = (fields[name] for name in _KEPT_UNDER if isinstance(fields.get(name), dict))
        fields = next(nested, fields)
    tensors = {
        name: value
        for name, value in fields.items()
        if isinstance(name, str) and hasattr(value, "is_meta")
    }
    if not tensors:
        raise ArtifactError(
            f"{str(path)!r} holds no weights; a state_dict is wanted, alone or under "
            f"{', '.join(map(repr, _KEPT_UNDER))}"
        )
    _check_numbers(tensors, path)
    return tensors


def _check_numbers(tensors: Mapping[Any, Any], path: Path) -> None:
    """Refuse what is no tensor with numbers of its own in the file.

    A tensor may name a few bytes as many times as it likes: copied, it takes all memory.

    Raises:
        ArtifactError: one is not.
    """
    torch = require("torch", extra="train", purpose=f"reading {path.name!r}")
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if (
            not isinstance(name, str)
            or not isinstance(tensor, torch.Tensor)
            or tensor.layout != torch.strided
            or tensor.is_meta
            or tensor.is_quantized
            or tensor.numel() * tensor.element_size() > size
        ):
            raise ArtifactError(
                f"{str(path)!r} holds {printable(str(name)[:80])!r}, which is no tensor with "
                "numbers of its own"
            )


def _of_safetensors(path: Path) -> Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{str(path)!r} is no safetensors file: {error}") from error
    card = metadata.get(CARD_KEY)

    def parts() -> Iterable[Part]:
        return (card_part(card or ""), *safetensors_parts(path))

    return Contents(path, card, metadata.get(DIGEST_KEY), parts)


def _of_onnx(path: Path) -> Contents:
    file = OnnxFile.read(path)
    return Contents(path, file.metadata.get(CARD_KEY), file.metadata.get(DIGEST_KEY), file.parts)


def _of_sidecar(path: Path) -> Contents:
    fields = sidecar_fields(path)
    digest = fields.get(DIGEST_FIELD)
    return Contents(
        sidecar_path(path),
        json.dumps(fields["card"]),
        digest if digest is None else str(digest),
        lambda: [sidecar_part(fields)],
    )


def _of_openvino(path: Path) -> Contents:
    """The card in an .xml file of OpenVINO, which other programs open: there is no digest."""
    if path.stat().st_size > _MAX_CARD_CHARACTERS:
        raise ArtifactError(f"{str(path)!r} is larger than any file of OpenVINO's that we write")
    found = _XML_CARD.search(path.read_text(encoding="utf-8", errors="replace"))
    return Contents(path, found and html.unescape(found[1]), None, lambda: ())


def _of_torch_program(path: Path) -> Contents:
    """The card in a .pt2 file, likewise.

    NOTE: torch evaluates expressions that stand in such a file, so it is not loaded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                each for each in archive.infolist() if each.filename.endswith(TORCH_PROGRAM_CARD)
            ]
            if any(each.file_size > _MAX_CARD_CHARACTERS for each in names):
                raise ArtifactError(f"{str(path)!r} has a card that is longer than any of ours")
            card = archive.read(names[0]).decode() if names else None
    except ArtifactError:
        raise
    except Exception as error:  # zipfile raises what its decompressors do
        raise ArtifactError(f"{str(path)!r} is no program of torch.export: {error}") from error
    return Contents(path, card, None, lambda: ())


@functools.cache  # once a file: several steps of one command read its card
def _note_no_digest(path: Path) -> None:
    _log.warning(
        "%r carries no content digest, so damage that its golden clip does not show goes unseen; "
        "files that stdeploy writes now have one",
        path.name,
    )
