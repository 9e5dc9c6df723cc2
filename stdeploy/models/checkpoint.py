"""Networks in files: checkpoints (.pt) of training, and fused weights (.safetensors)."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stdeploy.card import ModelCard, read_card
from stdeploy.contents import read_checkpoint
from stdeploy.digest import (
    CARD_KEY,
    DIGEST_FIELD,
    DIGEST_KEY,
    card_part,
    content_sha256,
    torch_parts,
)
from stdeploy.errors import ArtifactError
from stdeploy.files import whole_file
from stdeploy.models.base import ActionModel
from stdeploy.models.registry import build


def save_checkpoint(path: Path, model: ActionModel, card: ModelCard) -> None:
    """Write a trained network with its card.

    Args:
        path: a name that ends in .pt.
        model: any network built from card.model.
        card: goes under the key "card", as JSON.
    """
    text, tensors = card.to_json(), model.state_dict()
    digest = content_sha256((card_part(text), *torch_parts(tensors)))
    with whole_file(path) as temporary:
        write_tensors({"card": text, DIGEST_FIELD: digest, "state_dict": tensors}, temporary)


def write_tensors(content: object, path: Path) -> None:
    """torch.save, with a full disk reported as what it is.

    Raises:
        ArtifactError: the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as a RuntimeError about positions in its archive.
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else "is the disk full?"
        raise ArtifactError(
            f"cannot write in {str(path.parent)!r}: {reason}; free some space"
        ) from error


def save_fused(path: Path, model: ActionModel, card: ModelCard) -> None:
    """Write a fused network with its card.

    Args:
        path: a name that ends in .safetensors.
        model: built from card.model, with fused = True.
        card: goes into the header's metadata.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    text = card.to_json()
    digest = content_sha256((card_part(text), *torch_parts(tensors)))
    metadata = {CARD_KEY: text, DIGEST_KEY: digest, "format": "pt"}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_model(path: Path) -> tuple[ActionModel, ModelCard]:
    """Read a network of either kind, in evaluation mode, float32, on the CPU.

    Args:
        path: a .pt or .safetensors file.

    Raises:
        ArtifactError: not such a file, or its weights do not fit its card.
    """
    if path.suffix == ".pt":
        content = read_checkpoint(path)
        card = ModelCard.from_json(content["card"], source=path.name)
        tensors = content["state_dict"]
    elif path.suffix == ".safetensors":
        card = read_card(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ArtifactError(f"{str(path)!r} is damaged: {error}") from error
    else:
        raise ArtifactError(
            f"{str(path)!r} holds no weights for torch; give a .pt or .fused.safetensors file"
        )
    model = build(card.model)
    try:
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"the weights of {str(path)!r} do not fit its card: {reason}"
        ) from error
    return model.eval(), card
